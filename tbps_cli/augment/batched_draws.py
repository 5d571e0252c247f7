"""What happens to each image of a batch, drawn vectorised on the CPU from the per-sample seeds.

A plan is a table of numbers with a row an image, made in the worker processes and carried out by
`device.BatchAugmenter`. It depends on (seed, epoch, caption, view) alone. Two kinds:

* plain views (flip, padded crop, erasing after normalising): int64 [B, 8], see the columns below;
* views made of operations (TBPS-CLIP's pool of two and its self-supervised views): float64 [B, 1 + 5 S]. After the
  image's number come S places, one operation after the other, each with its `Kind` and four numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tbps_cli.augment import ops as operations
from tbps_cli.augment.exact import Augment, Erase, Flip, PadCrop, PoolOfTwo, SimClr

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]

IMAGE, FLIP, DOWN, RIGHT, TOP, LEFT, ROWS, COLUMNS = range(8)
"""Columns of a plain view's plan: the image's number, whether it is mirrored, how far the cut starts below and right
of the image's corner (negative: in the padding), and the erased rectangle (0 rows: none)."""

PLACE = 5
"""Columns of a place: the operation's kind and its numbers."""

_ATTEMPTS = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Kind(IntEnum):
    """An operation, and its numbers."""

    NOTHING = 0
    BRIGHTNESS = 1  # factor
    CONTRAST = 2  # factor
    SATURATION = 3  # factor
    HUE = 4  # share of the circle, -0.5..0.5
    GREY = 5
    ROTATE = 6  # degrees, counter-clockwise
    CROP = 7  # top, left, rows, columns: where the cut lies, in fractions of a pixel too
    FLIP = 8
    ERASE = 9  # top, left, rows, columns
    BLUR = 10  # the Gaussian's standard deviation in pixels


def made_of_operations(how: Augment) -> bool:
    """Whether the view's plan has places for operations; otherwise it is a plain one."""
    return how.whole is not None or any(isinstance(step, PoolOfTwo) for step in how.steps)


def uniform(seed_B: NDArray[np.uint64], count: int, after: int = 0) -> Numbers:
    """[B] seeds -> [B, count] independent draws from [0, 1), 53 bits each; those that follow the first `after`.

    Source: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), whose
    n-th number follows from seed and n without the ones before.
    """
    with np.errstate(over="ignore"):
        bits = seed_B[:, None] + _GOLDEN * np.arange(after + 1, after + count + 1, dtype=np.uint64)
        bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Shares:
    """The draws of many samples, taken from the left: each sample has numbers of its own."""

    def __init__(self, seed_B: NDArray[np.uint64]) -> None:
        self.seed_B, self.taken = seed_B, 0

    def take(self, count: int) -> Numbers:
        """[B, count] from [0, 1)."""
        self.taken += count
        return uniform(self.seed_B, count, self.taken - count)

    def between(self, low: float, high: float, count: int = 1) -> Numbers:
        """[B, count] from [low, high)."""
        return low + (high - low) * self.take(count)

    def once_in(self, p: float) -> NDArray[np.bool_]:
        """[B], true with probability p."""
        happens: NDArray[np.bool_] = self.take(1)[:, 0] < p
        return happens


def draw(
    how: Augment, size: tuple[int, int], seed_B: Sequence[int], image_B: Counts, shape_B2: Counts | None = None
) -> NDArray[np.int64] | Numbers:
    """A view's plan for these images.

    seed_B: one number a sample, as `Draws.of(...).seed` has it. shape_B2: height and width of the images before
    their resize to `size`, in which views of the whole image are cut; None takes `size`.
    """
    seeds = np.array(seed_B, dtype=np.uint64)
    if not made_of_operations(how):
        return _plain(how, size, seeds, image_B)
    shape_B2 = np.broadcast_to(size, (len(image_B), 2)) if shape_B2 is None else shape_B2
    shares, places = Shares(seeds), []
    if how.whole is not None:
        places += _simclr(how.whole, size, shares, shape_B2)
    for step in how.steps:
        if isinstance(step, PoolOfTwo):
            places += [place for _ in range(step.count) for place in _pool(size, shares)]
        elif isinstance(step, Flip):
            places.append(_place(Kind.FLIP, shares.once_in(step.p)))
    return np.concatenate([image_B[:, None].astype(np.float64), *places], axis=1)


# Plain views --------------------------------------------------------------------------------


def _plain(how: Augment, size: tuple[int, int], seed_B: NDArray[np.uint64], image_B: Counts) -> Counts:
    share = uniform(seed_B, 6 + 2 * _ATTEMPTS)
    plan = np.zeros((len(image_B), 8), np.int64)
    plan[:, IMAGE] = image_B
    for step in how.steps:
        if isinstance(step, Flip):
            plan[:, FLIP] = share[:, 0] < step.p
        elif isinstance(step, PadCrop):
            plan[:, [DOWN, RIGHT]] = _whole(share[:, 1:3], 2 * step.padding + 1) - step.padding
        elif isinstance(step, Erase):
            plan[:, TOP:] = _rectangles(step, size, share[:, 3:])
    return plan


