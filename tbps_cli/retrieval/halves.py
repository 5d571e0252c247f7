"""Dot products in 16 bits by numkong's kernels, where they are there and right: quick, and off by a known bound.

Rows in float16 are read as they are stored, since widening a row costs more than its product with a query. For many
queries rows are rounded to bfloat16 on the way, where the processor multiplies that itself: twice as fast as float32.
Queries are rounded to the same type. Sums are in float32. So these scores are near the exact ones, not equal to them.
How near is known, so nothing is lost: `rank` takes every row that can be among the best and scores these few exactly.

How near. q is the query, h the query rounded, g a row of E numbers no longer than L, and r the largest relative error
of rounding it: 0 for float16 as it is stored, 2^-8 for bfloat16. Rounding changes the score by at most
|q - h| L + r |h| L (Cauchy-Schwarz). Adding E products in float32, in whatever order, is off by at most
c (1 + r) |h| L, where c = E u / (1 - E u) and u = 2^-24; scoring a row exactly, in float32, by c |q| L. So

    |quick - exact| <= e := (|q - h| + (r + c (1 + r)) |h| + c |q|) L

and what is lost of numbers that are too small for float32 (`lost`).

Let t be the k-th best quick score. k rows have exact scores of t - e at least, so every one of the best k has too, and
its quick score is at least t - 2 e: the rows from there on hold the best k, and all that are equal to one of them.
For a unit query of 512 numbers e is about 0.0003 in float16 and 0.006 in bfloat16. Where so many rows are that near to
the best that scoring them again would take long, `rank` goes on to the next way.

Without numkong, and where its kernels are slow or off by more than this, `rank` widens rows instead.
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Kind = Literal["float16", "bfloat16"]
Block = Callable[[int, int], Array]
"""Gives the rows from one place up to another."""

logger = logging.getLogger("tbps")

SINGLE = 2.0**-24
"""Relative rounding error of float32."""
ROWS = 8192
"""Rows of one call for one query."""
CACHED = 1024
"""Rows of one call for several queries: a megabyte at 512 columns, which stays in the processor's cache."""
COPIED = 32
"""Up to so many queries, copying rows into the cache first saves more than it costs."""
HALF_MAX = float(np.finfo(np.float16).max)
BRAIN_ERROR = 2.0**-8
"""Largest relative error of rounding to bfloat16."""
BRAIN = ("genoa", "sapphireamx", "graniteamx", "neonbfdot", "svebfdot", "smebf16")
"""numkong's names for processors that multiply bfloat16."""
TILES = ("sapphireamx", "graniteamx")
"""Its names for processors that multiply tiles of 8-bit integers and bfloat16 (Intel's AMX)."""
FOLDED = 4
"""Rows taken for one with one query, on such processors: a million of 512 in 53 ms, which is what reading them takes,
one by one 77 ms."""
PACKED = 64
"""Queries of one product: more do not stay in the nearest cache."""
LEAST = 2.0**-126
"""Numbers nearer to 0 have fewer bits in float32, and some kernels take them for 0."""
SLACK = 1.001
"""Lengths are computed in float32."""

_known: dict[tuple[int, str], tuple[weakref.ref[Array], Any]] = {}


def lengths(row_QE: Array) -> Floats:
    wide = row_QE.astype(np.float64)
    return np.sqrt(np.vecdot(wide, wide))


def sum_error(width: int) -> float:
    """c: by which part of |q| |g| a dot product of so many numbers can be off in float32, in any order."""
    return width * SINGLE / (1 - width * SINGLE)


def lost(length: Any, longest: float, width: int) -> Any:
    """How far a score of a query and a row of such lengths can be off by numbers that were taken for 0."""
    return width * LEAST * (3 + length + longest)


def fit(kind: Kind, width: int) -> bool:
    """Whether numkong is quick with rows of this width, and its scores as near as they must be."""
    if library() is None:
        return False
    return _right(kind, width) and (_multiplies_brain() if kind == "bfloat16" else _quick_with_halves(width))


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
def _right(kind: Kind, width: int) -> bool:
    """Tried once for each width, in a few milliseconds."""
    rng = np.random.default_rng(0)
    row_GE = rng.standard_normal((512, width)).astype(np.float16)
    query_QE = rng.standard_normal((5, width)).astype(np.float32)
    for queries in (RoundedQueries(query_QE[:1], kind), RoundedQueries(query_QE, kind)):
        exact_QG = queries.rounded_QE @ row_GE.astype(np.float64).T
        most_QG = queries.error(queries.rounded_QE, 1.0)[:, None] * lengths(row_GE)
        if not (np.abs(queries.scores_of(row_GE) - exact_QG) <= most_QG).all():
            logger.debug("numkong's scores in %s are off here: it is not used for them", kind)
            return False
    return True


@functools.cache
def _quick_with_halves(width: int) -> bool:
    """Whether one query is quicker than with rows that are widened."""
    row_GE = np.random.default_rng(0).standard_normal((512, width)).astype(np.float16)
    wide_GE = row_GE.astype(np.float32)
    queries = RoundedQueries(wide_GE[:1], "float16")
    quick = _fastest(lambda: queries.scores_of(row_GE))
    exact = _fastest(lambda: np.vecdot(widen(row_GE, wide_GE), wide_GE[0]))
    logger.debug("one query, 512 rows in float16: %.3f ms by numkong, %.3f ms widened", quick, exact)
    return quick < exact


@functools.cache
def _multiplies_brain() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    numkong = library()
    return numkong is not None and any(numkong.get_capabilities().get(name) for name in BRAIN)


