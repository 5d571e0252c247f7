"""R@k, mAP and mINP, exact, in blocks of queries.

The usual way sorts every row of the similarity matrix with its indices and walks the sorted matches.
Only the ranks of the relevant items matter, though: the rank of one is 1 + the number of items that
score higher (+ equal ones that stand before it). With few relevant items a row these counts are
comparisons packed into bits, with many they are looked up in the sorted values; either costs a
fraction of the product itself, and no more memory than one block.

Definitions (IRRA, arXiv 2303.12501, and the field): n = relevant items of a query, r_1 < ... < r_n
their ranks. R@k: share of queries with r_1 <= k. AP = 1/n * sum of i / r_i. INP = n / r_n. Ties: the
lower gallery index ranks first (the released codes sort unstably). A query without any relevant item
is a miss in R@k and left out of mAP and mINP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_cli.machine import available_cpus
from tbps_cli.retrieval.similarity import Array, array, codes, features, product
from tbps_cli.types import Scores

logger = logging.getLogger("tbps")

BLOCK = 1 << 22
"""Similarities held at a time: 16 MB in float32, enough for the product to run at full speed."""
CHUNK = 1 << 18
"""Similarities that one thread compares at a time, so that they stay in its core's cache."""
FEW = 40
"""Up to this many relevant items a row, two comparison passes each cost less than sorting the row."""

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
Bonus = Callable[[NDArray[np.int64]], Array]
"""Rows of the query list -> what is added to their similarities, [B, G]."""


class Fill(NamedTuple):
    """Where similarities come from: `rows(index_B, out_BG)` writes them, in `dtype`."""

    rows: Callable[[NDArray[np.int64], Array], None]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Details:
    """What ranking did to each query; scores are means of these. All arrays have the length Q."""

    first_Q: NDArray[np.int64]
    """Rank of the first relevant item, from 1; 0 where there is none."""
    ap_Q: NDArray[np.float64]
    """Average precision, 0..1; NaN where there is no relevant item."""
    inp_Q: NDArray[np.float64]
    """Inverse negative penalty, 0..1; NaN where there is no relevant item."""
    relevant_Q: NDArray[np.int64]
    """Number of relevant items."""
    gallery: int

    def cmc(self, ranks: int = 10) -> NDArray[np.float64]:
        """R@1 ... R@ranks in percent, at most as many as the gallery has items."""
        k = np.arange(1, min(ranks, self.gallery) + 1)
        found = self.first_Q > 0
        return 100.0 * ((self.first_Q[:, None] <= k) & found[:, None]).mean(axis=0)

    def scores(self) -> Scores:
        """The five figures in percent; k beyond the gallery counts the whole gallery."""
        cmc = self.cmc()
        r1, r5, r10 = (float(cmc[min(k, self.gallery) - 1]) for k in (1, 5, 10))
        judged = self.relevant_Q > 0
        if not judged.any():
            return Scores(r1, r5, r10, 0.0, 0.0)
        return Scores(r1, r5, r10, 100.0 * float(self.ap_Q[judged].mean()), 100.0 * float(self.inp_Q[judged].mean()))


def scores(text_QE: Any, image_GE: Any, text_person_Q: Any, image_person_G: Any) -> Scores:
    """Text-to-image scores in percent; exchange the roles for image-to-text.

    text_QE, image_GE: arrays, memory maps or tensors; compared by dot product as they are.
    text_person_Q, image_person_G: identities of any one type that can be compared for equality.
    Raises DataError on NaN features, ValueError when sizes disagree.
    """
    return details(text_QE, image_GE, text_person_Q, image_person_G).scores()


