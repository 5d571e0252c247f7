"""Dot products with rows in half precision as they are stored, by numkong's kernels where they are there and right.

Widening a row to float32 costs more than its product with a query; these kernels read half precision and add in
float32. The query has to be in half precision too, so their scores are near the exact ones, not equal to them. How
near is known, so that nothing is lost: `rank` takes every row that can be among the best and scores these few exactly.

How near. q is the query, h the query rounded to half precision, g a row of E numbers no longer than L. Rounding q
changes the score by |(q - h) . g| <= |q - h| L (Cauchy-Schwarz). Adding E products in float32, in whatever order, is
off by at most c |h| L, where c = E u / (1 - E u) and u = 2^-24; scoring a row exactly, in float32, by c |q| L. So

    |quick - exact| <= e := (|q - h| + c (|h| + |q|)) L.

Let t be the k-th best quick score. k rows have exact scores of t - e at least, so every one of the best k has too, and
its quick score is at least t - 2 e: the rows from there on hold the best k, and all that are equal to one of them.
For a unit query of 512 numbers e is about 0.0003.

Without numkong, and where its kernels are slow or wrong by more than this, `rank` widens rows instead.
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

logger = logging.getLogger("tbps")

SINGLE = 2.0**-24
"""Relative rounding error of float32."""
ROWS = 8192
"""Rows of one call for one query."""
CACHED = 512
"""Rows of one call for several queries: half a megabyte at 512 columns, which stays in the processor's cache."""
COPIED = 32
"""Up to so many queries, copying rows into the cache first saves more than it costs."""
HALF_MAX = float(np.finfo(np.float16).max)
SLACK = 1.001
"""Lengths are computed in float32."""

_length_of: dict[int, tuple[weakref.ref[Array], float]] = {}


def bound(query_QE: Array, half_QE: Array, longest: float) -> Floats:
    """e of each query: how far quick and exact scores of rows no longer than `longest` can be apart."""
    summing = sum_error(query_QE.shape[1]) * (lengths(half_QE) + lengths(query_QE))
    return (lengths(query_QE - half_QE.astype(np.float64)) + summing) * longest


def lengths(row_QE: Array) -> Floats:
    wide = row_QE.astype(np.float64)
    return np.sqrt(np.vecdot(wide, wide))


def sum_error(width: int) -> float:
    """c: by which part of |q| |g| a dot product of so many numbers can be off in float32, in any order."""
    return width * SINGLE / (1 - width * SINGLE)


def kernels(width: int) -> ModuleType | None:
    """numkong, where rows of this width are quick in it and its scores are as near as they must be."""
    numkong = library()
    return numkong if numkong is not None and _fit(width) else None


@functools.cache
def library() -> ModuleType | None:
    """numkong, if it can be imported."""
    try:
        import numkong
    except ImportError:  # no wheel for this machine
        logger.debug("numkong is not there: rows in half precision are widened with numpy")
        return None
    return numkong


@functools.cache
def _fit(width: int) -> bool:
    """Tried once for each width, in a few milliseconds."""
    rng = np.random.default_rng(0)
    row_GE = rng.standard_normal((512, width)).astype(np.float16)
    query_QE = rng.standard_normal((5, width)).astype(np.float16)
    exact_QG = query_QE.astype(np.float64) @ row_GE.astype(np.float64).T
    length_G = np.linalg.norm(row_GE.astype(np.float64), axis=1)
    most_QG = sum_error(width) * np.linalg.norm(query_QE.astype(np.float64), axis=1)[:, None] * length_G
    for count in (1, 5):
        if not (np.abs(scores(query_QE[:count], row_GE) - exact_QG[:count]) <= most_QG[:count]).all():
            logger.debug("numkong's scores of rows in half precision are off here: numpy widens them")
            return False
    wide_E = query_QE[0].astype(np.float32)
    quick = _fastest(lambda: scores(query_QE[:1], row_GE))
    exact = _fastest(lambda: np.vecdot(widen(row_GE, np.empty(row_GE.shape, np.float32)), wide_E))
    logger.debug("one query, 512 rows in half precision: %.3f ms by numkong, %.3f ms widened", quick, exact)
    return quick < exact


def _fastest(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


@functools.cache
def _widens() -> ModuleType | None:
    """numkong, where it widens every number in half precision as numpy does."""
    numkong = library()
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    if numkong is None or not np.array_equal(numkong.astype(half, "float32"), half.astype(np.float32), equal_nan=True):
        return None
    return numkong


def widen(half: Array, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half precision as float32, exactly, written to `out`."""
    numkong = _widens()
    if numkong is not None and half.size:
        numkong.astype(half, "float32", out=out)
        return out
    # The bits of half precision are shifted into place and scaled: exact, and four times as fast as `astype`.
    bits = np.left_shift(half.view(np.int16), 13, out=out.view(np.int32), dtype=np.int32)
    bits &= ~0x70000000  # the shift copied the sign into the three bits below it
    out *= np.float32(2.0**112)  # the exponents count from -15 in half precision, from -127 in float32
    # infinity and NaN have become finite numbers beyond those that half precision can hold
    if out.size and (out.max() > HALF_MAX or out.min() < -HALF_MAX):
        out[:] = half
    return out


def scores(half_QE: Array, row_GE: Array) -> Array:
    """Scores [Q, G] of queries and rows that are both in half precision."""
    return Queries(half_QE).scores(lambda start, stop: row_GE[start:stop], 0, len(row_GE))


class Queries:
    """Queries in half precision, as numkong takes them."""

    def __init__(self, half_QE: Array) -> None:
        numkong = library()
        assert numkong is not None
        self.numkong, self.half_QE = numkong, half_QE
        self.packed = numkong.dots_pack(half_QE, dtype=numkong.float16) if len(half_QE) > 1 else None

    def scores(self, block: Callable[[int, int], Array], start: int, stop: int) -> Array:
        """Scores [Q, G] of the rows from `start` up to `stop`, which `block` gives a few at a time."""
        if self.packed is None:
            parts = [
                np.asarray(self.numkong.cdist(self.half_QE, block(first, min(first + ROWS, stop)), "dot"))
                for first in range(start, stop, ROWS)
            ]
            return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        out_GQ = self.numkong.zeros((stop - start, len(self.half_QE)), dtype="float32")
        buffer = np.empty((CACHED, self.half_QE.shape[1]), np.float16) if len(self.half_QE) <= COPIED else None
        for first in range(start, stop, CACHED):
            last = min(first + CACHED, stop)
            row_RE = block(first, last)
            if buffer is not None:  # numkong waits for the memory where rows do not lie in the cache
                buffer[: last - first] = row_RE
                row_RE = buffer[: last - first]
            self.numkong.dots_packed(row_RE, self.packed, out=out_GQ[first - start : last - start])
        return np.asarray(out_GQ).T


def longest(row_GE: Array) -> float:
    """No row in half precision is longer than this; NaN or infinity where a row holds them."""
    numkong = library()
    assert numkong is not None
    return SLACK * float(np.sqrt(np.max(numkong.dot(row_GE, row_GE)))) if len(row_GE) else 0.0


def known_length(row_GE: Array) -> float | None:
    """What `remember_length` was told of this very array."""
    there = _length_of.get(id(row_GE))
    return there[1] if there and there[0]() is row_GE else None


def remember_length(row_GE: Array, length: float) -> None:
    """Keep the longest row of an array that nobody can write to, such as a map of a file, while it lives."""
    base: Any = row_GE
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return
        base = base.base
    key = id(row_GE)
    _length_of[key] = weakref.ref(row_GE, lambda _: _length_of.pop(key, None)), length