@functools.cache
def multiplies_tiles() -> bool:
    """Whether this processor multiplies tiles, and so has kernels for one query that take longer than the memory."""
    numkong = library()
    return numkong is not None and any(numkong.get_capabilities().get(name) for name in TILES)


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


class RoundedQueries:
    """Queries in 16 bits, as numkong takes them."""

    def __init__(self, query_QE: Array, kind: Kind, *, near: bool = False) -> None:
        """near: rows lie in the processor's cache. Raises OverflowError for queries that the type cannot hold."""
        numkong = library()
        assert numkong is not None
        self.numkong, self.kind, (self.count, self.width) = numkong, kind, query_QE.shape
        with np.errstate(over="ignore"):
            single_QE = np.ascontiguousarray(query_QE, np.float32)
        rounded = numkong.astype(single_QE, kind)
        self.rounded_QE: Floats = np.asarray(numkong.astype(rounded, "float32")).astype(np.float64)
        if not np.isfinite(self.rounded_QE).all():
            raise OverflowError
        self.one = np.asarray(rounded) if kind == "float16" and self.count == 1 else None
        self.folded = None
        if self.one is not None and multiplies_tiles():
            self.folded = numkong.dots_pack(folded(self.one[0], FOLDED), dtype=numkong.float16)
        # numkong waits for the memory where rows do not lie in the cache
        self.copied = kind == "bfloat16" or (not near and self.count <= COPIED)
        self.packed = (
            []
            if self.one is not None
            else [
                numkong.dots_pack(rounded[start : min(start + PACKED, self.count)], dtype=getattr(numkong, kind))
                for start in range(0, self.count, PACKED)
            ]
        )

    def error(self, query_QE: Array, longest: float) -> Floats:
        """e of each query: how far quick and exact scores of rows no longer than `longest` can be apart."""
        row, adding = BRAIN_ERROR if self.kind == "bfloat16" else 0.0, sum_error(self.width)
        rounding, length = lengths(query_QE - self.rounded_QE), lengths(query_QE)
        whole = rounding + (row + adding * (1 + row)) * lengths(self.rounded_QE) + adding * length
        return whole * longest + lost(length, longest, self.width)

    def scores_of(self, row_GE: Array) -> Array:
        return self.scores(lambda start, stop: row_GE[start:stop], 0, len(row_GE))

    def scores(self, block: Block, start: int, stop: int, seen: list[float] | None = None) -> Array:
        """Scores [Q, G] of the rows from `start` up to `stop`, which `block` gives a few at a time.

        seen: takes the lengths of the longest rows.
        """
        if self.one is not None:
            parts = [self._of_one(block(first, min(first + ROWS, stop))) for first in range(start, stop, ROWS)]
            return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        buffer = self.numkong.zeros((min(CACHED, stop - start), self.width), dtype=self.kind) if self.copied else None
        # one product writes where its scores stay; several, side by side, do not
        alone = len(self.packed) == 1
        out_GQ = self.numkong.zeros((stop - start, self.count), dtype="float32")
        for first in range(start, stop, CACHED):
            size = min(CACHED, stop - first)
            row_RE = block(first, first + size)
            if buffer is not None:
                self.numkong.astype(row_RE, self.kind, out=buffer[:size])
                row_RE = buffer[:size]
            if seen is not None:
                seen.append(longest(row_RE) * (1 + 2 * BRAIN_ERROR))
            mine_GQ = out_GQ[first - start : first - start + size]
            if alone:
                self.numkong.dots_packed(row_RE, self.packed[0], out=mine_GQ)
                continue
            for number, packed in enumerate(self.packed):
                some = slice(number * PACKED, (number + 1) * PACKED)
                np.asarray(mine_GQ)[:, some] = self.numkong.dots_packed(row_RE, packed)
        return np.asarray(out_GQ).T

    def _of_one(self, row_GE: Array) -> Array:
        """Scores [1, G] with the only query. One row of NaN makes the scores of its neighbours NaN as well."""
        whole = len(row_GE) // FOLDED * FOLDED if self.folded is not None else 0
        parts = []
        if whole:
            wide_RF = row_GE[:whole].reshape(-1, FOLDED * self.width)
            parts.append(np.asarray(self.numkong.dots_packed(wide_RF, self.folded)).reshape(1, -1))
        if whole < len(row_GE):
            parts.append(np.asarray(self.numkong.cdist(self.one, row_GE[whole:], "dot")))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def folded(query_E: Array, rows: int) -> Array:
    """A query for so many rows that are taken for one, [F, F E]: at the place of each of them once, beside zeros."""
    query_FFE = np.zeros((rows, rows, len(query_E)), query_E.dtype)
    query_FFE[np.arange(rows), np.arange(rows)] = query_E
    return query_FFE.reshape(rows, -1)


def longest(row_GE: Any) -> float:
    """No row in 16 bits is longer than this; NaN or infinity where a row holds them."""
    numkong = library()
    assert numkong is not None
    squared_G = np.asarray(numkong.dot(row_GE, row_GE))  # numkong's own maximum leaves NaN out
    return SLACK * float(np.sqrt(squared_G.max()))


def known(row_GE: Array, what: str) -> Any:
    """What `remember` was told of this very array, or None."""
    there = _known.get((id(row_GE), what))
    return there[1] if there and there[0]() is row_GE and not row_GE.flags.writeable else None


def lasting(row_GE: Array) -> bool:
    """Whether nobody can write to an array, such as a map of a file."""
    base: Any = row_GE
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return True


def remember(row_GE: Array, what: str, value: object) -> None:
    """Keep what is known of an array that nobody can write to, while it lives."""
    if not lasting(row_GE):
        return
    key = id(row_GE), what
    _known[key] = weakref.ref(row_GE, lambda _: _known.pop(key, None)), value