def details(query_QE: Any, gallery_GE: Any, person_Q: Any, person_G: Any, bonus: Bonus | None = None) -> Details:
    """Per-query figures behind `scores`. `bonus` adds re-ranking terms to blocks of similarities."""
    query, gallery = features(query_QE, "query"), features(gallery_GE, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query features are {query.shape[1]} wide, gallery features {gallery.shape[1]}")

    def rows(index_B: NDArray[np.int64], out_BG: Array) -> None:
        product(query[index_B], gallery, out_BG)
        if bonus is not None:
            out_BG += bonus(index_B)

    fill = Fill(rows, np.result_type(query, gallery))
    return _details(fill, (len(query), len(gallery)), person_Q, person_G)


def details_of_similarity(similarity_QG: Any, person_Q: Any, person_G: Any) -> Details:
    """Per-query figures from a given similarity matrix. Raises ValueError when it holds NaN."""
    similarity = array(similarity_QG)
    if np.isnan(similarity).any():
        raise ValueError("the similarity matrix holds NaN")

    def rows(index_B: NDArray[np.int64], out_BG: Array) -> None:
        out_BG[:] = similarity[index_B]

    return _details(Fill(rows, np.result_type(similarity, np.float32)), similarity.shape, person_Q, person_G)


def _details(fill: Fill, shape: tuple[int, ...], person_Q: Any, person_G: Any) -> Details:
    code_Q, code_G = codes(person_Q, person_G)
    if (len(code_Q), len(code_G)) != shape:
        raise ValueError(f"{shape} features, but {len(code_Q)} and {len(code_G)} identities")
    if 0 in shape:
        raise ValueError("nothing to rank: there are no queries or the gallery is empty")
    relevant = _Relevant(code_Q, code_G)
    first, ap, inp = np.zeros(shape[0], np.int64), np.full(shape[0], np.nan), np.full(shape[0], np.nan)
    order = _judged(relevant.count_Q)
    size = max(8, BLOCK // shape[1] // 8 * 8)  # queries a block: whole eights, as `product` computes them
    # Columns up to a multiple of 64 hold -inf: packed comparisons are then whole 64-bit words.
    buffer = np.full((min(size, len(order)), -(-shape[1] // 64) * 64), -np.inf, fill.dtype)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(order), size):
            block = order[start : start + size]
            similarity_BG = buffer[: len(block)]
            fill.rows(block, similarity_BG[:, : shape[1]])
            row, column = relevant.of(block)
            rank = _ranks(similarity_BG, row, column, relevant.count_Q[block], pool)
            first[block], ap[block], inp[block] = _figures(rank, row, relevant.count_Q[block], shape[1])
    return Details(first, ap, inp, relevant.count_Q, shape[1])


def _judged(count_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Queries that have relevant items, those with most first.

    Rows with equally many relevant items then share a block, and few comparison passes are wasted.
    """
    order = np.argsort(-count_Q, kind="stable")
    judged = order[count_Q[order] > 0]
    if len(judged) < len(order):
        logger.warning(
            "%d of %d queries have no item of their person in the gallery: misses in R@k, left out of mAP and mINP",
            len(order) - len(judged),
            len(order),
        )
    return judged


class _Relevant:
    """Which gallery items each query is looking for."""

    def __init__(self, code_Q: NDArray[np.int64], code_G: NDArray[np.int64]) -> None:
        # Sorted by person, the items of one query stand together: `count` of them from `start` on.
        self.order = np.argsort(code_G, kind="stable")
        in_order = code_G[self.order]
        self.start_Q = np.searchsorted(in_order, code_Q, side="left")
        self.count_Q: NDArray[np.int64] = np.searchsorted(in_order, code_Q, side="right") - self.start_Q

    def of(self, block: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row within the block, gallery index) of every relevant item, row by row."""
        count = self.count_Q[block]
        row = np.repeat(np.arange(len(block)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, ... in each row anew
        return row, self.order[self.start_Q[block][row] + within]


def _ranks(
    similarity_BG: Array,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    count_B: NDArray[np.int64],
    pool: ThreadPoolExecutor,
) -> NDArray[np.int64]:
    """Rank, from 1, of each relevant item (flat, row by row). count_B must not increase."""
    value = similarity_BG[row, column]
    above, reaching = np.empty(len(value), np.int64), np.empty(len(value), np.int64)
    stop_B = np.cumsum(count_B)
    count = _compare if count_B[0] <= FEW else _look_up

    def work(begin: int, end: int) -> None:
        mine = slice(stop_B[begin] - count_B[begin], stop_B[end - 1])
        above[mine], reaching[mine] = count(similarity_BG[begin:end], value[mine], count_B[begin:end])

    size = max(1, CHUNK // similarity_BG.shape[1])
    starts = range(0, len(count_B), size)
    for done in [pool.submit(work, start, min(start + size, len(count_B))) for start in starts]:
        done.result()
    # `reaching` counts the item itself; where more reach its value, equal items that stand before it rank above it.
    for item in np.flatnonzero(reaching - above > 1):
        before = similarity_BG[row[item], : column[item]]
        above[item] += np.count_nonzero(before == value[item])
    return above + 1


def _compare(similarity_BG: Array, value: Array, count_B: NDArray[np.int64]) -> Counts:
    """(items that score higher, items that score at least as high) than each value, by whole rows."""
    above, reaching = np.empty(len(value), np.int64), np.empty(len(value), np.int64)
    start_B = np.cumsum(count_B) - count_B
    true_BG = np.empty(similarity_BG.shape, np.bool_)
    # The nth relevant item of all rows at once. Rows with most items come first, so those that have an nth are the top.
    for nth in range(int(count_B[0])):
        rows = int(np.count_nonzero(count_B > nth))
        at = start_B[:rows] + nth
        above[at] = _population(np.greater(similarity_BG[:rows], value[at, None], out=true_BG[:rows]))
        reaching[at] = _population(np.greater_equal(similarity_BG[:rows], value[at, None], out=true_BG[:rows]))
    return above, reaching


def _population(true_BG: NDArray[np.bool_]) -> NDArray[np.int64]:
    # Counting packed words is 2.5 times as fast as summing booleans, which numpy widens to int64.
    words = np.packbits(true_BG, axis=1).view(np.uint64)
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)


def _look_up(similarity_BG: Array, value: Array, count_B: NDArray[np.int64]) -> Counts:
    """The same counts, by looking the values up in sorted rows."""
    above, reaching = np.empty(len(value), np.int64), np.empty(len(value), np.int64)
    stop_B = np.cumsum(count_B)
    width = similarity_BG.shape[1]
    for row, ascending in enumerate(np.sort(similarity_BG, axis=1)):
        mine = slice(stop_B[row] - count_B[row], stop_B[row])
        above[mine] = width - np.searchsorted(ascending, value[mine], side="right")
        reaching[mine] = width - np.searchsorted(ascending, value[mine], side="left")
    return above, reaching


def _figures(
    rank: NDArray[np.int64], row: NDArray[np.int64], count_B: NDArray[np.int64], gallery: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(first rank, AP, INP) of each row of a block."""
    # One sort for all rows: the ranks of each are moved into a range of their own, and back again.
    ascending = np.sort(row * (gallery + 1) + rank) - row * (gallery + 1)
    start_B = np.cumsum(count_B) - count_B
    hits = np.arange(1, len(rank) + 1) - np.repeat(start_B, count_B)  # the i of i / r_i
    ap = np.add.reduceat(hits / ascending, start_B) / count_B
    return ascending[start_B], ap, count_B / ascending[start_B + count_B - 1]
