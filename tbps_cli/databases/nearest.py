"""The best of vectors that were fetched, exact, in float32: what a database's own search found is ranked again so.

Ties: the row that comes first, so that an answer does not depend on how vectors were cut into blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 16384
"""Vectors that are widened to float32 at a time."""


def nearest(
    query_QE: NDArray[np.float32], vector_NE: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(score_QK, place_QK), best first; K = min(k, N). Raises ValueError when k < 1."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    queries = len(query_QE)
    score_QK, place_QK = np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)
    for start in range(0, len(vector_NE), BLOCK):
        score_QB = query_QE @ vector_NE[start : start + BLOCK].astype(np.float32).T
        place_QB = np.broadcast_to(np.arange(start, start + score_QB.shape[1]), score_QB.shape)
        # what was found before comes first, so a stable order keeps the earlier of equal rows
        score_QB, place_QB = np.hstack([score_QK, score_QB]), np.hstack([place_QK, place_QB])
        order_QK = np.argsort(-score_QB, axis=1, kind="stable")[:, :k]
        score_QK, place_QK = (np.take_along_axis(each, order_QK, 1) for each in (score_QB, place_QB))
    return score_QK, place_QK
