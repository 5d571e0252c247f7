"""Plain views in whole batches: flip, padded crop, normalising and erasing, on a CPU and on devices with many cores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_cli.augment.batched_draws import COLUMNS, DOWN, FLIP, IMAGE, LEFT, RIGHT, ROWS, TOP
from tbps_cli.augment.exact import Augment, Erase


class Buffers:
    """Memory for batches on the CPU, used again once nobody holds the batch that lay in it.

    Fresh memory costs a page fault every 4 KB, which is most of the work of writing 38 MB.
    """

    KEPT = 8
    """Two batches of four views."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[np.float32]] = []

    def take(self, *shape: int) -> NDArray[np.float32]:
        """An array with any values."""
        for array in self.arrays:
            # held by the list, the loop's name and the call's argument, and by each tensor that lies in it
            if array.shape == shape and sys.getrefcount(array) <= 3:
                return array
        array = np.empty(shape, np.float32)
        self.arrays = [*self.arrays, array][-self.KEPT :]
        return array


def paint_slices(pixel_NHWC: Tensor, plan_B8: Tensor, how: Augment, buffers: Buffers | None = None) -> Tensor:
    """[N, H, W, 3] bytes -> float32 [B, H, W, 3] after the plan and the view's normalisation, on the CPU.

    One image at a time, which the caches hold from the first operation to the last, in one thread: with 100 us
    of small operations an image, two threads wait for the interpreter longer than they work. buffers: where the
    result may lie.
    """
    height, width = pixel_NHWC.shape[1:3]
    scale, shift, fill = (row.repeat(width) for row in _numbers(how, pixel_NHWC.device))
    plan = plan_B8.tolist()
    image_BHWC = torch.from_numpy((buffers or Buffers()).take(len(plan), height, width, 3))

    def paint(row: int) -> None:
        image, flip, down, right, top, left, rows, columns = plan[row]
        seen_HWC = pixel_NHWC[image].flip(1) if flip else pixel_NHWC[image]
        _show(seen_HWC, image_BHWC[row], down, right)
        value_HX = image_BHWC[row].view(height, 3 * width)
        torch.addcmul(shift, value_HX, scale, out=value_HX)
        value_HX[top : top + rows, 3 * left : 3 * (left + columns)] = fill[: 3 * columns]

    each(paint, range(len(plan)), threads=1)
    return image_BHWC


def _show(whole_HWC: Tensor, image_HWC: Tensor, down: int, right: int) -> None:
    """Write the image as seen from a place `down` and `right` of its corner; black outside."""
    height, width = whole_HWC.shape[:2]
    top, left = min(max(0, -down), height), min(max(0, -right), width)
    bottom, end = max(top, min(height, height - down)), max(left, min(width, width - right))
    for outside in (image_HWC[:top], image_HWC[bottom:], image_HWC[:, :left], image_HWC[:, end:]):
        if outside.numel():
            outside.zero_()
    image_HWC[top:bottom, left:end].copy_(whole_HWC[top + down : bottom + down, left + right : end + right])


def each(work: Callable[[int], None], starts: range, threads: int) -> None:
    """All of them, shared out among threads of our own.

    PyTorch's own threads would share every single operation, and waiting for each other took longer than working.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads == 1:
            for start in starts:
                work(start)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, starts))
    finally:
        torch.set_num_threads(before)


def paint_whole(pixel_NHWC: Tensor, plan_B8: Tensor, how: Augment) -> Tensor:
    """`paint_slices` with a few operations on the whole batch: for devices with many cores."""
    height, width = pixel_NHWC.shape[1:3]
    place_BX = plan_B8[:, :, None]
    down_BH = torch.arange(height, device=plan_B8.device) + place_BX[:, DOWN]
    right_BW = torch.arange(width, device=plan_B8.device) + place_BX[:, RIGHT]
    inside = _between(down_BH, 0, height)[:, :, None] & _between(right_BW, 0, width)[:, None, :]
    column_BW = torch.where(place_BX[:, FLIP] > 0, width - 1 - right_BW, right_BW).clamp(0, width - 1)
    row_BH = down_BH.clamp(0, height - 1)
    pixel_BHWC = pixel_NHWC[place_BX[:, IMAGE, :, None], row_BH[:, :, None], column_BW[:, None, :]]
    scale, shift, fill = _numbers(how, plan_B8.device)
    image_BHWC = torch.addcmul(shift, (pixel_BHWC * inside[..., None]).float(), scale)
    erased = (
        _inside_of(plan_B8[:, [TOP, ROWS]], height)[:, :, None]
        & _inside_of(plan_B8[:, [LEFT, COLUMNS]], width)[:, None]
    )
    return torch.where(erased[..., None], fill, image_BHWC)


def _between(number: Tensor, low: int, high: int) -> Tensor:
    return (number >= low) & (number < high)


def _inside_of(span_B2: Tensor, count: int) -> Tensor:
    """[B, 2] start and length -> [B, count], whether a place lies in the span."""
    start_B1, length_B1 = span_B2[:, :1], span_B2[:, 1:]
    place = torch.arange(count, device=span_B2.device)
    return (place >= start_B1) & (place < start_B1 + length_B1)


def _numbers(how: Augment, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel: factor and summand that take a byte to its normalised value, and the fill of erasing."""
    mean, std = torch.tensor(how.mean, dtype=torch.float64), torch.tensor(how.std, dtype=torch.float64)
    fill = next((step.value for step in how.steps if isinstance(step, Erase)), (0.0, 0.0, 0.0))
    rows = torch.stack([1 / (255 * std), -mean / std, torch.tensor(fill, dtype=torch.float64)])
    scale, shift, value = rows.float().to(device)
    return scale, shift, value
