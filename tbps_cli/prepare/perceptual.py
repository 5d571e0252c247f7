"""What an image looks like, in half a kilobyte: the hashes and colours by which near-duplicates are looked for.

The hash is the perceptual hash of ImageHash (64 bits: which low frequencies of the grey image are above their median).
Files that were saved again or resized keep it within a few bits. A crop does not, so an image is also hashed in the
fifteen windows that leave out 0 or 8 % of each side: a crop of up to 12 % at each side is within 4 % of one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.errors import MissingExtra
from tbps_cli.machine import available_cpus

RADIUS = 18
"""Bits of 64 by which the hashes of a copy and of its window may differ."""
APART = 11.5
"""Mean difference of the tiles' levels (0..255), and a quarter of the differing bits, up to which two views may be of
one image; of 400 copies, cropped by up to 12 % of each side and saved again, the furthest were at 11.2."""
WINDOWS = tuple(itertools.product((0.0, 0.08), repeat=4))
"""Shares that are left out at the left, top, right and bottom; the first window is the whole image."""
_TILES = (4, 2)
"""Height and width of a view's mean colours."""
_WORKING, _HASHED = (64, 128), (32, 32)
_PART = 2048
"""Windows that a thread takes at a time."""
_BLOCK = 400_000
"""Pairs of hashes that are compared at a time: they stay in the processor's cache."""

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Progress = Callable[[int, int], None]


class Appearance(NamedTuple):
    """An image as it is compared: one row a window."""

    hash_W: Hashes
    tile_WC: NDArray[np.uint8]
    """Mean colours of 4 x 2 tiles, in one row."""


def observer() -> Callable[[Image.Image], Appearance]:
    """The function from an RGB image to its appearance. Raises MissingExtra."""
    try:
        import imagehash
    except ImportError:
        raise MissingExtra("ImageHash", "audit", "looking for near-duplicate images") from None

    def appearance(image: Image.Image) -> Appearance:
        small = image.resize(_WORKING, Image.Resampling.BILINEAR, reducing_gap=2)
        grey = small.convert("L")
        boxes = [_pixels_of(box_of(window), _WORKING) for window in range(len(WINDOWS))]
        tiles = [np.asarray(small.resize(_TILES[::-1], Image.Resampling.BOX, box)).ravel() for box in boxes]
        return Appearance(np.array([_hash(imagehash, grey, box) for box in boxes], np.uint64), np.stack(tiles))

    return appearance


def box_of(window: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of a window, as shares of width and height."""
    left, top, right, bottom = WINDOWS[window]
    return left, top, 1 - right, 1 - bottom


def _pixels_of(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def _hash(imagehash: ModuleType, grey: Image.Image, box: tuple[float, float, float, float]) -> int:
    view = grey.resize(_HASHED, Image.Resampling.LANCZOS, box)
    return int.from_bytes(np.packbits(imagehash.phash(view).hash.ravel()).tobytes())


class Alike(NamedTuple):
    """Places of views that may show the same: a window of one image, and the whole of another."""

    image_P: Places
    window_P: Places
    other_P: Places
    apart_P: NDArray[np.float32]
    """How far they are apart: see `APART`."""


def alike(images: Appearance, others: Appearance, progress: Progress | None = None) -> Iterator[Alike]:
    """All pairs of a window and a whole image that are within `RADIUS` and `APART`, block by block.

    images, others: columns of appearances, [N, W] and [N, W, C]. Such tiles have mean levels within `APART` too:
    both sides are sorted by them, so that only a band of the others is met. NumPy counts the bits of some hundred
    thousand pairs at a time, in a thread a core. progress: called with (parts done, parts in all).
    """
    order_M = np.argsort(_level(others.tile_WC[:, 0]), kind="stable")
    other_hash_M, other_tile_MC = others.hash_W[order_M, 0], others.tile_WC[order_M, 0]
    other_level_M = _level(other_tile_MC)
    level_Q = _level(images.tile_WC).reshape(-1)
    order_Q = np.argsort(level_Q, kind="stable")
    hash_Q, level_Q = images.hash_W.reshape(-1)[order_Q], level_Q[order_Q]
    image_Q, window_Q = np.divmod(order_Q, images.hash_W.shape[1])

    def compared(start: int) -> list[Alike]:
        """The pairs of `_PART` windows. Buffers are made once: new ones cost more than counting."""
        differing, bits = np.empty(_BLOCK + len(order_M), np.uint64), np.empty(_BLOCK + len(order_M), np.uint8)
        found = []
        first, stop = start, min(start + _PART, len(hash_Q))
        while first < stop:
            low, high = np.searchsorted(other_level_M, [level_Q[first] - APART, level_Q[stop - 1] + APART])
            rows = min(max(1, _BLOCK // max(1, high - low)), stop - first)
            shape = rows, high - low
            size = rows * (high - low)
            np.bitwise_xor(
                hash_Q[first : first + rows, None], other_hash_M[low:high], out=differing[:size].reshape(shape)
            )
            np.bitwise_count(differing[:size], out=bits[:size])
            place_P = np.flatnonzero(bits[:size] <= RADIUS)
            if len(place_P):
                query_P, other_P = np.divmod(place_P, high - low)
                found.append(close(query_P + first, other_P + low))
            first += rows
        return found

    def close(query_P: Places, other_P: Places) -> Alike:
        image_P, window_P = image_Q[query_P], window_Q[query_P]
        bits_P = np.bitwise_count(images.hash_W[image_P, window_P] ^ other_hash_M[other_P])
        apart_P = _apart(images.tile_WC[image_P, window_P], other_tile_MC[other_P]) + bits_P.astype(np.float32) / 4
        near = apart_P <= APART
        return Alike(image_P[near], window_P[near], order_M[other_P[near]], apart_P[near])

    starts = range(0, len(hash_Q), _PART)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for done, found in enumerate(pool.map(compared, starts), start=1):
            yield from found
            if progress:
                progress(done, len(starts))


def _level(tile_NC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean level over the last axis."""
    return tile_NC.mean(-1, dtype=np.float32)


def _apart(tile_PC: NDArray[np.uint8], other_PC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.abs(tile_PC.astype(np.int16) - other_PC).mean(1, dtype=np.float32)
