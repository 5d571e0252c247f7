"""The best gallery items of each query, exact, in blocks over both axes.

The whole gallery is scored in the quickest way there is, the few rows that can be among the best are scored once
more, one dot product each, and these scores rank them. So a query's answer is the same to the last bit whatever other
queries it comes with, in which blocks and threads, and however the gallery was gone through:

* a small gallery: all of it at once, in bfloat16 (`near`, where the processor multiplies that itself);
* a few queries, float32: by dot products in threads that share out the gallery (nothing is left to score again);
* rows in half precision: as they are stored, in threads (`halves`, where numkong is there and right);
* many queries: in bfloat16 (`halves` too);
* otherwise by matrix products, of rows that are widened or copied a few at a time.

A running threshold keeps it cheap: only items that are not below the k-th best score so far, by more than quick and
exact scores can differ, are looked at, and those are few. Ties: the lower gallery index ranks first.
Galleries may be memory maps in half precision; only small blocks are widened at a time.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import DataError
from tbps_cli.retrieval import halves
from tbps_cli.retrieval.near import best_near, near_rows, queries_together, quick_scores
from tbps_cli.retrieval.similarity import FLOATS, Array, array, dots, features, pairs, threads_of_blas, wide, widened
from tbps_cli.retrieval.threads import pool

BLOCK = 1 << 20
"""Similarities held at a time (4 MB in float32)."""
QUERIES = 512
"""Queries ranked together."""
FEW = 2
"""Up to so many queries, dot products are quicker than a matrix product."""
HALVES = 96
"""Up to so many queries, numkong's products of half precision are quicker than widening and BLAS."""
BRAIN_HALVES, BRAIN_SINGLES = 9, 12
"""From so many queries on, products in bfloat16 are the quickest, of rows in half precision and in float32."""
BRAIN_ROWS = 8192
"""Fewer rows do not repay what more rows near the best cost."""
ROWS = 65536
"""Most gallery rows that a thread looks at together."""
AT_ONCE = 32768
"""Up to so many rows are not worth more than one thread, for a query or two."""
PRODUCT_ROWS = 1024
"""Rows of one matrix product: 2 MB in float32 at 512 columns, which stay in the processor's cache."""
SMALL = 10**6
"""Products of so many multiplications at most have kernels of their own in OpenBLAS, quicker ones, without threads."""
SMALL_QUERIES = 16
"""Up to so many queries, small products are the quicker ones."""
NEAR = 1 << 24
"""Bytes of a gallery that lies in the processor's cache, so that copying rows there gains nothing."""
GROUPS = 256
"""Groups of items that are looked at by their best score alone, unless it is high enough."""
FIRST = 512
"""Rows that say how long rows are."""
ALL = 8
"""Where more than one row in so many is wanted, all are scored exactly at once."""
LONGER = 1.125
"""So much longer than the first rows may others be before the quick way is given up."""
CROWD = 1 << 16
"""Most rows, of all queries together, that are kept to be scored again."""
CROWD_OF_QUERY = 32
"""The same for each query and row wanted, where that is more."""
PAIRS = 256
"""Pairs of query and row that are scored again together."""

Index = NDArray[np.int64]


def topk(query_QE: Any, gallery_GE: Any, k: int, index_K: Index | None = None) -> tuple[Array, Index]:
    """(score_QK, index_QK), best first; K = min(k, G).

    query_QE, gallery_GE: arrays, memory maps or tensors; compared by dot product as they are.
    index_K: places of the rows that count, in rising order; all where it is None. The answer has places in the gallery.
    Raises DataError on NaN features, ValueError when widths differ or k < 1.
    """
    query, gallery = features(query_QE, "query"), array(gallery_GE)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query features are {query.shape}, gallery features {gallery.shape}")
    rows = GalleryRows(gallery, index_K)
    k = min(k, len(rows))
    if not len(query) or not k:
        return np.empty((len(query), k), query.dtype), np.empty((len(query), k), np.int64)
    near = _near(query, rows, k)
    if near is not None:
        return near
    if len(query) <= QUERIES:
        score_QK, index_QK = _best_of(query, rows, k)
        return score_QK, rows.places(index_QK)
    found = [_best_of(query[start : start + QUERIES], rows, k) for start in range(0, len(query), QUERIES)]
    return np.concatenate([score for score, _ in found]), rows.places(np.concatenate([index for _, index in found]))


