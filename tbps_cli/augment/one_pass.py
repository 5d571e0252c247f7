"""Pillow's resize, and what training does to its bytes, compiled by Numba: equal values in a third of the time.

Pillow mixes columns, rounds to bytes, then mixes rows: each byte is (2^21 + the sum of byte x weight) >> 22, kept
within 0..255, with whole numbers as weights. The same is done here row by row, and a row is moved, mirrored and
normalised while it is in the processor's caches. Only what a window leaves of the image is made. The weights of a
length are asked of Pillow itself, and a few images are tried against it before the first is made: where Numba is not
installed (extra `training`) or anything differs, Pillow does it all.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tbps_cli.augment.transform import FILTERS, Resample, Triple

BITS = 22
"""Of Pillow's weights (`PRECISION_BITS` in its Resample.c)."""
HALF = 1 << (BITS - 1)
_REACH: dict[Resample, float] = {"bilinear": 1.0, "bicubic": 2.0}
"""Pixels to each side that a filter looks at when nothing is made smaller."""
_TRIED = (
    ((57, 23), (96, 32)),
    ((97, 131), (97, 32)),
    ((31, 32), (40, 32)),
    ((3, 2), (7, 5)),
    ((1, 1), (2, 3)),
    ((57, 23), (33, 11)),
    ((120, 70), (20, 20)),
)
"""Heights and widths, before and after; the last ones as near as may be to what Pillow does rows first."""

Pixels = NDArray[np.uint8]
Kernel = Callable[..., None]


class Window(NamedTuple):
    """Where the view of a resized image lies: mirrored first, then moved; black outside of the image."""

    flipped: bool = False
    down: int = 0
    right: int = 0


WHOLE = Window()


class Mixture(NamedTuple):
    """Which pixels each of the N pixels of a resized row or column comes from."""

    first_N: NDArray[np.int32]
    weight_KN: NDArray[np.int32]
    """Of the first and those after it, times 2^22. A single one: the pixel itself."""


def ready() -> bool:
    """Whether this can be done here. The first call takes half a second, the very first some more, to compile."""
    return _kernels() is not None


