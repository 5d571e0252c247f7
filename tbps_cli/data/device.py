"""Augmentation in batches on the device that trains, from pictures that were decoded once.

The published pipelines read, resize and change one picture after the other in worker processes. Here
the bytes of a pre-decoded store lie on the device (or are fetched from its memory map), and flip, crop and
erasing are done to a whole batch at once. The numbers that they need are drawn on the CPU, vectorised, from
the same per-sample seeds as the exact way: they depend on (seed, epoch, caption, view) alone, so neither
resuming nor ranks nor workers change them. The distribution is that of the published transforms, the single
draws are not (`data.augment_on` chooses); values after equal draws agree within float32 rounding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_cli.data.store import Store
from tbps_cli.data.transforms import Augment, Erase, Flip, PadCrop

PICTURE, FLIP, DOWN, RIGHT, TOP, LEFT, ROWS, COLUMNS = range(8)
"""Columns of a plan: the picture's number, whether it is mirrored, how far the cut starts below and right of
the picture's corner (negative: in the padding), and the erased rectangle (0 rows: none)."""

_ATTEMPTS = 10
_SHARE_OF_MEMORY = 0.4
"""Of what is free on the device, how much the pictures may take; the rest is for training."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def refusal(images: Mapping[str, Augment]) -> str | None:
    """Why these views cannot be drawn in batches; None when they can.

    All of them must start from one resize of the picture, and use a flip, a padded crop and an erasing at most
    once each, in this order.
    """
    if len({how.resample for how in images.values()}) > 1:
        return "its views resize in different ways"
    for name, how in images.items():
        if how.whole is not None:
            return f"its view {name!r} is cut from the whole picture"
        kinds = [type(step) for step in how.steps]
        if kinds != [kind for kind in (Flip, PadCrop, Erase) if kind in kinds]:
            known = {Flip, PadCrop, Erase}
            odd = next((kind.__name__ for kind in kinds if kind not in known), "an unusual order")
            return f"its view {name!r} uses {odd}"
        if any(isinstance(step, Erase) and not step.after_normalise for step in how.steps):
            return f"its view {name!r} erases before normalising"
    return None


# Drawing ------------------------------------------------------------------------------------


def uniform(seed_B: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """[B] seeds -> [B, count] independent draws from [0, 1), 53 bits each.

    Source: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), whose
    n-th number follows from seed and n without the ones before.
    """
    with np.errstate(over="ignore"):
        bits = seed_B[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(how: Augment, size: tuple[int, int], seed_B: Sequence[int], picture_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """What happens to each picture of a view: a plan [B, 8], see the columns above.

    seed_B: one number a sample, as `Draws.of(...).seed` has it.
    """
    share = uniform(np.array(seed_B, dtype=np.uint64), 6 + 2 * _ATTEMPTS)
    plan = np.zeros((len(picture_B), 8), np.int64)
    plan[:, PICTURE] = picture_B
    for step in how.steps:
        if isinstance(step, Flip):
            plan[:, FLIP] = share[:, 0] < step.p
        elif isinstance(step, PadCrop):
            plan[:, [DOWN, RIGHT]] = _whole(share[:, 1:3], 2 * step.padding + 1) - step.padding
        elif isinstance(step, Erase):
            plan[:, TOP:] = _rectangles(step, size, share[:, 3:])
    return plan


def _rectangles(step: Erase, size: tuple[int, int], share: NDArray[np.float64]) -> NDArray[np.int64]:
    """[B, 4] top, left, rows, columns; the first of ten attempts that fits, as torchvision's transform."""
    height, width = size
    low, high = (math.log(end) for end in step.ratio)
    area = height * width * (step.area[0] + (step.area[1] - step.area[0]) * share[:, 3 : 3 + _ATTEMPTS])
    ratio = np.exp(low + (high - low) * share[:, 3 + _ATTEMPTS :])
    rows, columns = (np.rint(np.sqrt(sides)).astype(np.int64) for sides in (area * ratio, area / ratio))
    fits = (rows < height) & (columns < width)
    first = (np.arange(len(share)), fits.argmax(1))
    wanted = (share[:, 0] < step.p) & fits.any(1)
    rows, columns = rows[first], columns[first]
    top, left = _whole(share[:, 1], height - rows + 1), _whole(share[:, 2], width - columns + 1)
    return np.stack([top, left, rows, columns], axis=1) * wanted[:, None]


