"""The drawn views of training as the papers make them: one image at a time, each number in the published order.

Draws are made in the order in which torchvision's first transforms make them, from an explicit generator: seeded
alike, the published code and this module give the same numbers. Erasing happens after normalisation, as in IRRA and
its descendants, so its fill is a value of normalised space and not the mean colour. A view that is cut from the
whole image stays a PIL image until it is cut, shaken and blurred, since the published code rounds to bytes between
these steps. `batched.py` makes the same views for whole batches from the same declarations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from tbps_cli.augment import one_pass, ops
from tbps_cli.augment.one_pass import Pixels, Window
from tbps_cli.augment.rng import Draws
from tbps_cli.augment.transform import CLIP_MEAN, CLIP_STD, IMAGENET_EVAL, Resample, Triple, resized

Range = tuple[float, float]
Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

ATTEMPTS = 10
"""How often a rectangle is drawn before the transform gives up, as in torchvision."""


class AugmentStep(Protocol):
    """One step of an augmentation, on float32 [1, 3, H, W] values. It may write into the tensor that it is given."""

    @property
    def after_normalise(self) -> bool: ...

    @property
    def moves_only(self) -> bool:
        """Whether it only moves values about, so that it may work on bytes (a quarter of the memory)."""
        ...

    def __call__(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor: ...


# IRRA and its descendants -----------------------------------------------------------------------


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability p."""

    p: float = 0.5
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = True

    def __call__(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        return ops.flip(pixel_BCHW) if self.drawn(draws) else pixel_BCHW

    def drawn(self, draws: Draws) -> bool:
        """Whether it happens."""
        return draws.share() < self.p


@dataclass(frozen=True)
class PadCrop:
    """Pad with black on all sides, then cut the old size out at a random place."""

    padding: int = 10
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = True

    def __call__(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        return ops.shift(pixel_BCHW, *self.drawn(draws)) if self.padding else pixel_BCHW

    def drawn(self, draws: Draws) -> tuple[int, int]:
        """How far down and to the right the window begins."""
        if not self.padding:
            return 0, 0
        down, right = (draws.whole(2 * self.padding + 1) - self.padding for _ in range(2))
        return down, right


@dataclass(frozen=True)
class Erase:
    """Overwrite one random rectangle with probability p; ten attempts to find one that fits.

    area: share of the image, from..to. ratio: height over width, from..to, uniform in the log.
    value: fill per channel, in the space where the step stands.
    """

    p: float = 0.5
    area: Range = (0.02, 0.4)
    ratio: Range = (0.3, 3.3)
    value: Triple = CLIP_MEAN
    after_normalise: bool = True
    moves_only: ClassVar[bool] = False

    def __call__(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        if draws.share() >= self.p:
            return pixel_BCHW
        height, width = pixel_BCHW.shape[-2:]
        sides = _draw_sides(
            draws, height * width, self.area, self.ratio, lambda rows, columns: rows < height and columns < width
        )
        if sides is None:
            return pixel_BCHW
        rows, columns = sides
        top, left = draws.whole(height - rows + 1), draws.whole(width - columns + 1)
        return ops.erase_(pixel_BCHW, top, left, rows, columns, _of_channels(self.value))


def _draw_sides(
    draws: Draws, pixels: int, area: Range, ratio: Range, fits: Callable[[int, int], bool]
) -> tuple[int, int] | None:
    """Both sides of a rectangle of a drawn area and ratio (first over second); None when none of ten fits."""
    for _ in range(ATTEMPTS):
        covered = pixels * draws.uniform(*area)
        shape = draws.ratio(*ratio)
        first, second = round(math.sqrt(covered * shape)), round(math.sqrt(covered / shape))
        if fits(first, second):
            return first, second
    return None


# TBPS-CLIP --------------------------------------------------------------------------------------


def crop_ratio(size: tuple[int, int]) -> Range:
    """Width over height of a resized crop, from..to, for images of `size` (height, width).

    3/4..4/3 for a square, as published. Tall images keep their shape: with the published numbers no
    crop of theirs fits, and the fallback would always cut the same square and stretch it.
    """
    shape = size[1] / size[0]
    return 3 / 4 * shape, 4 / 3 * shape


def crop_box(height: int, width: int, draws: Draws, scale: Range, ratio: Range) -> Box:
    """A rectangle of a drawn area and width-to-height ratio; the largest central one after ten failures."""
    sides = _draw_sides(
        draws, height * width, scale, ratio, lambda columns, rows: 0 < columns <= width and 0 < rows <= height
    )
    if sides is None:
        return largest_box(height, width, ratio)
    columns, rows = sides
    return draws.whole(height - rows + 1), draws.whole(width - columns + 1), rows, columns


def largest_box(height: int, width: int, ratio: Range) -> Box:
    """The largest central rectangle whose width-to-height ratio is within `ratio`."""
    shape = min(max(width / height, ratio[0]), ratio[1])
    columns, rows = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True)
class PoolOfTwo:
    """TBPS-CLIP's pool: two of its six operations, drawn with replacement, in the order drawn.

    Colour jitter (0.1, no hue), rotation up to 15 degrees, resized crop of 0.9..1, grey with p 0.1,
    flip with p 0.5, erasing of 0.1..0.2 with p 0.5 in black. Source: arXiv 2308.10045 and its code.
    """

    count: int = 2
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = False
    jitter: ClassVar[float] = 0.1
    degrees: ClassVar[float] = 15.0
    scale: ClassVar[Range] = (0.9, 1.0)
    grey_p: ClassVar[float] = 0.1
    flip: ClassVar[Flip] = Flip(0.5)
    erase: ClassVar[Erase] = Erase(0.5, (0.10, 0.20), (0.3, 3.3), value=(0.0, 0.0, 0.0), after_normalise=False)
    kinds: ClassVar[int] = 6

    def __call__(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        operations: tuple[Callable[[Tensor, Draws], Tensor], ...] = (
            self._jittered,
            self._rotated,
            self._cropped,
            self._grey,
            self.flip,
            self.erase,
        )
        for chosen in [draws.whole(self.kinds) for _ in range(self.count)]:
            pixel_BCHW = operations[chosen](pixel_BCHW, draws)
        return pixel_BCHW

    def _jittered(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        order = draws.order(4)
        factors = [draws.uniform(1 - self.jitter, 1 + self.jitter) for _ in range(3)]
        for chosen in order:
            if chosen < 3:  # the fourth is hue, which the pool leaves alone
                pixel_BCHW = (ops.brightness, ops.contrast, ops.saturation)[chosen](pixel_BCHW, factors[chosen])
        return pixel_BCHW

    def _rotated(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        return ops.rotate(pixel_BCHW, draws.uniform(-self.degrees, self.degrees))

    def _cropped(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        height, width = pixel_BCHW.shape[-2:]
        return ops.resized_crop(pixel_BCHW, *crop_box(height, width, draws, self.scale, crop_ratio((height, width))))

    def _grey(self, pixel_BCHW: Tensor, draws: Draws) -> Tensor:
        return ops.grey(pixel_BCHW) if draws.share() < self.grey_p else pixel_BCHW


@dataclass(frozen=True)
class SimClr:
    """A self-supervised view, cut from the image as it was read, before any other resize.

    Resized crop of 0.2..1, colour jitter (0.4, 0.4, 0.4, hue 0.1) with p 0.8, grey with p 0.2, blur of
    radius 0.1..2 with p 0.5; the flip follows as a step of its own. Source: TBPS-CLIP's code.
    """

    scale: Range = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: ClassVar[float] = 0.8
    grey_p: ClassVar[float] = 0.2
    blur_p: ClassVar[float] = 0.5
    blur: ClassVar[Range] = (0.1, 2.0)

    def __call__(self, image: Image.Image, size: tuple[int, int], draws: Draws) -> Image.Image:
        top, left, rows, columns = crop_box(image.height, image.width, draws, self.scale, crop_ratio(size))
        view = image.crop((left, top, left + columns, top + rows))
        view = view.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        if draws.share() <= self.jitter_p:
            view = self._jittered(view, draws)
        if draws.share() < self.grey_p:
            view = view.convert("L").convert("RGB")
        if draws.share() <= self.blur_p:
            view = view.filter(ImageFilter.GaussianBlur(draws.python.uniform(*self.blur)))
        return view

    def _jittered(self, view: Image.Image, draws: Draws) -> Image.Image:
        order = draws.order(4)
        light, tone, colour = (draws.uniform(1 - width, 1 + width) for width in self.jitter[:3])
        turn = draws.uniform(-self.jitter[3], self.jitter[3])
        changes: list[Callable[[Image.Image], Image.Image]] = [
            lambda image: ImageEnhance.Brightness(image).enhance(light),
            lambda image: ImageEnhance.Contrast(image).enhance(tone),
            lambda image: ImageEnhance.Color(image).enhance(colour),
            lambda image: shift_hue(image, turn),
        ]
        for chosen in order:
            view = changes[chosen](view)
        return view


def shift_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the whole circle (-0.5..0.5), in the 256 steps of PIL's HSV, as published."""
    hue, rest, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + int(turn * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), rest, value)).convert("RGB")


# A view -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augment:
    """How training sees an image: an optional view of the whole image, a resize, steps, normalising."""

    steps: tuple[AugmentStep, ...] = ()
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    resample: Resample = "bilinear"
    whole: SimClr | None = None
    """Made from the image at its own size instead of the resize."""


CLIP_TRAIN = Augment((Flip(0.5), PadCrop(10), Erase(0.5, (0.02, 0.4), (0.3, 3.3), value=CLIP_MEAN)))
IMAGENET_TRAIN = Augment(
    (Flip(0.5), PadCrop(10), Erase(0.5, (0.02, 0.4), (0.3, 3.3), value=IMAGENET_EVAL["mean"])),
    IMAGENET_EVAL["mean"],
    IMAGENET_EVAL["std"],
)
"""The same on the numbers of ImageNet's classifiers."""
PLAIN_TRAIN = Augment((Flip(0.5),))
POOL_TRAIN = Augment((PoolOfTwo(),), IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"])
SIMCLR_TRAIN = Augment((Flip(0.5),), IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"], whole=SimClr())


def augment(
    image: Image.Image | Pixels,
    size: tuple[int, int],
    how: Augment,
    draws: Draws,
    out: Tensor | None = None,
    *,
    compiled: bool = True,
) -> Tensor:
    """RGB image -> float32 [3, H, W]: resized, drawn steps applied, normalised.

    image: of Pillow, or its bytes [H, W, 3]. out: where the values go, contiguous; a new tensor when left out.
    compiled: in one compiled pass where that is possible; the values are the same.
    """
    out = torch.empty(3, *size) if out is None else out
    if compiled and how.whole is None and one_pass.ready():
        _compiled(image, size, how, draws, out)
    else:
        _step_by_step(image if isinstance(image, Image.Image) else Image.fromarray(image), size, how, draws, out)
    normal_BCHW = out[None]
    for step in how.steps:
        if step.after_normalise:
            changed_BCHW = step(normal_BCHW, draws)
            if changed_BCHW is not normal_BCHW:
                normal_BCHW.copy_(changed_BCHW)
    return out


def _compiled(image: Image.Image | Pixels, size: tuple[int, int], how: Augment, draws: Draws, out: Tensor) -> None:
    """Everything up to normalising in one pass over the image, or up to the first step that needs all of it."""
    if not one_pass.fits(image.size[::-1] if isinstance(image, Image.Image) else image.shape, size):
        image = resized(image if isinstance(image, Image.Image) else Image.fromarray(image), size, how.resample)
    pixel_HWC = np.asarray(image)
    window, steps = _window([step for step in how.steps if not step.after_normalise], draws)
    if not steps:
        one_pass.resized(pixel_HWC, size, how.resample, how.mean, how.std, out, window)
        return
    one_pass.resized(pixel_HWC, size, how.resample, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), out, window)
    pixel_BCHW = out[None]
    for step in steps:
        pixel_BCHW = step(pixel_BCHW, draws)
    torch.sub(pixel_BCHW, _of_channels(how.mean), out=out[None]).div_(_of_channels(how.std))


def _window(steps: Sequence[AugmentStep], draws: Draws) -> tuple[Window, Sequence[AugmentStep]]:
    """The window that the first steps draw, and the steps after these."""
    window = one_pass.WHOLE
    if steps and type(flip := steps[0]) is Flip:
        window, steps = Window(flip.drawn(draws)), steps[1:]
    if steps and type(crop := steps[0]) is PadCrop:
        window, steps = Window(window.flipped, *crop.drawn(draws)), steps[1:]
    return window, steps


def _step_by_step(image: Image.Image, size: tuple[int, int], how: Augment, draws: Draws, out: Tensor) -> None:
    """The same with Pillow and PyTorch. Values are bytes for as long as steps allow."""
    pixel_BCHW = _bytes(how.whole(image, size, draws) if how.whole else resized(image, size, how.resample))
    for step in how.steps:
        if not step.after_normalise:
            pixel_BCHW = step(pixel_BCHW if step.moves_only else _unit(pixel_BCHW), draws)
    normal_BCHW, mean, std = out[None], _of_channels(how.mean), _of_channels(how.std)
    if pixel_BCHW.dtype == torch.uint8:
        torch.div(pixel_BCHW, 255, out=normal_BCHW).sub_(mean).div_(std)
    else:
        torch.sub(pixel_BCHW, mean, out=normal_BCHW).div_(std)


def _bytes(image: Image.Image) -> Tensor:
    """RGB image -> uint8 [1, 3, H, W], a view of rows that hold their reds, then greens, then blues.

    Pillow writes this order as fast as any; channels as planes would take a copy with steps of three bytes.
    """
    rows = torch.frombuffer(bytearray(image.tobytes("raw", "RGB;L")), dtype=torch.uint8)
    return rows.view(1, image.height, 3, image.width).transpose(1, 2)


@lru_cache(maxsize=16)
def _of_channels(values: Triple) -> Tensor:
    return torch.tensor(values)[:, None, None]


def _unit(pixel_BCHW: Tensor) -> Tensor:
    """Bytes -> float32 in [0, 1], a new tensor with channels as planes; float values as they are."""
    if pixel_BCHW.dtype != torch.uint8:
        return pixel_BCHW
    return pixel_BCHW.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
