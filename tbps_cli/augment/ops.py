"""The operations on pixels, each once, with every number stated.

All take [B, 3, H, W]; colours are floats in [0, 1]. A number is a float, the same for all images, or a tensor
[B, 1, 1, 1] with one for each. Floats serve one image at a time: the exact way, and whole batches on a CPU, whose
caches hold an image. Tensors serve devices with many cores, on which an operation a batch is cheap and one an image
is not. Where the two need different code (a rectangle is a slice of one image, but a mask over many) both stand in
the one function. Formulas are those of torchvision, which the published code uses; golden figures check them.

torchvision's own functions are not called. They take one number a call, so a batch could not use them; and
torchvision from the package index, built for CUDA, cannot be imported beside a CPU build of PyTorch ("operator
torchvision::nms does not exist"), which is a common pair. Measured on one core with 224 x 224 floats, ours beside
`transforms.v2.functional` 0.28, in us: brightness 27/30, contrast 81/83, saturation 76/75, hue 900/2,320,
rotate 407/722, flip 16/18, rectangle 22/25. The values are equal (hue: within 2e-6).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Number = float | Tensor
"""One for all images, or [B, 1, 1, 1]: one for each. Only those named so may be tensors."""

BLUR_REACH = 6
"""Pixels to each side that a blur looks at: three of the largest standard deviation that is drawn, 2."""

_GREY = (0.2989, 0.587, 0.114)


# Colours ----------------------------------------------------------------------------------------


def luminance(pixel_BCHW: Tensor) -> Tensor:
    """[B, 1, H, W]"""
    red, green, blue = pixel_BCHW.split(1, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def grey(pixel_BCHW: Tensor) -> Tensor:
    """Luminance in all three channels, which share no memory: later steps write in place."""
    return luminance(pixel_BCHW).repeat(1, 3, 1, 1)


def brightness(pixel_BCHW: Tensor, factor: Number) -> Tensor:
    """0 is black, 1 the image itself."""
    return (pixel_BCHW * _like(factor, pixel_BCHW)).clamp_(0, 1)


def contrast(pixel_BCHW: Tensor, factor: Number) -> Tensor:
    """0 is the mean grey, 1 the image itself."""
    return _blend(pixel_BCHW, luminance(pixel_BCHW).mean(dim=(1, 2, 3), keepdim=True), factor)


def saturation(pixel_BCHW: Tensor, factor: Number) -> Tensor:
    """0 is a grey image, 1 the image itself."""
    return _blend(pixel_BCHW, luminance(pixel_BCHW), factor)


def _blend(pixel_BCHW: Tensor, other_B1XX: Tensor, factor: Number) -> Tensor:
    rest = _like(1.0 - factor, pixel_BCHW)
    return (pixel_BCHW * _like(factor, pixel_BCHW)).add_(other_B1XX * rest).clamp_(0, 1)


def _like(number: Number, pixel_BCHW: Tensor) -> Number:
    """Numbers are drawn in float64, which would make the product with pixels float64 too."""
    return number.to(pixel_BCHW.dtype) if isinstance(number, Tensor) else number


def hue(pixel_BCHW: Tensor, turn: Number) -> Tensor:
    """Turned by a share of the whole circle (-0.5..0.5); saturation and value of HSV are kept.

    With h in sixths of the circle each channel is value - chroma * max(0, min(k, 4 - k, 1)), k = (n + h) mod 6
    and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = pixel_BCHW.split(1, dim=1)
    value = pixel_BCHW.amax(1, keepdim=True)
    chroma = value - pixel_BCHW.amin(1, keepdim=True)
    share = chroma.clamp(min=1e-20).reciprocal_()  # a grey pixel has no hue: any will do
    sixth = torch.where(value == red, (green - blue) * share, 2 + (blue - red) * share)
    sixth = torch.where((value == blue) & (value != red) & (value != green), 4 + (red - green) * share, sixth)
    place_BCHW = sixth + torch.tensor([5.0, 3.0, 1.0], device=pixel_BCHW.device)[:, None, None]
    place_BCHW += _like(6 * turn, pixel_BCHW)
    place_BCHW -= (place_BCHW * (1 / 6)).floor_().mul_(6)  # remainder_ takes three times as long
    share_BCHW = torch.minimum(place_BCHW, 4 - place_BCHW).clamp_(0, 1)
    return share_BCHW.mul_(-chroma).add_(value)


def blur(pixel_BCHW: Tensor, deviation: Number) -> Tensor:
    """With a Gaussian of this standard deviation in pixels, rows and columns in turn; the border goes on outside."""
    step_K = torch.arange(BLUR_REACH + 1, device=pixel_BCHW.device).view(-1, 1, 1, 1, 1)
    weight_KB = torch.exp(-0.5 * (step_K / deviation) ** 2)
    weight_KB = (weight_KB / (2 * weight_KB.sum(0) - 1)).to(pixel_BCHW.dtype)  # the middle one counts once
    for axis in (2, 3):
        count = pixel_BCHW.shape[axis]
        border = (0, 0, BLUR_REACH, BLUR_REACH) if axis == 2 else (BLUR_REACH, BLUR_REACH, 0, 0)
        wide_BCHW = functional.pad(pixel_BCHW, border, mode="replicate")
        pixel_BCHW = pixel_BCHW * weight_KB[0]
        for step in range(1, BLUR_REACH + 1):  # both neighbours at this distance have the same weight
            before, after = (wide_BCHW.narrow(axis, BLUR_REACH + side, count) for side in (-step, step))
            pixel_BCHW.addcmul_(before + after, weight_KB[step])
    return pixel_BCHW


