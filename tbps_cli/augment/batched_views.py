"""TBPS-CLIP's views in whole batches: its pool of two operations and its self-supervised views.

Each operation is done at once for all images that drew it at the same place of their plan. Formulas are those of
`operations.py`. The self-supervised views differ from the exact way in two things, while their draws have the same
distribution. They are cut from the store's resized image and not from the file (the box is drawn in the file's
pixels and scaled), so their sharpness differs a little: a small cut of an image that the store made smaller is
softer. And values stay floats between the operations, where PIL rounds to bytes, takes the mean of the contrast
as a whole number, turns the hue in steps of 1/256 and blurs with boxes instead of a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tbps_cli.augment.batched_draws import PLACE, Kind
from tbps_cli.augment.batched_paint import Buffers, each
from tbps_cli.augment.exact import Augment
from tbps_cli.augment.ops import GREY, SIMCLR_BLUR

PIECE = 1 << 25
"""Values that a device with memory of its own works on at a time; a CPU takes an image, which its caches hold."""


def paint_operations(
    pixel_NHWC: Tensor, image_B: Tensor, plan_BX: Tensor, how: Augment, buffers: Buffers | None = None
) -> Tensor:
    """[N, H, W, 3] bytes -> float32 [B, 3, H, W] after the plan's operations and the view's normalisation.

    image_B: row of each image's bytes. plan_BX: from `device_draws.draw`, on the CPU like image_B. buffers:
    where the result may lie, on a CPU.
    """
    device, (height, width) = pixel_NHWC.device, pixel_NHWC.shape[1:3]
    shape = len(image_B), 3, height, width
    here = device.type == "cpu"
    image_BCHW = torch.from_numpy((buffers or Buffers()).take(*shape)) if here else torch.empty(shape, device=device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (how.mean, how.std))
    count = 1 if here else max(1, PIECE // (3 * height * width))

    def paint(start: int) -> None:
        piece = slice(start, start + count)
        rows = image_B[piece].to(device, non_blocking=True)
        pixel_BCHW = pixel_NHWC.index_select(0, rows).permute(0, 3, 1, 2).contiguous().float().div_(255)
        changed_BCHW = changed(pixel_BCHW, plan_BX[piece, 1:])
        torch.sub(changed_BCHW, mean, out=image_BCHW[piece]).div_(std)

    each(paint, range(0, len(image_B), count), torch.get_num_threads() if here else 1)
    return image_BCHW


def changed(pixel_BCHW: Tensor, plan_BX: Tensor) -> Tensor:
    """Place by place, each operation on the images that drew it. pixel_BCHW is overwritten."""
    plan_BSP = plan_BX.reshape(len(plan_BX), -1, PLACE)
    number_BSP = plan_BSP[..., 1:].float().to(pixel_BCHW.device, non_blocking=True)
    groups = _groups(plan_BSP[..., 0].T.tolist())
    rows_X = torch.tensor([row for _, _, rows in groups for row in rows], dtype=torch.int64)
    rows_X, start = rows_X.to(pixel_BCHW.device, non_blocking=True), 0
    for place, kind, found in groups:
        rows, start = rows_X[start : start + len(found)], start + len(found)
        if len(found) == len(plan_BX):
            pixel_BCHW = CHANGES[kind](pixel_BCHW, number_BSP[:, place])
        else:
            part_BCHW = CHANGES[kind](pixel_BCHW.index_select(0, rows), number_BSP[rows, place])
            pixel_BCHW.index_copy_(0, rows, part_BCHW)
    return pixel_BCHW


def _groups(kind_SB: list[list[float]]) -> list[tuple[int, Kind, list[int]]]:
    """(place, operation, the rows that drew it there) in the order in which they are done."""
    return [
        (place, Kind(int(kind)), [row for row, drawn in enumerate(kinds) if drawn == kind])
        for place, kinds in enumerate(kind_SB)
        for kind in sorted(set(kinds) - {Kind.NOTHING})
    ]


# The operations: [B, 3, H, W] in [0, 1] and [B, 4] numbers -> [B, 3, H, W] ----------------------


def _column(number_B4: Tensor, column: int = 0) -> Tensor:
    return number_B4[:, column, None, None, None]


def _grey(pixel_BCHW: Tensor) -> Tensor:
    """[B, 1, H, W]"""
    red, green, blue = pixel_BCHW.split(1, dim=1)
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def grey(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Luminance in all three channels, which share no memory."""
    return _grey(pixel_BCHW).repeat(1, 3, 1, 1)


