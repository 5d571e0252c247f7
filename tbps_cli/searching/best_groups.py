"""The best groups of a large gallery, without the scores of all its images.

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
    """The images of the best groups; `groups` says where in them each group stands."""

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

    def find(self, query_E: NDArray[np.float32], wanted: int) -> GroupedImages:
        """The best groups, best first, with all their images, best first."""
        free_G, size = self.free_G.copy(), int(self.free_G.sum())
        found: list[tuple[str | None, NDArray[Any], Places]] = []
        looked_at = 0
        while len(found) < wanted and looked_at < size:
            looked_at = min(size, max(FIRST * wanted, DEEPER * looked_at))
            _, place_1K = self.gallery.best(query_E[None], looked_at + len(self.left_out), self.place_K)
            for place in place_1K[0].tolist():
                if len(found) == wanted:
                    break
                if free_G[place]:
                    name, member_M = self.grouping.members(place)
                    member_M = member_M[free_G[member_M]]
                    free_G[member_M] = False
                    score_1M, index_1M = topk(query_E[None], self.gallery.vector_GE, len(member_M), member_M)
                    found.append((name, score_1M[0], index_1M[0]))
        ends = np.cumsum([0, *(len(place_M) for _, _, place_M in found)]).tolist()
        spans = zip(found, ends, ends[1:], strict=False)
        return GroupedImages(
            np.concatenate([np.zeros(0, np.float32), *(score_M for _, score_M, _ in found)]),
            np.concatenate([np.zeros(0, np.int64), *(place_M for _, _, place_M in found)]),
            [HitGroup(name, np.arange(start, stop)) for (name, _, _), start, stop in spans],
        )