def fits(before: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether `resized` is the way from one shape (height, width) to another.

    Images that become much smaller are left to Pillow, which is as quick there, and so are those that Pillow 13 mixes
    rows first: where the height loses more than twice what the width does.
    """
    (height, width), (rows, columns) = before[:2], size
    much = 2 * height > 3 * rows or 2 * width > 3 * columns
    return not much and (height <= rows or height - rows <= 2 * (width - columns))


def resized(
    pixel_HWC: Pixels,
    size: tuple[int, int],
    resample: Resample,
    mean: Triple,
    std: Triple,
    out: Tensor,
    window: Window = WHOLE,
    kernels: _Kernels | None = None,
) -> None:
    """RGB bytes -> (value / 255 - mean) / std of Pillow's resize to `size` (height, width), seen through a window.

    out: float32 [3, H, W], contiguous, where the values go. kernels: those that are on trial; otherwise of `ready`.
    """
    kernels = kernels or _kernels()
    assert kernels is not None
    (height, width), (rows, columns) = pixel_HWC.shape[:2], size
    down, right = max(-rows, min(rows, window.down)), max(-columns, min(columns, window.right))
    # What is seen: from..to in the view; `down` and `right` lead from there to the resized image.
    top, bottom, left, end = max(0, -down), rows - max(0, down), max(0, -right), columns - max(0, right)
    value_CHW, mean_C, std_C = out.numpy(), np.array(mean, np.float32), np.array(std, np.float32)
    if bottom <= top or end <= left:
        value_CHW[...] = ((np.float32(0) - mean_C) / std_C)[:, None, None]
        return
    down_mixture, across_mixture = mixture(height, rows, resample), mixture(width, columns, resample)
    seen = slice(top + down, bottom + down), slice(left + right, end + right)
    row_first, row_weight = (np.ascontiguousarray(part[..., seen[0]]) for part in down_mixture)
    across = (part[..., ::-1] if window.flipped else part for part in across_mixture)
    column_first, column_weight = (np.ascontiguousarray(part[..., seen[1]]) for part in across)
    # Where a weight is 0 it is left out, so a row may begin later than the next one.
    start, stop = int(row_first.min()), int(row_first.max()) + len(row_weight)
    mixed_HCW = _ROOM.take(stop - start, end - left)
    kernels.across(np.ascontiguousarray(pixel_HWC[start:stop]), column_first, column_weight, mixed_HCW)
    kernels.down(mixed_HCW, row_first - np.int32(start), row_weight, mean_C, std_C, value_CHW, top, left)


@lru_cache(maxsize=4096)
def mixture(count: int, more: int, resample: Resample) -> Mixture:
    """How `count` pixels in a row become `more` (or fewer).

    Pillow resizes whole numbers with the very weights that it rounds for bytes, so an image of single pixels of 2^22
    gives the weights themselves. Those of one column lie so far apart that no pixel sees two of them.
    """
    scale = count / more
    reach = _REACH[resample] * max(1.0, scale)
    taps = min(count, 2 * int(np.ceil(reach)) + 3)
    middle_N = (np.arange(more) + 0.5) * scale
    first_N = np.clip((middle_N - reach - 0.5).astype(np.int64), 0, count - taps)
    single = np.zeros((count, taps), np.int32)
    single[np.arange(count), np.arange(count) % taps] = 1 << BITS
    answer_NK = np.asarray(Image.fromarray(single).resize((taps, more), Image.Resampling[FILTERS[resample]]))
    weight_NK = np.take_along_axis(answer_NK, (first_N[:, None] + np.arange(taps)) % taps, axis=1)
    # The window was wide, to be sure; weights of nothing at its ends are left out.
    used_NK = weight_NK != 0
    skipped_N = used_NK.argmax(axis=1)
    needed = int((taps - used_NK[:, ::-1].argmax(axis=1) - skipped_N).max())
    if count == more and needed == 1:
        return Mixture(np.arange(count, dtype=np.int32), np.full((1, count), 1 << BITS, np.int32))
    needed = min(count, max(2, needed))
    place_N = np.minimum(first_N + skipped_N, count - needed)
    wide_NK = np.pad(weight_NK, ((0, 0), (needed, needed)))
    picked_NK = (place_N - first_N + needed)[:, None] + np.arange(needed)
    kept_NK = np.take_along_axis(wide_NK, picked_NK, axis=1)
    return Mixture(place_N.astype(np.int32), np.ascontiguousarray(kept_NK.T, dtype=np.int32))


class _Room(threading.local):
    """Memory for the half-resized image, a thread's own, used again by the next: the system clears fresh memory."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def take(self, rows: int, columns: int) -> Pixels:
        """uint8 [rows, 3, columns], valid until the next call."""
        count = rows * 3 * columns
        if len(self.memory) < count:
            self.memory = np.empty(count, np.uint8)
        return self.memory[:count].reshape(rows, 3, columns)


_ROOM = _Room()


# What is compiled -------------------------------------------------------------------------------


class _Kernels(NamedTuple):
    across: Kernel
    down: Kernel


def _across(pixel_HWC: Any, first_N: Any, weight_KN: Any, mixed_HCN: Any) -> None:
    """Columns mixed: bytes [H, W, 3] -> [H, 3, N]."""
    taps, count = weight_KN.shape
    total_CN = np.empty((3, count), np.int32)
    for row in range(pixel_HWC.shape[0]):
        line_WC, made_CN = pixel_HWC[row], mixed_HCN[row]
        if taps == 1:
            for place in range(count):
                first = first_N[place]
                for colour in range(3):
                    made_CN[colour, place] = line_WC[first, colour]
        elif taps == 2:
            for place in range(count):
                first, one, other = first_N[place], weight_KN[0, place], weight_KN[1, place]
                for colour in range(3):
                    total = HALF + line_WC[first, colour] * one + line_WC[first + 1, colour] * other
                    made_CN[colour, place] = min(max(total >> BITS, 0), 255)
        else:
            total_CN[:] = HALF
            for tap in range(taps):
                for place in range(count):
                    column, weight = first_N[place] + tap, weight_KN[tap, place]
                    for colour in range(3):
                        total_CN[colour, place] += np.int32(np.int32(line_WC[column, colour]) * weight)
            for colour in range(3):
                for place in range(count):
                    byte = min(max(total_CN[colour, place] >> np.int32(BITS), np.int32(0)), np.int32(255))
                    made_CN[colour, place] = byte


def _down(
    mixed_HCN: Any, first_R: Any, weight_KR: Any, mean_C: Any, std_C: Any, value_CHW: Any, top: int, left: int
) -> None:
    """Rows mixed and normalised into a window of [3, H, W] that begins at `top` and `left`; black around it."""
    taps, rows = weight_KR.shape
    count, height = mixed_HCN.shape[2], value_CHW.shape[1]
    full = np.float32(255)
    total_N = np.empty(count, np.int32)
    for colour in range(3):
        mean, std = mean_C[colour], std_C[colour]
        black = (np.float32(0) / full - mean) / std
        for row in range(height):
            line = value_CHW[colour, row]
            if row < top or row >= top + rows:
                line[:] = black
                continue
            line[:left] = black
            line[left + count :] = black
            seen = line[left : left + count]
            first = first_R[row - top]
            if taps == 1:
                for place in range(count):
                    seen[place] = (np.float32(mixed_HCN[first, colour, place]) / full - mean) / std
                continue
            # The casts keep sums in 32 bits, of which a processor takes twice as many at a time.
            one, other = weight_KR[0, row - top], weight_KR[1, row - top]
            for place in range(count):
                total_N[place] = np.int32(
                    np.int32(HALF)
                    + np.int32(np.int32(mixed_HCN[first, colour, place]) * one)
                    + np.int32(np.int32(mixed_HCN[first + 1, colour, place]) * other)
                )
            for tap in range(2, taps):
                weight = weight_KR[tap, row - top]
                for place in range(count):
                    total_N[place] += np.int32(np.int32(mixed_HCN[first + tap, colour, place]) * weight)
            for place in range(count):
                byte = min(max(total_N[place] >> np.int32(BITS), np.int32(0)), np.int32(255))
                seen[place] = (np.float32(byte) / full - mean) / std


@lru_cache(maxsize=1)
def _kernels() -> _Kernels | None:
    """The compiled functions; None where they cannot be had, or do not give Pillow's bytes."""
    try:
        numba: Any = importlib.import_module("numba")
    except Exception:  # not installed, or made for an older NumPy
        return None
    if numba.config.DISABLE_JIT:
        return None
    for cached in (True, False):  # what was kept of an earlier compilation may be damaged, or have no place
        try:
            made = _compiled(numba, cached)
            return made if all(_as_pillow(made, *shapes) for shapes in _TRIED) else None
        except Exception:
            continue
    return None


def _compiled(numba: Any, cached: bool) -> _Kernels:
    types = numba.types

    def read(kind: Any, axes: int) -> Any:
        return types.Array(kind, axes, "C", readonly=True)

    mixture_of = read(types.int32, 1), read(types.int32, 2)
    across = types.void(read(types.uint8, 3), *mixture_of, types.uint8[:, :, ::1])
    triples = read(types.float32, 1), read(types.float32, 1)
    down = types.void(read(types.uint8, 3), *mixture_of, *triples, types.float32[:, :, ::1], types.intp, types.intp)
    compiled = (numba.njit(kind, nogil=True, cache=cached)(work) for kind, work in ((across, _across), (down, _down)))
    return _Kernels(*compiled)


def _as_pillow(kernels: _Kernels, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether noise of one size becomes Pillow's bytes of another."""
    pixel_HWC = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)
    value_CHW = torch.empty(3, *after)
    for resample in _REACH:
        resized(pixel_HWC, after, resample, (0, 0, 0), (1 / 255,) * 3, value_CHW, kernels=kernels)
        expected_HWC = np.asarray(Image.fromarray(pixel_HWC).resize(after[::-1], Image.Resampling[FILTERS[resample]]))
        if not np.array_equal(np.rint(value_CHW.numpy()), expected_HWC.transpose(2, 0, 1)):
            return False
    return True