def _rectangles(step: Erase, size: tuple[int, int], share: Numbers) -> Counts:
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


def _whole(share: Numbers, count: Counts | int) -> Counts:
    """Draws from [0, 1) -> whole numbers 0..count-1."""
    return np.floor(share * count).astype(np.int64)


# Views made of operations -------------------------------------------------------------------


def _place(kind: int | Counts, where_B: NDArray[np.bool_], number_BX: Numbers | Counts | None = None) -> Numbers:
    """[B, 5]: the operation and its numbers where it is to be done, nothing elsewhere."""
    place = np.zeros((len(where_B), PLACE))
    place[:, 0] = kind
    if number_BX is not None:
        place[:, 1 : 1 + number_BX.shape[1]] = number_BX
    return place * where_B[:, None]


def _pool(size: tuple[int, int], shares: Shares) -> list[Numbers]:
    """Three places for one of the pool's operations, in the order of `operations.POOL`; see there."""
    chosen_B = _whole(shares.take(1)[:, 0], len(operations.POOL))
    every, none = np.ones(len(chosen_B), bool), np.zeros((len(chosen_B), PLACE))
    box_B4 = _boxes(shares, np.array([size]), operations.CROP, operations.crop_ratio(size))
    erased_B4 = _rectangles(operations.ERASE, size, shares.take(3 + 2 * _ATTEMPTS))
    single = [
        _place(Kind.ROTATE, every, shares.between(-operations.DEGREES, operations.DEGREES)),
        _place(Kind.CROP, every, box_B4),
        _place(Kind.GREY, shares.once_in(operations.GREY_P)),
        _place(Kind.FLIP, shares.once_in(operations.FLIP.p)),
        _place(Kind.ERASE, erased_B4[:, 2] > 0, erased_B4),
    ]
    options = [_jitter(shares, (operations.JITTER,) * 3, every), *([place, none, none] for place in single)]
    found_OBPX = np.stack([np.stack(places, axis=1) for places in options])
    return list(found_OBPX[chosen_B, np.arange(len(chosen_B))].transpose(1, 0, 2))


def _jitter(shares: Shares, ranges: Sequence[float], where_B: NDArray[np.bool_]) -> list[Numbers]:
    """Brightness, contrast, saturation and perhaps hue, in a drawn order."""
    order_BK = shares.take(len(ranges)).argsort(axis=1)
    middle = np.array([1.0, 1.0, 1.0, 0.0][: len(ranges)])
    number_BK = middle + np.array(ranges) * shares.between(-1.0, 1.0, len(ranges))
    number_BK = np.take_along_axis(number_BK, order_BK, axis=1)
    return [
        _place(Kind.BRIGHTNESS + order_BK[:, place], where_B, number_BK[:, [place]]) for place in range(len(ranges))
    ]


def _simclr(view: SimClr, size: tuple[int, int], shares: Shares, shape_B2: Counts) -> list[Numbers]:
    """Seven places: crop, four of the jitter, grey and blur. The box is drawn in the image's own pixels."""
    every = np.ones(len(shape_B2), bool)
    box_B4 = _boxes(shares, shape_B2, view.scale, operations.crop_ratio(size))
    shrunk_B4 = np.tile(np.array(size) / shape_B2, 2)
    return [
        _place(Kind.CROP, every, box_B4 * shrunk_B4),
        *_jitter(shares, view.jitter, shares.once_in(operations.SIMCLR_JITTER_P)),
        _place(Kind.GREY, shares.once_in(operations.SIMCLR_GREY_P)),
        _place(Kind.BLUR, shares.once_in(operations.SIMCLR_BLUR_P), shares.between(*operations.SIMCLR_BLUR)),
    ]


def _boxes(shares: Shares, shape_X2: Counts, scale: tuple[float, float], ratio: tuple[float, float]) -> Counts:
    """[B, 4] top, left, rows, columns: `operations.crop_box` for images of these heights and widths."""
    height_X1, width_X1 = shape_X2[:, :1], shape_X2[:, 1:]
    area = height_X1 * width_X1 * shares.between(*scale, _ATTEMPTS)
    shape = np.exp(shares.between(math.log(ratio[0]), math.log(ratio[1]), _ATTEMPTS))
    rows, columns = (np.rint(np.sqrt(sides)).astype(np.int64) for sides in (area / shape, area * shape))
    fits = (columns > 0) & (columns <= width_X1) & (rows > 0) & (rows <= height_X1)
    first = (np.arange(len(fits)), fits.argmax(1))
    never_B1 = ~fits.any(axis=1, keepdims=True)
    whole_X4 = np.array([operations.largest_box(height, width, ratio) for height, width in shape_X2.tolist()])
    room_B2 = shape_X2 - np.stack([rows[first], columns[first]], axis=1)
    drawn_B4 = np.concatenate([_whole(shares.take(2), room_B2 + 1), shape_X2 - room_B2], axis=1)
    return np.where(never_B1, whole_X4, drawn_B4)
