"""The best rows of a gallery that lies in the processor's cache: all of it at once, in bfloat16.

In a few thousand rows the product takes a tenth of a millisecond, so everything around it counts. A copy of the rows in
bfloat16 is made, in half the memory of float32, and kept for galleries that nobody can write to. Queries are multiplied
with it in packs, as many as stay in the nearest cache; threads share out the packs. Every row that can be among the
best is scored once more by a dot product of the stored numbers, as `rank` does it everywhere: answers are the same to
the bit.

How near quick and exact scores are follows as in `halves`. g' is a row rounded, no longer than L; R the longest g - g'
(measured for copies that are kept, at most r (1 + 2 r) L); r = 2^-8 and c as there:

    |quick - exact| <= |q - h| |g'| + |q| |g - g'| + c |h| |g'| + c |q| |g|
                    <= |q - h| L + |q| (R + c (1 + r) L + c (L + R))

|q - h| is measured for several queries, which leaves a quarter fewer rows to score again; for one it is at most r |q|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval import halves
from tbps_cli.retrieval.halves import BRAIN_ERROR, SLACK, lengths, longest, sum_error
from tbps_cli.retrieval.similarity import Array, widened

Index = NDArray[np.int64]
Floats = NDArray[np.float32]

BYTES = 1 << 23
"""Of the copy, at most: so much stays in the cache. With twice as much one query gains nothing."""
UNKEPT = 16
"""From so many queries on, a copy for one call is worth making."""
PACK = 64
"""Queries of one product, a multiple of `COLUMNS`: more do not stay in the nearest cache."""
COLUMNS = 16
"""Queries that the product takes together: of 63, those that are left over cost as much as sixteen."""
WORK = 1 << 24
"""Multiplications that are worth a thread of their own."""
FEW = 2
"""Up to so many queries, the product is quicker with rows arranged for it than with queries arranged for it."""
GROUPS = 256
"""Sets of rows whose best scores give a bound."""
CROWD = 256
"""Rows near the best, for each query, that are too many to be scored again."""
PAIRS = 256
"""Pairs of query and row that are scored again together: half a megabyte each at 512 columns."""
SOUND = 1e-15, 1e15
"""Lengths of rows, and what decides between scores: beyond these float32 may lose small products, or overflow."""
BLOCK = 512
"""Rows whose rounding is measured together."""


@dataclass(frozen=True)
class NearRows:
    """A gallery in bfloat16."""

    row_GE: Any
    """As numkong holds it."""
    packed: Any
    """The same, arranged for a product with few queries."""
    longest: float
    """No row of the copy is longer: L."""
    off: float
    """What stands beside |q| above."""

    def apart(self, length: Any, rounding: Any) -> Any:
        """Twice as far as quick and exact scores can be apart, for |q| and |q - h|."""
        return 2 * SLACK * (rounding * self.longest + length * self.off)


def near_rows(gallery_GE: Array, queries: int) -> NearRows | None:
    """The gallery in bfloat16; None where it is not small, or that is not worth the time."""
    if 2 * gallery_GE.size > BYTES:
        return None
    found: NearRows | None = halves.known(gallery_GE, "near")
    if found is not None:
        return found
    kept, width = halves.lasting(gallery_GE), gallery_GE.shape[1]
    if not (kept or queries >= UNKEPT) or not halves.fit("bfloat16", width):
        return None
    numkong = halves.library()
    assert numkong is not None
    row_GE = numkong.astype(np.ascontiguousarray(gallery_GE), "bfloat16")
    longest_row = longest(row_GE)
    if not SOUND[0] < longest_row < SOUND[1]:
        return None
    if not kept:
        off = _off(longest_row, BRAIN_ERROR * (1 + 2 * BRAIN_ERROR) * longest_row, width)
        return NearRows(row_GE, None, longest_row, off)
    rounding = max(
        _rounding(gallery_GE[start : start + BLOCK], row_GE[start : start + BLOCK])
        for start in range(0, len(gallery_GE), BLOCK)
    )
    packed = numkong.dots_pack(row_GE, dtype=numkong.bfloat16)
    found = NearRows(row_GE, packed, longest_row, _off(longest_row, rounding, width))
    halves.remember(gallery_GE, "near", found)
    return found


def _rounding(row_RE: Array, rounded_RE: Any) -> float:
    """How far rounding moved a row, at most."""
    numkong = halves.library()
    assert numkong is not None
    return longest(np.asarray(numkong.astype(row_RE, "float32")) - np.asarray(numkong.astype(rounded_RE, "float32")))


def _off(longest_row: float, rounding: float, width: int) -> float:
    adding = sum_error(width)
    return adding * (2 + BRAIN_ERROR) * longest_row + (1 + adding) * rounding


def queries_together(queries: int, numbers: int, threads: Callable[[], int]) -> int:
    """How many queries to look at together, so that threads have as much to do as each other."""
    worth = queries * numbers // WORK
    parts = 1 if worth < 2 else min(threads(), worth)
    parts *= -(-queries // (parts * PACK))
    return -(-queries // (parts * COLUMNS)) * COLUMNS


def quick_scores(query_BE: Floats, near: NearRows) -> Floats:
    """[G, B], as far off as `near.apart` says. Other threads of Python run meanwhile."""
    numkong = halves.library()
    assert numkong is not None
    rounded = numkong.astype(query_BE, "bfloat16")
    if len(query_BE) <= FEW and near.packed is not None:
        return np.asarray(numkong.dots_packed(rounded, near.packed)).T
    return np.asarray(numkong.dots_packed(near.row_GE, numkong.dots_pack(rounded, dtype=numkong.bfloat16)))


def best_near(
    query_BE: Floats, gallery_GE: Array, near: NearRows, score_GB: Floats, k: int
) -> tuple[Array, Index] | None:
    """(score_BK, index_BK), best first, of at most `PACK` queries with their quick scores.

    None where too many rows are near the best, and for queries whose products float32 may not hold.
    """
    queries = len(query_BE)
    if queries == 1:
        return _best_of_one(query_BE[0], gallery_GE, near, score_GB[:, 0], k)
    near_B = near.apart(*_measured(query_BE))
    if not SOUND[0] < near_B.min() <= near_B.max() < SOUND[1]:
        return None
    limit_B = (_reached(score_GB, k) - near_B).astype(np.float32)
    place_M = np.flatnonzero(score_GB >= np.nextafter(limit_B, np.float32(-np.inf)))
    if len(place_M) > (CROWD + 2 * k) * queries:
        return None
    index_M, owner_M = np.divmod(place_M, queries)
    score_M = _scored_again(query_BE, gallery_GE, owner_M, index_M)
    order = np.lexsort((-score_M, owner_M))  # stable, and rows are in order already
    first_B = np.searchsorted(owner_M[order], np.arange(queries))
    chosen = order[first_B[:, None] + np.arange(k)]
    return score_M[chosen], index_M[chosen]


def _measured(query_BE: Floats) -> tuple[Any, Any]:
    """The length of each query, and how far rounding moves it."""
    numkong = halves.library()
    assert numkong is not None
    rounded_BE = np.asarray(numkong.astype(numkong.astype(query_BE, "bfloat16"), "float32"))
    return lengths(query_BE), lengths(query_BE - rounded_BE)


def _best_of_one(
    query_E: Floats, gallery_GE: Array, near: NearRows, score_G: Floats, k: int
) -> tuple[Array, Index] | None:
    """The same for one query, in as few calls as possible: they take longer than the product."""
    squared = float(query_E.dot(query_E))
    if not SOUND[0] ** 2 < squared < SOUND[1] ** 2:
        return None
    length = SLACK * math.sqrt(squared)
    limit = float(_reached(score_G, k)) - near.apart(length, BRAIN_ERROR * length)
    place_M = (score_G >= limit).nonzero()[0]
    if len(place_M) > CROWD + 2 * k:
        return None
    score_M: Floats = np.vecdot(widened(gallery_GE.take(place_M, axis=0)), query_E)
    order = (-score_M).argsort(kind="stable")[:k]
    return score_M[order][None], place_M[order][None]


def _reached(score_GB: Floats, k: int) -> Any:
    """A quick score that k rows reach, of each query: k sets of rows do."""
    groups = min(len(score_GB), max(GROUPS, 4 * k))
    whole = len(score_GB) // groups
    top_RB = score_GB[: whole * groups].reshape(whole, groups, *score_GB.shape[1:]).max(axis=0)
    top_RB.partition(groups - k, axis=0)
    return top_RB[groups - k]


def _scored_again(query_BE: Floats, gallery_GE: Array, owner_M: Index, index_M: Index) -> Floats:
    """Dot products of pairs, to the bits that `similarity.dots` gives; in memory that is used again."""
    width = query_BE.shape[1]
    score_M = np.empty(len(index_M), np.float32)
    query_PE, row_PE = np.empty((PAIRS, width), np.float32), np.empty((PAIRS, width), gallery_GE.dtype)
    wide_PE = row_PE if row_PE.dtype == np.float32 else np.empty((PAIRS, width), np.float32)
    for start in range(0, len(index_M), PAIRS):
        index_P, owner_P = index_M[start : start + PAIRS], owner_M[start : start + PAIRS]
        size = len(index_P)
        query_BE.take(owner_P, axis=0, out=query_PE[:size], mode="clip")  # the mode that writes to `out` directly
        gallery_GE.take(index_P, axis=0, out=row_PE[:size], mode="clip")
        row = widened(row_PE[:size], wide_PE)
        np.vecdot(row, query_PE[:size], out=score_M[start : start + size])
    return score_M
