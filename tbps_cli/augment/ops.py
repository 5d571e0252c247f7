"""Operations on an image's values with every number stated, and the two pools that draw those numbers.

The values are float32 [3, H, W] in [0, 1] for TBPS-CLIP's pool (arXiv 2308.10045); its self-supervised
views work on the image itself, since they cut it before the resize. Formulas and the order of draws
are those of torchvision's transforms, which the published code uses; golden numbers check them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.nn import functional

from tbps_cli.augment.exact import Draws, Erase, Flip

GREY = (0.2989, 0.587, 0.114)
Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

# The published numbers, for this way and for whole batches (`augment/batched_draws.py`).
JITTER = 0.1
DEGREES = 15.0
CROP = (0.9, 1.0)
GREY_P = 0.1
FLIP = Flip(0.5)
ERASE = Erase(0.5, (0.10, 0.20), (0.3, 3.3), value=(0.0, 0.0, 0.0), after_normalise=False)
SIMCLR_JITTER_P, SIMCLR_GREY_P, SIMCLR_BLUR_P = 0.8, 0.2, 0.5
SIMCLR_BLUR = (0.1, 2.0)


def grey(pixel_CHW: Tensor) -> Tensor:
    """Luminance in all three channels, which share no memory: later steps write in place."""
    red, green, blue = pixel_CHW.unbind(0)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).repeat(3, 1, 1)


def _blend(pixel_CHW: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * pixel_CHW + (1.0 - factor) * other).clamp(0, 1)


def brightness(pixel_CHW: Tensor, factor: float) -> Tensor:
    """0 is black, 1 the image itself."""
    return _blend(pixel_CHW, torch.zeros_like(pixel_CHW), factor)


def contrast(pixel_CHW: Tensor, factor: float) -> Tensor:
    """0 is the mean grey, 1 the image itself."""
    return _blend(pixel_CHW, grey(pixel_CHW)[:1].mean(), factor)


def saturation(pixel_CHW: Tensor, factor: float) -> Tensor:
    """0 is a grey image, 1 the image itself."""
    return _blend(pixel_CHW, grey(pixel_CHW), factor)


def rotate(pixel_CHW: Tensor, degrees: float) -> Tensor:
    """Turn counter-clockwise about the centre; nearest pixel, size kept, corners black."""
    height, width = pixel_CHW.shape[-2:]
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    scale = torch.tensor([0.5 * width, 0.5 * height])
    columns = torch.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width)
    rows = torch.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height)
    down, across = torch.meshgrid(rows, columns, indexing="ij")
    place = torch.stack((across, down, torch.ones_like(across)), dim=-1).reshape(-1, 3)
    grid = (place @ (turn.T / scale)).reshape(1, height, width, 2)
    return functional.grid_sample(pixel_CHW[None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0]


def resized_crop(pixel_CHW: Tensor, box: Box) -> Tensor:
    """Cut a rectangle out and enlarge it to the old size, bilinear and antialiased."""
    top, left, rows, columns = box
    part = pixel_CHW[None, :, top : top + rows, left : left + columns]
    size = pixel_CHW.shape[-2:]
    return functional.interpolate(part, size=size, mode="bilinear", align_corners=False, antialias=True)[0]


# Drawing the numbers ------------------------------------------------------------------------


def crop_ratio(size: tuple[int, int]) -> tuple[float, float]:
    """Width over height of a resized crop, from..to, for images of `size` (height, width).

    3/4..4/3 for a square, as published. Tall images keep their shape: with the published numbers no
    crop of theirs fits, and the fallback would always cut the same square and stretch it.
    """
    shape = size[1] / size[0]
    return 3 / 4 * shape, 4 / 3 * shape


def crop_box(height: int, width: int, draws: Draws, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """A rectangle of a drawn area and width-to-height ratio; the largest central one after ten failures."""
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        shape = draws.ratio(*ratio)
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            return draws.whole(height - rows + 1), draws.whole(width - columns + 1), rows, columns
    return largest_box(height, width, ratio)


def largest_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """The largest central rectangle whose width-to-height ratio is within `ratio`."""
    shape = min(max(width / height, ratio[0]), ratio[1])
    columns, rows = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _jitter(pixel_CHW: Tensor, draws: Draws) -> Tensor:
    order = draws.order(4)
    factors = [draws.uniform(1 - JITTER, 1 + JITTER) for _ in range(3)]
    for chosen in order:
        if chosen < 3:  # the fourth is hue, which the pool leaves alone
            pixel_CHW = (brightness, contrast, saturation)[chosen](pixel_CHW, factors[chosen])
    return pixel_CHW


def _rotate(pixel_CHW: Tensor, draws: Draws) -> Tensor:
    return rotate(pixel_CHW, draws.uniform(-DEGREES, DEGREES))


def _crop(pixel_CHW: Tensor, draws: Draws) -> Tensor:
    height, width = pixel_CHW.shape[-2:]
    return resized_crop(pixel_CHW, crop_box(height, width, draws, CROP, crop_ratio((height, width))))


def _grey(pixel_CHW: Tensor, draws: Draws) -> Tensor:
    return grey(pixel_CHW) if draws.share() < GREY_P else pixel_CHW


POOL: tuple[Callable[[Tensor, Draws], Tensor], ...] = (
    _jitter,
    _rotate,
    _crop,
    _grey,
    FLIP,
    ERASE,
)


# Views for self-supervision -----------------------------------------------------------------


def simclr_view(
    image: Image.Image,
    size: tuple[int, int],
    draws: Draws,
    *,
    scale: tuple[float, float],
    jitter: tuple[float, float, float, float],
) -> Image.Image:
    """A strongly changed piece of the image at `size` (height, width); see `transforms.SimClr`."""
    top, left, rows, columns = crop_box(image.height, image.width, draws, scale, crop_ratio(size))
    view = image.crop((left, top, left + columns, top + rows))
    view = view.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    if draws.share() <= SIMCLR_JITTER_P:
        view = _jitter_image(view, draws, jitter)
    if draws.share() < SIMCLR_GREY_P:
        view = view.convert("L").convert("RGB")
    if draws.share() <= SIMCLR_BLUR_P:
        view = view.filter(ImageFilter.GaussianBlur(draws.python.uniform(*SIMCLR_BLUR)))
    return view


def _jitter_image(view: Image.Image, draws: Draws, ranges: tuple[float, float, float, float]) -> Image.Image:
    order = draws.order(4)
    light, tone, colour = (draws.uniform(1 - width, 1 + width) for width in ranges[:3])
    shift = draws.uniform(-ranges[3], ranges[3])
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: ImageEnhance.Brightness(image).enhance(light),
        lambda image: ImageEnhance.Contrast(image).enhance(tone),
        lambda image: ImageEnhance.Color(image).enhance(colour),
        partial(shift_hue, turn=shift),
    ]
    for chosen in order:
        view = changes[chosen](view)
    return view


def shift_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the whole circle (-0.5..0.5)."""
    hue, rest, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + int(turn * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), rest, value)).convert("RGB")