@dataclass(frozen=True)
class GalleryRows:
    """The rows that count; only those of a block are ever gathered."""

    gallery: Array
    index_K: Index | None

    def __len__(self) -> int:
        return len(self.gallery if self.index_K is None else self.index_K)

    def block(self, start: int, stop: int) -> Array:
        """Rows that lie one behind the other, as products want them; copied where the gallery's do not."""
        block = self.gallery[start:stop] if self.index_K is None else self.gallery[self.index_K[start:stop]]
        return np.ascontiguousarray(block)

    def at(self, place_M: Index) -> Array:
        return self.gallery[self.places(place_M)]

    def places(self, place: Index) -> Index:
        """Where they stand in the gallery."""
        return place if self.index_K is None else self.index_K[place]

    @property
    def are_halves(self) -> bool:
        return self.gallery.dtype == np.float16 and self.gallery.dtype.isnative

    @property
    def are_near(self) -> bool:
        """Whether they lie in the processor's cache by themselves."""
        return self.index_K is None and self.gallery.nbytes <= NEAR


@dataclass(frozen=True)
class Pass:
    """A way through the gallery."""

    scores: Callable[[int, int], Array]
    """Scores [B, G] of the rows from one place up to another."""
    rows: int
    """Rows looked at together."""
    threads: int
    error_B: Array | None = None
    """By how much a score can be off; None where scores are exact."""
    longest: float = np.inf
    """The length of rows up to which this holds."""
    seen: list[float] | None = None
    """Lengths of the longest rows that it found, where it measures all."""


def _near(query_QE: Array, rows: GalleryRows, k: int) -> tuple[Array, Index] | None:
    """The best rows of a small gallery, where `near` can find them."""
    gallery = rows.gallery
    if rows.index_K is not None or k * ALL > len(rows) or query_QE.dtype != np.float32:
        return None
    if not rows.are_halves and gallery.dtype != np.float32:
        return None
    near = near_rows(gallery, len(query_QE))
    if near is None:
        return None
    size = queries_together(len(query_QE), gallery.size, threads_of_blas)

    def best(start: int, stop: int) -> tuple[Array, Index] | None:
        query_BE = query_QE[start:stop]
        return best_near(query_BE, gallery, near, quick_scores(query_BE, near), k)

    if size >= len(query_QE):
        return best(0, size)
    found = []
    for part in _mapped(best, len(query_QE), size, threads_of_blas()):
        if part is None:
            return None
        found.append(part)
    return np.concatenate([score for score, _ in found]), np.concatenate([index for _, index in found])


def _best_of(query_BE: Array, rows: GalleryRows, k: int) -> tuple[Array, Index]:
    if k * ALL <= len(rows):
        for quick in _quick(query_BE, rows):
            best = _gone_through(quick, rows, Best(len(query_BE), k, np.dtype(np.float64), quick.error_B))
            found = None if best is None else _scored_again(query_BE, rows, best, quick, k)
            if found is not None:
                return found
    if len(rows) <= AT_ONCE and len(query_BE) <= FEW:
        similarity_BG = dots(query_BE, rows.block(0, len(rows)))
        _check_finite(similarity_BG, rows, 0)
        every = [_best_of_one(score_G, k) for score_G in similarity_BG]
        return np.stack([score for score, _ in every]), np.stack([index for _, index in every])
    best = _gone_through(_exact(query_BE, rows), rows, Best(len(query_BE), k, query_BE.dtype))
    assert best is not None
    return best.sorted()


