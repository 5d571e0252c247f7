"""What happens to each image of a batch, drawn for all of them at once on the CPU from the per-sample seeds.

A plan is a table of numbers, float64 [B, 1 + 5 S], made in the worker processes and carried out by
`batched.BatchAugmenter`. After the image's number come S places, one operation after the other, each with its `Kind`
and four numbers; an image that an operation passes over has `Kind.NOTHING` there. A plan depends on (seed, epoch,
caption, view) alone. Its numbers have the distribution of those that `exact.py` draws, but are other ones: drawing
in the published order means one number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tbps_cli.augment.exact import ATTEMPTS, Augment, Erase, Flip, PadCrop, PoolOfTwo, SimClr, crop_ratio, largest_box
from tbps_cli.augment.rng import BatchDraws

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

IMAGE = 0
"""The column of a plan that holds the image's number."""
PLACE = 5
"""Columns of a place: the operation's kind and its numbers."""


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
    ERASE = 9  # top, left, rows, columns of what becomes black
    BLUR = 10  # the Gaussian's standard deviation in pixels
    SHIFT = 11  # how far the window starts below and right of the image's corner (negative: in the padding)
    FILL = 12  # top, left, rows, columns of what gets the view's own value, after normalising


def refusal(how: Augment) -> str | None:
    """What of a view is not known here, as the end of a sentence; None when a plan can be drawn.

    A view uses a flip, a padded crop and an erasing after normalising at most once each, in this order; or it is made
    of TBPS-CLIP's pool, its cut of the whole image and flips.
    """
    kinds: list[type] = [type(step) for step in how.steps]
    if how.whole is not None:
        kinds.append(type(how.whole))
    plain = is_plain(how)
    known = (Flip, PadCrop, Erase) if plain else (PoolOfTwo, SimClr, Flip)
    unknown = next((kind.__name__ for kind in kinds if kind not in known), None)
    if unknown is not None:
        return f"uses {unknown}" + (" beside its operations" if unknown in ("PadCrop", "Erase") else "")
    if plain and kinds != [kind for kind in known if kind in kinds]:
        return "uses an unusual order"
    if any(isinstance(step, Erase) and not step.after_normalise for step in how.steps):
        return "erases before normalising"
    return None


def is_plain(how: Augment) -> bool:
    """Whether the view only moves and erases: a flip, a padded crop and an erasing after normalising."""
    return how.whole is None and not any(isinstance(step, PoolOfTwo) for step in how.steps)


def draw(
    how: Augment, size: tuple[int, int], seed_B: Sequence[int], image_B: Counts, shape_B2: Counts | None = None
) -> Numbers:
    """A view's plan for these images.

    seed_B: one number a sample, as `Draws.of(...).seed` has it. shape_B2: height and width of the images before
    their resize to `size`, in which views of the whole image are cut; None takes `size`.
    """
    draws, places = BatchDraws(seed_B), list[Numbers]()
    if how.whole is not None:
        shapes = np.broadcast_to(size, (len(image_B), 2)) if shape_B2 is None else shape_B2
        places += _simclr(how.whole, size, draws, shapes)
    for step in how.steps:
        if isinstance(step, PoolOfTwo):
            places += [place for _ in range(step.count) for place in _pool(step, size, draws)]
        elif isinstance(step, Flip):
            places.append(_place(Kind.FLIP, draws.chance(step.p)))
        elif isinstance(step, PadCrop):
            start_B2 = _whole(draws.share(2), 2 * step.padding + 1) - step.padding
            places.append(_place(Kind.SHIFT, np.ones(len(image_B), bool), start_B2))
        elif isinstance(step, Erase):
            places.append(_erased(Kind.FILL, step, size, draws))
    return np.concatenate([image_B[:, None].astype(np.float64), *places], axis=1)


def _place(kind: int | Counts, where_B: Flags, number_BX: Numbers | Counts | None = None) -> Numbers:
    """[B, 5]: the operation and its numbers where it is to be done, nothing elsewhere."""
    place = np.zeros((len(where_B), PLACE))
    place[:, 0] = kind
    if number_BX is not None:
        place[:, 1 : 1 + number_BX.shape[1]] = number_BX
    return place * where_B[:, None]


def _pool(pool: PoolOfTwo, size: tuple[int, int], draws: BatchDraws) -> list[Numbers]:
    """Three places for one operation of the pool: a jitter takes all three, any other the first.

    Every operation is drawn for every image, and the one that the image chose is taken.
    """
    chosen_B = _whole(draws.share(1)[:, 0], pool.kinds)
    every, none = np.ones(len(chosen_B), bool), np.zeros((len(chosen_B), PLACE))
    cropped = _place(Kind.CROP, every, _crop_boxes(draws, np.array([size]), pool.scale, crop_ratio(size)))
    erased = _erased(Kind.ERASE, pool.erase, size, draws)
    rotated = _place(Kind.ROTATE, every, draws.uniform(-pool.degrees, pool.degrees))
    grey = _place(Kind.GREY, draws.chance(pool.grey_p))
    flipped = _place(Kind.FLIP, draws.chance(pool.flip.p))
    single = [rotated, cropped, grey, flipped, erased]
    options = [_jitter(draws, (pool.jitter,) * 3, every), *([place, none, none] for place in single)]
    place_OBSP = np.stack([np.stack(places, axis=1) for places in options])
    return list(place_OBSP[chosen_B, np.arange(len(chosen_B))].transpose(1, 0, 2))


