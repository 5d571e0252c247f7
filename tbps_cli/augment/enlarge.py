"""Pillow's bilinear enlargement in two thirds of its time, to the last bit, for images that become bytes of a tensor.

Most crops of persons are lower than what a model sees. Pillow resizes columns, rounds to bytes, then resizes rows; each
byte of the second half is (a (2^22 - k) + b k + 2^21) >> 22, of the bytes a and b above and below it. Pillow computes
this pixel by pixel, PyTorch here for whole rows, in the same integers: (a 2^22 + 2^21 + (b - a) k) >> 22. The numbers k
of a height are tried against Pillow before they are used; where any byte differs, Pillow does it all.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tbps_cli.augment.transform import Resample, resized

BITS = 22
"""Of Pillow's weights (`PRECISION_BITS` in its Resample.c)."""
HALF = 1 << (BITS - 1)


class RowMixture(NamedTuple):
    """Where each row of a higher image comes from."""

    above: Tensor
    """[H] int64, the row above it."""
    share: Tensor
    """[H, 1] int32, weight of the row below that one, times 2^22."""


def resized_bytes(image: Image.Image, size: tuple[int, int], resample: Resample) -> Tensor:
    """RGB image -> uint8 [1, 3, H, W] of `size` (height, width), equal to `resized`; channels lie row by row."""
    rows = _rows_from(image.height, size[0]) if resample == "bilinear" and image.height < size[0] else None
    if rows is None:
        return bytes_of(resized(image, size, resample))
    return _enlarged(bytes_of(resized(image, (image.height, size[1]), resample)), rows)


def bytes_of(image: Image.Image) -> Tensor:
    """RGB image -> uint8 [1, 3, H, W], a view of rows that hold their reds, then greens, then blues.

    Pillow writes this order as fast as any; channels as planes would take a copy with steps of three bytes.
    """
    rows = torch.frombuffer(bytearray(image.tobytes("raw", "RGB;L")), dtype=torch.uint8)
    return rows.view(1, image.height, 3, image.width).transpose(1, 2)


class _Room(threading.local):
    """Memory for intermediate values, a thread's own, used again by the next image.

    Fresh memory of half a megabyte is given back to the system at once and cleared by it each time, which takes longer
    than all of the arithmetic.
    """

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.int32)

    def take(self, counts: Sequence[int], width: int) -> list[Tensor]:
        """int32 [count, width] for each of the counts, valid until the next call."""
        if len(self.memory) < sum(counts) * width:
            self.memory = torch.empty(sum(counts) * width, dtype=torch.int32)
        return list(self.memory[: sum(counts) * width].view(-1, width).split(list(counts)))


_ROOM = _Room()


def _enlarged(pixel_BCHW: Tensor, rows: RowMixture) -> Tensor:
    """[1, 3, H, W] as `bytes_of` gives it -> the same with other rows."""
    _, colours, count, width = pixel_BCHW.shape
    more = len(rows.above)
    row_HX, step_HX, mixed_HX, other_HX = _ROOM.take((count, count, more, more), colours * width)
    row_HX.copy_(pixel_BCHW.transpose(1, 2).reshape(count, -1))
    torch.sub(row_HX[1:], row_HX[:-1], out=step_HX[:-1])
    step_HX[-1] = 0
    row_HX.bitwise_left_shift_(BITS).add_(HALF)
    torch.index_select(row_HX, 0, rows.above, out=mixed_HX)
    torch.index_select(step_HX, 0, rows.above, out=other_HX)
    pixel_HX = mixed_HX.addcmul_(other_HX, rows.share).bitwise_right_shift_(BITS).to(torch.uint8)
    return pixel_HX.view(1, more, colours, width).transpose(1, 2)


@lru_cache(maxsize=4096)
def _rows_from(count: int, more: int) -> RowMixture | None:
    """How `count` rows become `more`; None where this Pillow makes them otherwise."""
    middle = (np.arange(more) + 0.5) * (count / more)
    first = np.maximum((middle - 0.5).astype(np.int64), 0)
    last = np.minimum((middle + 1.5).astype(np.int64), count)
    weight_H2 = 1.0 - np.abs(first[:, None] + np.arange(2) - middle[:, None] + 0.5)
    weight_H2[last - first < 2, 1] = 0
    share = (0.5 + weight_H2[:, 1] / weight_H2.sum(1) * (1 << BITS)).astype(np.int32)
    rows = RowMixture(torch.from_numpy(first), torch.from_numpy(share)[:, None])
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = bytes_of(image.resize((32, more), Image.Resampling.BILINEAR))
    return rows if torch.equal(_enlarged(bytes_of(image), rows), expected) else None