def _best_of_one(score_G: Array, k: int) -> tuple[Array, Index]:
    """The k best of a few scores, which lie side by side."""
    index = np.flatnonzero(score_G >= np.partition(_tops(score_G[None], max(k, min(GROUPS, len(score_G))))[0], -k)[-k])
    score = score_G[index]
    order = np.argsort(-score, kind="stable")[:k]
    return score[order], index[order]


def _exact(query_BE: Array, rows: GalleryRows) -> Pass:
    size = max(1, min(ROWS, BLOCK // len(query_BE)))
    return Pass(lambda start, stop: dots(query_BE, rows.block(start, stop)), size, threads_of_blas())


def _quick(query_BE: Array, rows: GalleryRows) -> Iterator[Pass]:
    """Ways that are quicker than the exact one, the quickest first."""
    count, width = query_BE.shape
    floats = rows.are_halves or rows.gallery.dtype == np.float32
    many = count >= (BRAIN_HALVES if rows.are_halves else BRAIN_SINGLES)
    if floats and many and len(rows) >= BRAIN_ROWS and halves.fit("bfloat16", width):
        yield from _in_16_bits(query_BE, rows, "bfloat16")
    if rows.are_halves and count <= HALVES and halves.fit("float16", width):
        yield from _in_16_bits(query_BE, rows, "float16")
    if count > (1 if rows.are_near and rows.gallery.dtype in FLOATS else FEW):
        longest = 2 * _length(widened(rows.block(0, FIRST)))
        if np.isfinite(longest):
            yield _by_products(query_BE, rows, longest)


def _in_16_bits(query_BE: Array, rows: GalleryRows, kind: halves.Kind) -> Iterator[Pass]:
    """Nothing for queries that the type cannot hold, and for rows that are not finite."""
    try:
        queries = halves.RoundedQueries(query_BE, kind, near=rows.are_near)
    except OverflowError:
        return
    size = max(PRODUCT_ROWS, min(ROWS, BLOCK // len(query_BE)))
    if rows.are_halves:
        longest = _longest(rows)
        if np.isfinite(longest):
            work = functools.partial(queries.scores, rows.block)
            yield Pass(work, size, threads_of_blas(), queries.error(query_BE, longest), longest)
        return
    longest, seen = LONGER * _length(rows.block(0, FIRST)), list[float]()
    if np.isfinite(longest):
        work = functools.partial(queries.scores, rows.block, seen=seen)
        yield Pass(work, size, threads_of_blas(), queries.error(query_BE, longest), longest, seen)


def _longest(rows: GalleryRows) -> float:
    """The longest row; measured once for arrays that cannot change."""
    known: float | None = halves.known(rows.gallery, "longest")
    if known is not None:
        return known
    longest = max(
        _mapped(lambda start, stop: halves.longest(rows.block(start, stop)), len(rows), ROWS, threads_of_blas())
    )
    if rows.index_K is None:
        halves.remember(rows.gallery, "longest", longest)
    return longest


def _by_products(query_BE: Array, rows: GalleryRows, longest: float) -> Pass:
    """Matrix products. Their rounding depends on the place of a row, by as much as sums in another order can differ.

    longest: the length of rows that are allowed for: twice that of the longest of the first.
    """
    queries, width = query_BE.shape
    query_EB = np.ascontiguousarray(query_BE.T)
    kind = wide(rows.gallery.dtype)
    small = queries <= SMALL_QUERIES
    step = max(16, SMALL // (queries * width)) if small else PRODUCT_ROWS
    near = rows.are_near and rows.gallery.dtype in FLOATS

    def scores(start: int, stop: int) -> Array:
        out_GB = np.empty((stop - start, queries), np.result_type(kind, query_BE))
        buffer = np.empty((0 if near else min(step, stop - start), width), kind)
        with np.errstate(invalid="ignore", over="ignore"):  # the scores say it, and the caller looks
            for first in range(start, stop, step):
                last = min(first + step, stop)
                row_RE = widened(rows.block(first, last), buffer)
                if not near and row_RE.dtype == rows.gallery.dtype:
                    buffer[: last - first] = row_RE  # BLAS waits for the memory, and may read it twice
                    row_RE = buffer[: last - first]
                np.matmul(row_RE, query_EB, out=out_GB[first - start : last - start])
        return out_GB.T

    length_B = halves.lengths(query_BE)
    error_B = 2 * halves.sum_error(width) * length_B * longest + halves.lost(length_B, longest, width)
    size = max(PRODUCT_ROWS, min(ROWS, BLOCK // queries // PRODUCT_ROWS * PRODUCT_ROWS))
    return Pass(scores, size, threads_of_blas() if small else 1, error_B, longest)  # else BLAS has threads of its own


def _length(row_GE: Array) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.vecdot(row_GE, row_GE).max()))


def _gone_through(one_pass: Pass, rows: GalleryRows, best: Best) -> Best | None:
    """`best` with the whole gallery taken in; None where too many rows are near the best."""
    size = one_pass.rows
    if one_pass.threads > 1:  # as much work for one as for the other
        size = -(-len(rows) // (one_pass.threads * -(-len(rows) // (one_pass.threads * size))))
    size = max(size, best.k)
    scored = _mapped(one_pass.scores, len(rows), size, one_pass.threads)
    for start, similarity_BG in zip(range(0, len(rows), size), scored, strict=True):
        if best.near_B is None:
            _check_finite(similarity_BG, rows, start)
        elif not _sum_is_finite(similarity_BG[0]):
            return None  # one query shows NaN and infinity in any row; the exact way says where
        best.add(similarity_BG, start)
        if best.near_B is not None and best.held > max(CROWD, CROWD_OF_QUERY * best.queries * best.k):
            return None
    return best


def _sum_is_finite(score: Array) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(score.sum()))


def _check_finite(similarity_BG: Array, rows: GalleryRows, start: int) -> None:
    # The sum may also be too large by itself.
    if not _sum_is_finite(similarity_BG) and not np.isfinite(similarity_BG).all():
        first, last = rows.places(np.array([start, start + similarity_BG.shape[1] - 1])).tolist()
        raise DataError(
            f"gallery features hold NaN or infinity (in rows {first} to {last}).",
            "Rebuild the index; if that does not help, the model that made it is broken.",
        )


def _scored_again(query_BE: Array, rows: GalleryRows, best: Best, quick: Pass, k: int) -> tuple[Array, Index] | None:
    """The best by exact scores; None where a row is longer than scores were allowed to be off for.

    Where the pass does not measure all, only those near the best are: so equal rows are found together at least.
    """
    if quick.seen and not max(quick.seen) <= quick.longest:
        return None
    owner_M, index_M = best.candidates()
    score_M = np.empty(len(index_M), query_BE.dtype)
    for start in range(0, len(index_M), PAIRS):
        some = slice(start, start + PAIRS)
        row_ME = rows.at(index_M[some])
        score_M[some] = pairs(query_BE, owner_M[some], row_ME)
        if not _length(widened(row_ME)) <= quick.longest:
            return None
    if not np.isfinite(score_M).all():
        return None
    order = np.lexsort((index_M, -score_M, owner_M))
    first_B = np.searchsorted(owner_M, np.arange(len(query_BE)))
    chosen = order[first_B[:, None] + np.arange(k)]
    return score_M[chosen], index_M[chosen]


def _mapped(work: Callable[[int, int], Any], count: int, size: int, threads: int) -> Iterator[Any]:
    """What `work` makes of each block of so many rows, in order."""
    starts = range(0, count, size)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            yield work(start, min(start + size, count))
        return
    waiting = deque[Future[Any]]()
    for start in starts:
        waiting.append(pool(threads).submit(work, start, min(start + size, count)))
        if len(waiting) > threads:  # a few blocks at a time, so that memory stays small
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Best:
    """The k best items of each query so far, as flat candidates (row, score, index).

    error_B: by how much scores can be off; then all items that may be among the best are kept, in no order.
    """

    def __init__(self, queries: int, k: int, dtype: np.dtype[Any], error_B: Array | None = None) -> None:
        self.queries, self.k = queries, k
        self.near_B = None if error_B is None else 2 * error_B
        self.row = np.empty(0, np.int64)
        self.score = np.empty(0, dtype)
        self.index = np.empty(0, np.int64)
        self.threshold_B1: Array | None = None
        self._waiting: list[tuple[Index, Array, Index]] = []
        self.held = 0
        """Items that are kept, and those that wait to be compared with them."""

    def add(self, similarity_BG: Array, start: int) -> None:
        """Take in a block of the gallery whose first item has the index `start`."""
        groups = min(similarity_BG.shape[1], max(GROUPS, 4 * self.k))
        top_BR = _tops(similarity_BG, groups)
        if self.threshold_B1 is None:
            # k groups reach it, so k items do
            lowest_B1 = np.partition(top_BR, -self.k, axis=1)[:, [-self.k]]
            limit_B1 = lowest_B1 if self.near_B is None else lowest_B1 - self.near_B[:, None]
        else:
            limit_B1 = self.threshold_B1
        if self.near_B is not None:  # rounded down to the scores' own type, so that they need not be widened
            limit_B1 = np.nextafter(limit_B1.astype(top_BR.dtype), top_BR.dtype.type(-np.inf))
        # An equal score further back never displaces one that is already there.
        reaches = np.greater if self.near_B is None and self.threshold_B1 is not None else np.greater_equal
        row, group = np.nonzero(reaches(top_BR, limit_B1))
        if self.threshold_B1 is None:
            self.threshold_B1 = limit_B1
        if not len(row):
            return
        column = group[:, None] + np.arange(0, similarity_BG.shape[1], groups)
        there = column < similarity_BG.shape[1]
        score = similarity_BG[row[:, None], np.where(there, column, group[:, None])]
        kept = np.flatnonzero(reaches(score, limit_B1[row]) & there)
        self._waiting.append((row[kept // column.shape[1]], score.ravel()[kept], column.ravel()[kept] + start))
        self.held += len(kept)
        if self.held - len(self.row) >= 2 * self.queries * self.k:
            self._merge()

    def _merge(self) -> None:
        parts = zip((self.row, self.score, self.index), *self._waiting, strict=True)
        row, score, index = (np.concatenate(part) for part in parts)
        order = np.lexsort((index, -score, row))
        row, score, index = row[order], score[order], index[order]
        first = np.searchsorted(row, np.arange(self.queries))
        threshold_B = score[first + self.k - 1]
        if self.near_B is None:
            kept = np.arange(len(row)) - first[row] < self.k
        else:
            threshold_B = threshold_B - self.near_B
            kept = score >= threshold_B[row]
        self.row, self.score, self.index = row[kept], score[kept].astype(self.score.dtype, copy=False), index[kept]
        self.threshold_B1 = threshold_B[:, None]
        self._waiting, self.held = [], len(self.row)

    def candidates(self) -> tuple[Index, Index]:
        """(row, index) of every item that may be among the best, row by row."""
        if len(self._waiting) == 1 and not len(self.row):  # one block: they are in order already
            return self._waiting[0][0], self._waiting[0][2]
        if self._waiting:
            self._merge()
        return self.row, self.index

    def sorted(self) -> tuple[Array, Index]:
        """(score_BK, index_BK), best first."""
        if self._waiting:
            self._merge()
        return self.score.reshape(self.queries, self.k), self.index.reshape(self.queries, self.k)


def _tops(similarity_BG: Array, groups: int) -> Array:
    """The best score [B, R] of each group; item i belongs to group i % R, so that neighbours are compared at once."""
    whole = similarity_BG.shape[1] // groups
    used, rest = similarity_BG[:, : whole * groups], similarity_BG[:, whole * groups :]
    if used.T.flags.c_contiguous:
        top_BR = used.T.reshape(whole, groups, len(used)).max(axis=0).T
    else:
        top_BR = used.reshape(len(used), whole, groups).max(axis=1)
    np.maximum(top_BR[:, : rest.shape[1]], rest, out=top_BR[:, : rest.shape[1]])
    return top_BR
