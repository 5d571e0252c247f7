"""The best groups of a gallery, without a ranking of all its images.

A group is as good as its best image, so the groups of the first images are the first groups. Who belongs to each of
them is known from the rows, or is looked for (images that look the same); only these are scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.rank import topk
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.grouping import Grouping, HitGroup

Places = NDArray[np.int64]
FIRST = 16
"""Times the groups that are wanted: images that are looked at first."""
DEEPER = 8
"""Times as many are looked at next, where these had too few groups."""


@dataclass(frozen=True)
class GroupedImages:
    """The images of the best groups; `groups` says where in them each group stands.

    The scores of those that are not shown are NaN.
    """

    score_K: NDArray[Any]
    index_K: Places
    groups: list[HitGroup]


@dataclass
class BestGroups:
    """Finds the groups of one gallery, of which a filter and the query's own images may leave out some."""

    gallery: Gallery
    grouping: Grouping
    place_K: Places | None
    """Where the images that may be hits stand; None: all."""
    left_out: frozenset[int] = frozenset()
    free_G: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.free_G = np.ones(len(self.gallery), bool) if self.place_K is None else np.zeros(len(self.gallery), bool)
        if self.place_K is not None:
            self.free_G[self.place_K] = True
        self.free_G[list(self.left_out)] = False

    def count(self) -> int | None:
        """How many groups there are, where that is known."""
        return self.grouping.count(np.flatnonzero(self.free_G))

    def find(
        self, query_E: NDArray[np.float32], wanted: int, ranked: tuple[NDArray[Any], Places], per_group: int
    ) -> GroupedImages:
        """The best groups, best first; in each its best images, best first, and then the others.

        ranked: scores and places of the best images, best first. per_group: so many of a group are scored.
        """
        free_G = self.free_G.copy()
        found: list[tuple[str | None, NDArray[Any], Places]] = []
        looked_at = len(ranked[1])
        while True:
            for score, place in zip(*ranked, strict=True):
                if len(found) == wanted:
                    break
                if free_G[place]:
                    name, member_M = self.grouping.members(int(place))
                    member_M = member_M[free_G[member_M]]
                    free_G[member_M] = False
                    found.append((name, *self._best_first(query_E, score, int(place), member_M, per_group)))
            rest_K = np.flatnonzero(free_G)  # what is in a group that was found need not be ranked again
            if len(found) == wanted or not len(rest_K):
                break
            looked_at = min(len(rest_K), DEEPER * looked_at)
            score_1K, place_1K = self.gallery.best(query_E[None], looked_at, rest_K)
            ranked = score_1K[0], place_1K[0]
        ends = np.cumsum([0, *(len(place_M) for _, _, place_M in found)]).tolist()
        spans = zip(found, ends, ends[1:], strict=False)
        return GroupedImages(
            np.concatenate([np.zeros(0, np.float32), *(score_M for _, score_M, _ in found)]),
            np.concatenate([np.zeros(0, np.int64), *(place_M for _, _, place_M in found)]),
            [HitGroup(name, np.arange(start, stop)) for (name, _, _), start, stop in spans],
        )

    def _best_first(
        self, query_E: NDArray[np.float32], score: Any, place: int, member_M: Places, per_group: int
    ) -> tuple[NDArray[Any], Places]:
        """Scores and places of a group, whose best image has this score and place; NaN for those that are not shown."""
        if per_group == 1:
            best_K, index_K = np.array([score]), np.array([place])
        else:
            score_1K, index_1K = topk(query_E[None], self.gallery.vector_GE, per_group, member_M)
            best_K, index_K = score_1K[0], index_1K[0]
        rest_K = member_M[~np.isin(member_M, index_K)]
        return np.concatenate([best_K, np.full(len(rest_K), np.nan, best_K.dtype)]), np.concatenate([index_K, rest_K])