def brightness(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Factor 0 is black, 1 the image itself."""
    return (pixel_BCHW * _column(number_B4)).clamp_(0, 1)


def contrast(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Factor 0 is the mean grey, 1 the image itself."""
    return _blend(pixel_BCHW, _grey(pixel_BCHW).mean(dim=(1, 2, 3), keepdim=True), number_B4)


def saturation(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Factor 0 is a grey image, 1 the image itself."""
    return _blend(pixel_BCHW, _grey(pixel_BCHW), number_B4)


def _blend(pixel_BCHW: Tensor, other_B1XX: Tensor, number_B4: Tensor) -> Tensor:
    factor = _column(number_B4)
    return (pixel_BCHW * factor).add_(other_B1XX * (1.0 - factor)).clamp_(0, 1)


def hue(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Turned by a share of the whole circle, saturation and value of HSV kept.

    With h in sixths of the circle each channel is value - chroma * max(0, min(k, 4 - k, 1)), k = (n + h) mod 6
    and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = pixel_BCHW.split(1, dim=1)
    value, chroma = (
        pixel_BCHW.amax(1, keepdim=True),
        pixel_BCHW.amax(1, keepdim=True) - pixel_BCHW.amin(1, keepdim=True),
    )
    share = chroma.clamp(min=1e-20).reciprocal_()
    sixth = torch.where(value == red, (green - blue) * share, 2 + (blue - red) * share)
    sixth = torch.where((value == blue) & (value != red) & (value != green), 4 + (red - green) * share, sixth)
    start = torch.tensor([5.0, 3.0, 1.0], device=pixel_BCHW.device)[:, None, None] + 6 * _column(number_B4)
    place_BCHW = sixth + start
    place_BCHW -= (place_BCHW * (1 / 6)).floor_().mul_(6)  # remainder_ takes three times as long
    share_BCHW = torch.minimum(place_BCHW, 4 - place_BCHW).clamp_(0, 1)
    return share_BCHW.mul_(-chroma).add_(value)


def flip(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Mirrored left and right."""
    return pixel_BCHW.flip(-1)


def erase(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Black where the rectangle is."""
    height, width = pixel_BCHW.shape[-2:]
    inside_BH = _inside(number_B4[:, 0:1], number_B4[:, 2:3], height)
    inside_BW = _inside(number_B4[:, 1:2], number_B4[:, 3:4], width)
    return pixel_BCHW.masked_fill((inside_BH[:, :, None] & inside_BW[:, None])[:, None], 0.0)


def _inside(start_B1: Tensor, length_B1: Tensor, count: int) -> Tensor:
    place = torch.arange(count, device=start_B1.device)
    return (place >= start_B1) & (place < start_B1 + length_B1)


def rotate(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """Counter-clockwise by degrees about the centre; nearest pixel, size kept, corners black."""
    height, width = pixel_BCHW.shape[-2:]
    angle = number_B4[:, 0, None, None] * (math.pi / 180)
    sine, cosine = angle.sin(), angle.cos()
    down = _centred(height, pixel_BCHW.device)[:, None]
    across = _centred(width, pixel_BCHW.device)
    grid_BHW2 = torch.stack(
        [
            across * (cosine / (0.5 * width)) + down * (-sine / (0.5 * width)),
            across * (sine / (0.5 * height)) + down * (cosine / (0.5 * height)),
        ],
        dim=-1,
    )
    return functional.grid_sample(pixel_BCHW, grid_BHW2, mode="nearest", padding_mode="zeros", align_corners=False)


def _centred(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device) - (0.5 * count - 0.5)


def crop(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """The rectangle enlarged to the image's size, bilinear; nothing from beside it is mixed in."""
    height, width = pixel_BCHW.shape[-2:]
    row_BH = _sources(number_B4[:, 0:1], number_B4[:, 2:3], height)
    column_BW = _sources(number_B4[:, 1:2], number_B4[:, 3:4], width)
    grid_BHW2 = torch.stack(
        [column_BW[:, None].expand(-1, height, -1), row_BH[:, :, None].expand(-1, -1, width)], dim=-1
    )
    return functional.grid_sample(pixel_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=True)


def _sources(start_B1: Tensor, length_B1: Tensor, count: int) -> Tensor:
    """[B, count] from which pixel (with fraction) each one comes, as grid_sample counts: -1 the first, 1 the last."""
    middle = (torch.arange(count, device=start_B1.device) + 0.5) * (length_B1 / count) - 0.5
    inside = torch.minimum(middle.clamp(min=0.0), (length_B1 - 1).clamp(min=0.0))
    return (start_B1 + inside) * (2 / max(1, count - 1)) - 1


def blur(pixel_BCHW: Tensor, number_B4: Tensor) -> Tensor:
    """With a Gaussian of the given standard deviation, rows and columns in turn; the border goes on outside."""
    reach = math.ceil(3 * SIMCLR_BLUR[1])
    weight_BK = torch.exp(-0.5 * (torch.arange(reach + 1, device=number_B4.device) / number_B4[:, :1]) ** 2)
    weight_BK = weight_BK / (2 * weight_BK.sum(1, keepdim=True) - 1)  # the middle one counts once
    for axis in (2, 3):
        pixel_BCHW = _smoothed(pixel_BCHW, weight_BK, axis)
    return pixel_BCHW


def _smoothed(pixel_BCHW: Tensor, weight_BK: Tensor, axis: int) -> Tensor:
    count, reach = pixel_BCHW.shape[axis], weight_BK.shape[1] - 1
    border = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    wide_BCHW = functional.pad(pixel_BCHW, border, mode="replicate")
    sum_BCHW = pixel_BCHW * _column(weight_BK)
    for step in range(1, reach + 1):
        pair_BCHW = wide_BCHW.narrow(axis, reach - step, count) + wide_BCHW.narrow(axis, reach + step, count)
        sum_BCHW.addcmul_(pair_BCHW, _column(weight_BK, step))
    return sum_BCHW


CHANGES: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    Kind.BRIGHTNESS: brightness,
    Kind.CONTRAST: contrast,
    Kind.SATURATION: saturation,
    Kind.HUE: hue,
    Kind.GREY: grey,
    Kind.ROTATE: rotate,
    Kind.CROP: crop,
    Kind.FLIP: flip,
    Kind.ERASE: erase,
    Kind.BLUR: blur,
}