def _jitter(draws: BatchDraws, ranges: Sequence[float], where_B: Flags) -> list[Numbers]:
    """Brightness, contrast, saturation and perhaps hue, in a drawn order."""
    order_BK = draws.share(len(ranges)).argsort(axis=1)
    middle = np.array([1.0, 1.0, 1.0, 0.0][: len(ranges)])
    number_BK = middle + np.array(ranges) * draws.uniform(-1.0, 1.0, len(ranges))
    number_BK = np.take_along_axis(number_BK, order_BK, axis=1)
    return [
        _place(Kind.BRIGHTNESS + order_BK[:, place], where_B, number_BK[:, [place]]) for place in range(len(ranges))
    ]


def _simclr(view: SimClr, size: tuple[int, int], draws: BatchDraws, shape_B2: Counts) -> list[Numbers]:
    """Seven places: crop, four of the jitter, grey and blur. The box is drawn in the image's own pixels."""
    box_B4 = _crop_boxes(draws, shape_B2, view.scale, crop_ratio(size))
    shrunk_B4 = np.tile(np.array(size) / shape_B2, 2)
    return [
        _place(Kind.CROP, np.ones(len(shape_B2), bool), box_B4 * shrunk_B4),
        *_jitter(draws, view.jitter, draws.chance(view.jitter_p)),
        _place(Kind.GREY, draws.chance(view.grey_p)),
        _place(Kind.BLUR, draws.chance(view.blur_p), draws.uniform(*view.blur)),
    ]


# Rectangles: ten attempts are drawn for each image, and the first that fits is taken --------------


def _erased(kind: Kind, step: Erase, size: tuple[int, int], draws: BatchDraws) -> Numbers:
    """[B, 5]: the rectangle of `Erase`; images without one, and those where none fits, are left alone."""
    happens_B, start_B2 = draws.chance(step.p), draws.share(2)
    rows, columns = _sides(draws, np.array([size]), step.area, step.ratio)
    fits = (rows < size[0]) & (columns < size[1])
    box_B4 = _first_fitting(fits, rows, columns, start_B2, np.array([size]))
    return _place(kind, happens_B & fits.any(axis=1), box_B4)


def _crop_boxes(draws: BatchDraws, shape_X2: Counts, scale: tuple[float, float], ratio: tuple[float, float]) -> Counts:
    """[B, 4]: the boxes of `exact.crop_box` for images of these heights and widths (one for all, or one each)."""
    columns, rows = _sides(draws, shape_X2, scale, ratio)
    fits = (columns > 0) & (columns <= shape_X2[:, 1:]) & (rows > 0) & (rows <= shape_X2[:, :1])
    drawn_B4 = _first_fitting(fits, rows, columns, draws.share(2), shape_X2)
    largest_X4 = np.array([largest_box(height, width, ratio) for height, width in shape_X2.tolist()])
    return np.where(fits.any(axis=1, keepdims=True), drawn_B4, largest_X4)


def _sides(
    draws: BatchDraws, shape_X2: Counts, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Counts, Counts]:
    """Both sides [B, 10] of the rectangles of `exact._draw_sides`: drawn area, drawn ratio of first to second."""
    covered_BA = shape_X2.prod(axis=1, keepdims=True) * draws.uniform(*area, ATTEMPTS)
    shape_BA = np.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1]), ATTEMPTS))
    first, second = (np.rint(np.sqrt(side)).astype(np.int64) for side in (covered_BA * shape_BA, covered_BA / shape_BA))
    return first, second


def _first_fitting(fits_BA: Flags, rows_BA: Counts, columns_BA: Counts, start_B2: Numbers, shape_X2: Counts) -> Counts:
    """[B, 4] top, left, rows, columns of each image's first attempt that fits; any where none does.

    start_B2: draws from [0, 1) for where the rectangle lies.
    """
    first = np.arange(len(fits_BA)), fits_BA.argmax(axis=1)
    side_B2 = np.stack([rows_BA[first], columns_BA[first]], axis=1)
    return np.concatenate([_whole(start_B2, shape_X2 - side_B2 + 1), side_B2], axis=1)


def _whole(share: Numbers, count: Counts | int) -> Counts:
    """Draws from [0, 1) -> whole numbers 0..count-1."""
    return np.floor(share * count).astype(np.int64)
