"""The best gallery items of each query, exact, in blocks over both axes.

A few queries are scored by one dot product a row, in threads that share out the gallery; many by matrix products.

A running threshold keeps it cheap: after the first block of the gallery only items above the
current k-th score are looked at, and those are few. Ties: the lower gallery index ranks first.
Galleries may be memory maps in half precision; only small blocks are widened at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import DataError
from tbps_cli.retrieval.similarity import Array, array, dots, features, product, widened

BLOCK = 1 << 22
"""Similarities held at a time (16 MB in float32)."""
QUERIES = 512
"""Queries ranked together."""
FEW = 8
"""Up to so many queries, dot products are quicker than a matrix product, which takes eight at least."""
ROWS = 32768
"""Most gallery rows looked at together."""
NARROW_ROWS = 4096
"""The same where they have to be widened: 8 MB at 512 columns, which stay in the processor's cache."""


def topk(query_QE: Any, gallery_GE: Any, k: int) -> tuple[Array, NDArray[np.int64]]:
    """(score_QK, index_QK), best first; K = min(k, G).

    query_QE, gallery_GE: arrays, memory maps or tensors; compared by dot product as they are.
    Raises DataError on NaN features, ValueError when widths differ or k < 1.
    """
    query, gallery = features(query_QE, "query"), array(gallery_GE)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query features are {query.shape}, gallery features {gallery.shape}")
    k = min(k, len(gallery))
    found = [_best_of(query[start : start + QUERIES], gallery, k) for start in range(0, len(query), QUERIES)]
    if not found:
        return np.empty((0, k), query.dtype), np.empty((0, k), np.int64)
    return np.concatenate([score for score, _ in found]), np.concatenate([index for _, index in found])


def _best_of(query_BE: Array, gallery: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
    best = Best(len(query_BE), k, query_BE.dtype)
    rows = ROWS if gallery.dtype.itemsize >= 4 else NARROW_ROWS
    size = max(k, min(rows, BLOCK // len(query_BE)))
    starts = range(0, len(gallery), size)
    for start, similarity_BG in zip(starts, _scores(query_BE, gallery, starts, size), strict=True):
        if not (np.isfinite(similarity_BG.max()) and np.isfinite(similarity_BG.min())):
            raise DataError(
                f"gallery features hold NaN or infinity (in rows {start} to {min(start + size, len(gallery)) - 1}).",
                "Rebuild the index; if that does not help, the model that made it is broken.",
            )
        best.add(similarity_BG, start)
    return best.sorted()


def _scores(query_BE: Array, gallery: Array, starts: range, size: int) -> Iterator[Array]:
    """Scores [B, G] of each block of the gallery, in order."""

    few = len(query_BE) <= FEW

    def scored(start: int) -> Array:
        rows = gallery[start : start + size]
        with np.errstate(invalid="ignore", over="ignore"):  # the scores say it, and the caller looks
            return dots(query_BE, rows) if few else product(query_BE, widened(rows))

    if not few or len(starts) < 2:  # BLAS has threads of its own
        yield from map(scored, starts)
    else:
        threads = _threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="tbps-rank") as pool:
            for first in range(0, len(starts), threads):  # a few blocks at a time, so that memory stays small
                yield from pool.map(scored, starts[first : first + threads])


def _threads() -> int:
    """As many as BLAS would use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores


class Best:
    """The k best items of each query so far, as flat candidates (row, score, index)."""

    def __init__(self, queries: int, k: int, dtype: np.dtype[Any]) -> None:
        self.queries, self.k = queries, k
        self.row = np.empty(0, np.int64)
        self.score = np.empty(0, dtype)
        self.index = np.empty(0, np.int64)
        self.threshold_B1: Array | None = None

    def add(self, similarity_BG: Array, start: int) -> None:
        """Take in a block of the gallery whose first item has the index `start`."""
        if self.threshold_B1 is None:
            kept = similarity_BG >= np.partition(similarity_BG, -self.k, axis=1)[:, [-self.k]]
        else:
            # An equal score further back never displaces one that is already there.
            kept = similarity_BG > self.threshold_B1
        row, column = np.nonzero(kept)
        if len(row):
            self._merge(row, similarity_BG[row, column], column + start)

    def _merge(self, row: NDArray[np.int64], score: Array, index: NDArray[np.int64]) -> None:
        row, score = np.concatenate([self.row, row]), np.concatenate([self.score, score])
        index = np.concatenate([self.index, index])
        order = np.lexsort((index, -score, row))
        row = row[order]
        first = np.searchsorted(row, np.arange(self.queries))
        kept = order[np.arange(len(row)) - first[row] < self.k]
        self.row, self.score, self.index = row[np.arange(len(row)) - first[row] < self.k], score[kept], index[kept]
        self.threshold_B1 = self.score.reshape(self.queries, self.k)[:, [-1]]

    def sorted(self) -> tuple[Array, NDArray[np.int64]]:
        """(score_BK, index_BK), best first."""
        return self.score.reshape(self.queries, self.k), self.index.reshape(self.queries, self.k)