def _whole(share: NDArray[np.float64], count: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Draws from [0, 1) -> whole numbers 0..count-1."""
    return np.floor(share * count).astype(np.int64)


# Doing --------------------------------------------------------------------------------------


class Painter:
    """The pictures of a split on a device, and what becomes of them under a plan.

    paths: picture n of a plan is paths[n]. whole: keep all of them on the device; None decides by
    the memory that is free there (the CPU reads its memory map in any case).
    """

    def __init__(
        self, store: Store, paths: Sequence[Path], device: torch.device | str, *, whole: bool | None = None
    ) -> None:
        self.device, self.size = torch.device(device), store.size
        self.place, self.buffers = store.places(paths), Buffers()
        self.held = torch.from_numpy(store.pixels)
        self.whole = self._fits() if whole is None else whole
        if self.whole:
            self.held, self.place = self._moved(), np.arange(len(paths))

    def __call__(self, plan_B8: Tensor, how: Augment) -> Tensor:
        """The pictures of a plan (int64, on the CPU) -> float32 [B, 3, H, W] on the device, channels last."""
        picture_B = torch.from_numpy(self.place[plan_B8[:, PICTURE].numpy()])
        pixel_BHWC = self.held
        if not self.whole and self.device.type != "cpu":
            pixel_BHWC = self._sent(picture_B)
            picture_B = torch.arange(len(plan_B8))
        plan_B8 = torch.cat([picture_B[:, None], plan_B8[:, 1:]], dim=1)
        if self.device.type == "cpu":
            image_BHWC = paint_slices(pixel_BHWC, plan_B8, how, torch.get_num_threads(), self.buffers)
        else:
            image_BHWC = paint_whole(pixel_BHWC, plan_B8.to(self.device, non_blocking=True), how)
        return image_BHWC.permute(0, 3, 1, 2)

    def _sent(self, picture_B: Tensor) -> Tensor:
        """These pictures' bytes on the device; the copy overlaps with what it computes."""
        found = torch.empty(len(picture_B), *self.size, 3, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return torch.index_select(self.held, 0, picture_B, out=found).to(self.device, non_blocking=True)

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return False
        needed = len(self.place) * self.size[0] * self.size[1] * 3
        return needed < _SHARE_OF_MEMORY * torch.cuda.mem_get_info(self.device)[0]

    def _moved(self) -> Tensor:
        """The split's pictures alone, on the device, copied in pieces."""
        moved = torch.empty(len(self.place), *self.size, 3, dtype=torch.uint8, device=self.device)
        for start in range(0, len(self.place), 512):
            part = torch.from_numpy(self.place[start : start + 512])
            moved[start : start + len(part)] = self.held.index_select(0, part)
        return moved


class Buffers:
    """Memory for batches on the CPU, used again once nobody holds the batch that lay in it.

    Fresh memory costs a page fault every 4 KB, which is most of the work of writing 38 MB.
    """

    KEPT = 3

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


def paint_slices(
    pixel_NHWC: Tensor, plan_B8: Tensor, how: Augment, threads: int = 1, buffers: Buffers | None = None
) -> Tensor:
    """[N, H, W, 3] bytes -> float32 [B, H, W, 3] after the plan and the view's normalisation, on the CPU.

    One picture at a time, which the caches hold from the first operation to the last, and with numpy, which
    leaves the threads to us. threads: each paints pictures of its own. buffers: where the result may lie.
    """
    height, width = pixel_NHWC.shape[1:3]
    scale, shift, fill = (row.repeat(width).numpy() for row in _numbers(how, pixel_NHWC.device))
    pixels, plan = pixel_NHWC.numpy(), plan_B8.tolist()
    image_BHWC = (buffers or Buffers()).take(len(plan), height, width, 3)

    def paint(row: int) -> None:
        top, left, rows, columns = plan[row][TOP:]
        seen_HWC = _cut(pixels[plan[row][PICTURE]], *plan[row][FLIP:TOP])
        value_HX = image_BHWC[row].reshape(height, 3 * width)
        np.multiply(seen_HWC.reshape(height, 3 * width), scale, out=value_HX)
        np.add(value_HX, shift, out=value_HX)
        value_HX[top : top + rows, 3 * left : 3 * (left + columns)] = fill[: 3 * columns]

    if threads == 1:
        for row in range(len(plan)):
            paint(row)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(paint, range(len(plan))))
    return torch.from_numpy(image_BHWC)


def _cut(whole_HWC: NDArray[np.uint8], flip: int, down: int, right: int) -> NDArray[np.uint8]:
    """The picture mirrored, and as seen from a place `down` and `right` of its corner; black outside."""
    if not flip and not down and not right:
        return whole_HWC
    height, width = whole_HWC.shape[:2]
    if flip:
        whole_HWC = whole_HWC[:, ::-1]
    cut_HWC = np.zeros((height, width, 3), np.uint8)
    rows, columns = max(0, height - abs(down)), max(0, width - abs(right))  # 0: nothing but padding is seen
    to_HWC = cut_HWC[max(0, -down) :, max(0, -right) :][:rows, :columns]
    from_HWC = whole_HWC[max(0, down) :, max(0, right) :][:rows, :columns]
    for channel in range(3):  # faster than the pixels' three bytes at a time
        to_HWC[:, :, channel] = from_HWC[:, :, channel]
    return cut_HWC


def paint_whole(pixel_NHWC: Tensor, plan_B8: Tensor, how: Augment) -> Tensor:
    """`paint_slices` with a few operations on the whole batch: for devices with many cores."""
    height, width = pixel_NHWC.shape[1:3]
    place_BX = plan_B8[:, :, None]
    down_BH = torch.arange(height, device=plan_B8.device) + place_BX[:, DOWN]
    right_BW = torch.arange(width, device=plan_B8.device) + place_BX[:, RIGHT]
    inside = _between(down_BH, 0, height)[:, :, None] & _between(right_BW, 0, width)[:, None, :]
    column_BW = torch.where(place_BX[:, FLIP] > 0, width - 1 - right_BW, right_BW).clamp(0, width - 1)
    row_BH = down_BH.clamp(0, height - 1)
    pixel_BHWC = pixel_NHWC[place_BX[:, PICTURE, :, None], row_BH[:, :, None], column_BW[:, None, :]]
    scale, shift, fill = _numbers(how, plan_B8.device)
    image_BHWC = (pixel_BHWC * inside[..., None]).float().mul_(scale).add_(shift)
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