# Places -----------------------------------------------------------------------------------------


def flip(pixel_BCHW: Tensor) -> Tensor:
    """Mirrored left and right."""
    return pixel_BCHW.flip(-1)


def shift(pixel_BCHW: Tensor, down: Number, right: Number) -> Tensor:
    """Seen through a window that starts `down` and `right` of the image's corner; black outside of the image.

    Any values, bytes too. With floats any number of leading dimensions.
    """
    height, width = pixel_BCHW.shape[-2:]
    if isinstance(down, Tensor) and isinstance(right, Tensor):
        row, column = (torch.arange(count, device=pixel_BCHW.device) for count in (height, width))
        row_B1H1, column_B11W = row[:, None] + down.long(), column + right.long()
        inside = _between(row_B1H1, 0, height) & _between(column_B11W, 0, width)
        image, channel = (torch.arange(count, device=pixel_BCHW.device) for count in pixel_BCHW.shape[:2])
        place = row_B1H1.clamp(0, height - 1), column_B11W.clamp(0, width - 1)
        return pixel_BCHW[image[:, None, None, None], channel[:, None, None], *place] * inside
    down, right = max(-height, min(height, int(down))), max(-width, min(width, int(right)))
    seen = pixel_BCHW[..., max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return torch.constant_pad_nd(seen, (max(0, -right), max(0, right), max(0, -down), max(0, down)))


def _between(place: Tensor, low: Number, high: Number) -> Tensor:
    return (place >= low) & (place < high)


def erase_(
    pixel_BCHW: Tensor, top: Number, left: Number, rows: Number, columns: Number, fill: float | Tensor = 0.0
) -> Tensor:
    """A rectangle filled, in place. fill: black, or [3, 1, 1]. With floats any number of leading dimensions.

    In place and by slices: a copy of the image takes 17 us more, a mask 130.
    """
    if isinstance(top, Tensor):
        height, width = pixel_BCHW.shape[-2:]
        row, column = (torch.arange(count, device=pixel_BCHW.device) for count in (height, width))
        inside = _between(row[:, None], top, top + rows) & _between(column, left, left + columns)
        return pixel_BCHW.copy_(torch.where(inside, fill, pixel_BCHW))
    top, left = int(top), int(left)
    pixel_BCHW[..., top : top + int(rows), left : left + int(columns)] = fill
    return pixel_BCHW


def rotate(pixel_BCHW: Tensor, degrees: Number) -> Tensor:
    """Counter-clockwise about the centre; nearest pixel, size kept, corners black.

    The angle is turned into float32 after its sine and cosine: 200 random angles then gave torchvision's very
    pixels, where a float32 angle took another nearest pixel in three of them.
    """
    height, width = pixel_BCHW.shape[-2:]
    angle = _tensor(degrees) * (math.pi / 180)
    sine_B11, cosine_B11 = (part.float().reshape(-1, 1, 1) for part in (angle.sin(), angle.cos()))
    down_H1 = (torch.arange(height, device=pixel_BCHW.device) - (0.5 * height - 0.5))[:, None]
    across_W = torch.arange(width, device=pixel_BCHW.device) - (0.5 * width - 0.5)
    grid_BHW2 = torch.stack(
        [
            across_W * (cosine_B11 / (0.5 * width)) + down_H1 * (-sine_B11 / (0.5 * width)),
            across_W * (sine_B11 / (0.5 * height)) + down_H1 * (cosine_B11 / (0.5 * height)),
        ],
        dim=-1,
    )
    return functional.grid_sample(pixel_BCHW, grid_BHW2, mode="nearest", padding_mode="zeros", align_corners=False)


def resized_crop(pixel_BCHW: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
    """A rectangle enlarged to the image's size, bilinear: the published values to the last bit."""
    part = pixel_BCHW[..., top : top + rows, left : left + columns]
    size = pixel_BCHW.shape[-2:]
    return functional.interpolate(part, size=size, mode="bilinear", align_corners=False, antialias=True)


def crop(pixel_BCHW: Tensor, top: Number, left: Number, rows: Number, columns: Number) -> Tensor:
    """`resized_crop` for rectangles that may begin and end between pixels, one for each image.

    Nothing from beside the rectangle is mixed in. Places are float32, so values differ from those of
    `resized_crop` by up to 3e-5 at 224 x 224.
    """
    height, width = pixel_BCHW.shape[-2:]
    row_BH, column_BW = _sources(_tensor(top), _tensor(rows), height), _sources(_tensor(left), _tensor(columns), width)
    grid_BHW2 = torch.stack(
        [column_BW[:, None].expand(-1, height, -1), row_BH[:, :, None].expand(-1, -1, width)], dim=-1
    )
    return functional.grid_sample(pixel_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=True)


def _sources(start: Tensor, length: Tensor, count: int) -> Tensor:
    """[B, count] from which pixel (with fraction) each one comes, as grid_sample counts: -1 the first, 1 the last."""
    start_B1, length_B1 = start.reshape(-1, 1), length.reshape(-1, 1)
    middle = (torch.arange(count, device=start.device) + 0.5) * (length_B1 / count) - 0.5
    inside = torch.minimum(middle.clamp(min=0.0), (length_B1 - 1).clamp(min=0.0))
    return ((start_B1 + inside) * (2 / max(1, count - 1)) - 1).float()


def _tensor(number: Number) -> Tensor:
    return number if isinstance(number, Tensor) else torch.tensor(number, dtype=torch.float64)
