"""How well a perfect reader of attributes could search: the ceiling that near-twins leave.

For every caption the gallery is ranked by the number of named attributes that the person in a
image truly has. Ties are everywhere, so each score is its expected value over a random order of
tied images, in closed form (McSherry and Najork, "Computing information retrieval performance
measures efficiently in the presence of tied scores", ECIR 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]


def ceiling(records: Sequence[Record], split: str = "test") -> dict[str, float]:
    """R1, R5, R10 and mAP in percent of the attribute oracle on one split of `reid_raw.json`."""
    gallery = [record for record in records if record["split"] == split]
    person_G = np.array([record["id"] for record in gallery])
    index = _Index(gallery)
    totals = np.zeros(4)
    queries = 0
    for record in gallery:
        for named in record["named"]:
            groups = _tied(index.matches(named), person_G == record["id"])
            totals += [*(_recall(groups, depth) for depth in (1, 5, 10)), _precision(groups)]
            queries += 1
    r1, r5, r10, mean = (100 * totals / max(queries, 1)).tolist()
    return {"R1": r1, "R5": r5, "R10": r10, "mAP": mean}


class _Index:
    """Which images have which attribute."""

    def __init__(self, gallery: Sequence[Record]) -> None:
        every = sorted({item for record in gallery for item in record["attributes"]})
        self._column = {item: k for k, item in enumerate(every)}
        self._has_GA = np.zeros((len(gallery), len(every)), np.int16)
        for row, record in enumerate(gallery):
            self._has_GA[row, [self._column[item] for item in record["attributes"]]] = 1

    def matches(self, named: Sequence[str]) -> NDArray[np.int64]:
        """For every image of the gallery, how many of the named attributes its person has."""
        columns = [self._column[item] for item in named]
        return np.asarray(self._has_GA[:, columns].sum(1), np.int64)


Groups = list[tuple[int, int]]


def _tied(score_G: NDArray[np.int64], relevant_G: NDArray[np.bool_]) -> Groups:
    """(images, relevant ones) of each group of equal score, best first."""
    size, relevant = np.bincount(score_G), np.bincount(score_G[relevant_G], minlength=int(score_G.max()) + 1)
    return [(int(size[score]), int(relevant[score])) for score in np.flatnonzero(size)[::-1]]


def _recall(groups: Groups, depth: int) -> float:
    """Probability that one of the first `depth` images is relevant."""
    before = 0
    for size, relevant in groups:
        if depth <= before:
            return 0.0
        taken = min(size, depth - before)
        if relevant:
            return 1 - math.comb(size - relevant, taken) / math.comb(size, taken)
        before += size
    return 0.0


def _precision(groups: Groups) -> float:
    """Expected average precision."""
    total, before, found = 0.0, 0, 0
    for size, relevant in groups:
        if relevant:
            others = (relevant - 1) / (size - 1) if size > 1 else 0.0
            place = np.arange(size)
            total += relevant / size * float(((found + 1 + place * others) / (before + 1 + place)).sum())
        before, found = before + size, found + relevant
    return total / max(found, 1)
