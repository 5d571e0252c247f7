"""TextReID's re-ranking: a bonus for gallery items whose neighbours are the query's best answers.

S'(q, g) = S(q, g) + weight * J(q, g), where J is the Jaccard overlap of two sets of gallery items:
the `neighbours` best of the query, and the `neighbours` nearest of the item (itself included).
Source: TextReID, arXiv 2110.10807, test script of its released code, with sets and loops; here the
overlaps are counted through inverted neighbour lists, a block of queries at a time. Sorting is
stable (lower index first), the released one is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.rank import topk
from tbps_cli.retrieval.similarity import Array, features, product

NEIGHBOURS = 5
WEIGHT = 0.05


class NeighbourBonus:
    """weight * J for any rows of the query list: what `metrics.details` adds to similarities."""

    def __init__(self, query_QE: Any, gallery_GE: Any, neighbours: int = NEIGHBOURS, weight: float = WEIGHT) -> None:
        query, gallery = features(query_QE, "query"), features(gallery_GE, "gallery")
        self.best_QN = topk(query, gallery, neighbours)[1]
        self.weight = weight
        self.gallery = len(gallery)
        self.owner, self.of_item = _inverse(topk(gallery, gallery, neighbours)[1])

    def __call__(self, index_B: NDArray[np.int64]) -> Array:
        """The bonus [B, G], float32."""
        best_BN = self.best_QN[index_B]
        shared_BG = np.zeros((len(best_BN), self.gallery), np.float32)
        for row, best_N in enumerate(best_BN):
            for item in best_N:
                # Every gallery item that has `item` among its neighbours shares it with the query.
                shared_BG[row, self.owner[self.of_item[item] : self.of_item[item + 1]]] += 1
        return self.weight * (shared_BG / (2 * best_BN.shape[1] - shared_BG))


def with_bonus(query_QE: Array, gallery_GE: Array) -> Array:
    """Similarities with the bonus, for few enough queries and images to hold them all: [Q, G]."""
    return product(query_QE, gallery_GE) + NeighbourBonus(query_QE, gallery_GE)(np.arange(len(query_QE)))


def _inverse(nearest_GN: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbour lists turned round: (owners, starts); owners[starts[i]:starts[i+1]] list item i."""
    items, neighbours = nearest_GN.shape
    order = np.argsort(nearest_GN.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(nearest_GN.ravel(), minlength=items))])
    return order // neighbours, starts
