"""From an image to what a tower takes: the fixed transform of evaluation and the drawn ones of training.

Written with PIL and numpy, so that a search over exported graphs needs no torch; the training steps
use torch for their draws and pixels. Draws are made in the order in which torchvision's first
transforms make them, from an explicit generator: seeded alike, the published code and this module
give the same numbers. Erasing happens after normalisation, as in IRRA and its descendants, so its
fill is a value of normalised space and not the mean colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.augment.rng import Draws as Draws  # part of this module's interface

if TYPE_CHECKING:
    from torch import Tensor

Resample = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preparation(TypedDict):
    """The numbers that follow a resize."""

    mean: Triple
    std: Triple
    resample: Resample


CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
CLIP_EVAL: Preparation = {"mean": CLIP_MEAN, "std": CLIP_STD, "resample": "bilinear"}
IMAGENET_EVAL: Preparation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "resample": "bicubic"}


@dataclass(frozen=True)
class EvalTransform:
    """Resize to exactly `size` (height, width), to [0, 1], normalise. The aspect ratio is not kept."""

    size: tuple[int, int]
    mean: Triple
    std: Triple
    resample: Resample

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """RGB image -> float32 [3, H, W]."""
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """RGB image -> uint8 [H, W, 3], the form that a pre-decoded store keeps."""
        return np.asarray(resized(image, self.size, self.resample))

    def normalise(self, pixel_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [H, W, 3] of the right size -> float32 [3, H, W]."""
        values: NDArray[np.float32] = pixel_HWC.astype(np.float32) / np.float32(255)
        values -= np.array(self.mean, np.float32)
        values /= np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def describe(self) -> dict[str, object]:
        """Every number, JSON-able: for fingerprints, run folders and exported metadata."""
        return {
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "resample": self.resample,
        }

    @classmethod
    def from_description(cls, words: Mapping[str, object]) -> EvalTransform:
        """The inverse of `describe`. Raises ValueError for anything else."""
        size, mean, std, resample = (words.get(key) for key in ("size", "mean", "std", "resample"))
        if not (isinstance(size, list | tuple) and isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
            raise ValueError("not the description of a transform: size, mean and std must be lists")
        if len(size) != 2 or len(mean) != 3 or len(std) != 3 or resample not in FILTERS:
            raise ValueError(f"not the description of a transform: {dict(words)}")
        height, width = (int(side) for side in size)
        kind: Resample = "bicubic" if resample == "bicubic" else "bilinear"
        return cls((height, width), _triple(mean), _triple(std), kind)


def _triple(values: list[float] | tuple[float, ...]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def resized(image: Image.Image, size: tuple[int, int], resample: Resample) -> Image.Image:
    """The image at exactly `size` (height, width), antialiased; unchanged when it has that size."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), FILTERS[resample])


class Step(Protocol):
    """One step of an augmentation, on float32 [3, H, W] values."""

    @property
    def after_normalise(self) -> bool: ...

    @property
    def moves_only(self) -> bool:
        """Whether it only moves values about, so that it may work on bytes (a quarter of the memory)."""
        ...

    def __call__(self, pixel_CHW: Tensor, draws: Draws) -> Tensor: ...


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability p."""

    p: float = 0.5
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = True

    def __call__(self, pixel_CHW: Tensor, draws: Draws) -> Tensor:
        return pixel_CHW.flip(-1) if draws.share() < self.p else pixel_CHW


@dataclass(frozen=True)
class PadCrop:
    """Pad with black on all sides, then cut the old size out at a random place."""

    padding: int = 10
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = True

    def __call__(self, pixel_CHW: Tensor, draws: Draws) -> Tensor:
        if not self.padding:
            return pixel_CHW
        import torch

        height, width = pixel_CHW.shape[-2:]
        padded = torch.nn.functional.pad(pixel_CHW, (self.padding,) * 4)
        top, left = draws.whole(2 * self.padding + 1), draws.whole(2 * self.padding + 1)
        return padded[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class Erase:
    """Overwrite one random rectangle with probability p; ten attempts to find one that fits.

    area: share of the image, from..to. ratio: height over width, from..to, uniform in the log.
    value: fill per channel, in the space where the step stands.
    """

    p: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: Triple = CLIP_MEAN
    after_normalise: bool = True
    moves_only: ClassVar[bool] = False

    def __call__(self, pixel_CHW: Tensor, draws: Draws) -> Tensor:
        if draws.share() >= self.p:
            return pixel_CHW
        height, width = pixel_CHW.shape[-2:]
        for _ in range(10):
            area = height * width * draws.uniform(*self.area)
            ratio = draws.ratio(*self.ratio)
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows < height and columns < width:
                top, left = draws.whole(height - rows + 1), draws.whole(width - columns + 1)
                return erased(pixel_CHW, top, left, rows, columns, self.value)
        return pixel_CHW


def erased(pixel_CHW: Tensor, top: int, left: int, rows: int, columns: int, value: Triple) -> Tensor:
    """A copy with one rectangle filled by one value per channel."""
    changed = pixel_CHW.clone()
    changed[:, top : top + rows, left : left + columns] = changed.new_tensor(value)[:, None, None]
    return changed


@dataclass(frozen=True)
class PoolOfTwo:
    """TBPS-CLIP's pool: two of its six operations, drawn with replacement, in the order drawn.

    Colour jitter (0.1, no hue), rotation up to 15 degrees, resized crop of 0.9..1, grey with p 0.1,
    flip with p 0.5, erasing of 0.1..0.2 with p 0.5 in black. Source: arXiv 2308.10045 and its code.
    """

    count: int = 2
    after_normalise: ClassVar[bool] = False
    moves_only: ClassVar[bool] = False

    def __call__(self, pixel_CHW: Tensor, draws: Draws) -> Tensor:
        from tbps_cli.augment import ops as operations

        for chosen in [draws.whole(len(operations.POOL)) for _ in range(self.count)]:
            pixel_CHW = operations.POOL[chosen](pixel_CHW, draws)
        return pixel_CHW


@dataclass(frozen=True)
class SimClr:
    """A self-supervised view, cut from the image as it was read, before any other resize.

    Resized crop of 0.2..1, colour jitter (0.4, 0.4, 0.4, hue 0.1) with p 0.8, grey with p 0.2, blur of
    radius 0.1..2 with p 0.5; the flip follows as a step of its own. Source: TBPS-CLIP's code.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)

    def __call__(self, image: Image.Image, size: tuple[int, int], draws: Draws) -> Image.Image:
        from tbps_cli.augment import ops as operations

        return operations.simclr_view(image, size, draws, scale=self.scale, jitter=self.jitter)


@dataclass(frozen=True)
class Augment:
    """How training sees an image: an optional view of the whole image, a resize, steps, normalising."""

    steps: tuple[Step, ...] = ()
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD
    resample: Resample = "bilinear"
    whole: SimClr | None = None
    """Made from the image at its own size instead of the resize."""


CLIP_TRAIN = Augment((Flip(0.5), PadCrop(10), Erase(0.5, (0.02, 0.4), (0.3, 3.3), value=CLIP_MEAN)))
PLAIN_TRAIN = Augment((Flip(0.5),))
POOL_TRAIN = Augment((PoolOfTwo(),), IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"])
SIMCLR_TRAIN = Augment((Flip(0.5),), IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"], whole=SimClr())


def augment(image: Image.Image, size: tuple[int, int], how: Augment, draws: Draws) -> Tensor:
    """RGB image -> float32 [3, H, W]: resized, drawn steps applied, normalised."""
    import torch

    image = how.whole(image, size, draws) if how.whole else resized(image, size, how.resample)
    pixel_CHW = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    for step in how.steps:
        if not step.after_normalise:
            pixel_CHW = step(pixel_CHW if step.moves_only else _unit(pixel_CHW), draws)
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    pixel_CHW = _unit(pixel_CHW).sub_(mean).div_(std)
    for step in how.steps:
        if step.after_normalise:
            pixel_CHW = step(pixel_CHW, draws)
    return pixel_CHW


def _unit(pixel_CHW: Tensor) -> Tensor:
    """Bytes -> float32 in [0, 1], a new tensor; float values as they are."""
    import torch

    return pixel_CHW.to(torch.float32).div_(255) if pixel_CHW.dtype == torch.uint8 else pixel_CHW
