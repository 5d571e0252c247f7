"""Whether a ranking depends on what it should not: other queries, other images of the gallery, the order of either.

Searchers ask one question at a time. A score that is normalised over all test queries (LPNC does; so do CSLS and
softmax over both sides) knows more than any of them could, and is not comparable with one that is not. So the scores of
a sample are computed again: for some of the queries and for a few alone, for half of the gallery, and in another order.
Each row is compared after its mean and spread are taken out, because neither changes a ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.similarity import Array

ScoreFunction = Callable[[Array, Array], Array]
"""(query_QE, gallery_GE) -> score_QG: how well each item of a gallery answers each query."""

QUERIES = 256
"""Queries of the sample that stand for all of them."""
GALLERY = 1024
"""Images of the gallery in the sample."""
FEWER = 64
"""Queries that are asked without the rest."""
ALONE = 4
"""As many are also asked alone."""
TOLERANCE = 1e-3
"""Largest change of a score, in standard deviations of its query's scores; float32 stays below 1e-5."""
UNSTEADY = 3.0
"""As many times the change that rounding makes are still taken for rounding."""
NONE = 1e6
"""Stands for scores that cannot be computed under the other conditions."""
SEED = 0


@dataclass(frozen=True)
class Dependence:
    """The largest change of a sampled score, in standard deviations of its query's scores; 0 for rounding."""

    queries: float = 0.0
    """When other queries are asked with it."""
    gallery: float = 0.0
    """When other images are in the gallery."""
    order: float = 0.0
    """When queries and gallery stand in another order."""

    def worst(self, other: Dependence) -> Dependence:
        """The larger of each."""
        return Dependence(
            max(self.queries, other.queries), max(self.gallery, other.gallery), max(self.order, other.order)
        )


def measure(score: ScoreFunction, query_QE: Array, gallery_GE: Array, ranked_QG: Array | None = None) -> Dependence:
    """Compute the scores of a sample again under other conditions.

    ranked_QG: the scores that were ranked, where they are at hand; some of their queries are then asked anew as well,
    against the whole gallery.
    """
    rng = np.random.default_rng(SEED)
    chosen_S = np.sort(rng.permutation(len(query_QE))[:QUERIES])
    query_SE, item_TE = query_QE[chosen_S], gallery_GE[np.sort(rng.permutation(len(gallery_GE))[:GALLERY])]
    score_ST = score(query_SE, item_TE)
    rounding = _change(score_ST, score, query_SE * _almost_one(rng, query_SE), item_TE * _almost_one(rng, item_TE))
    queries = [_change(score_ST[:FEWER], score, query_SE[:FEWER], item_TE)]
    queries += [_change(score_ST[[row]], score, query_SE[[row]], item_TE) for row in range(min(ALONE, len(query_SE)))]
    if ranked_QG is not None:
        some = chosen_S[:: max(1, len(chosen_S) // FEWER)][:FEWER]
        queries.append(_change(ranked_QG[some], score, query_QE[some], gallery_GE))
    row_S, column_T = rng.permutation(len(query_SE)), rng.permutation(len(item_TE))
    gallery = _change(score_ST[:, ::2], score, query_SE, item_TE[::2])
    order = _change(score_ST[row_S][:, column_T], score, query_SE[row_S], item_TE[column_T])
    # Scores made of ranks jump where two are almost equal: what rounding alone does to them is no dependence.
    least = max(TOLERANCE, UNSTEADY * rounding)
    return Dependence(*(change if change > least else 0.0 for change in (max(queries), gallery, order)))


def _almost_one(rng: np.random.Generator, row_NE: Array) -> Array:
    """Factors that change numbers as rounding does."""
    return (1 + 1e-6 * rng.uniform(-1, 1, row_NE.shape)).astype(row_NE.dtype)


def _change(expected_QG: Array, score: ScoreFunction, query_QE: Array, gallery_GE: Array) -> float:
    """How far scores that are computed again lie from the expected ones; `NONE` where they cannot be computed."""
    try:
        again_QG = score(query_QE, gallery_GE)
    except Exception:  # it may be anybody's function, and it could do this for more queries or more images
        return NONE
    if np.shape(again_QG) != expected_QG.shape:
        return NONE
    change = float(np.abs(_standard(again_QG) - _standard(expected_QG)).max())
    return change if np.isfinite(change) else NONE


def _standard(score_QG: Array) -> NDArray[np.float64]:
    """Every query's scores with mean 0 and spread 1, which ranks them as before."""
    wide_QG = np.asarray(score_QG, np.float64)
    centred_QG = wide_QG - wide_QG.mean(axis=1, keepdims=True)
    # Scores that are almost equal (a model that has collapsed) would otherwise show their rounding alone.
    least_Q1 = np.maximum(1e-3 * np.abs(wide_QG).max(axis=1, keepdims=True), 1e-30)
    return centred_QG / np.maximum(centred_QG.std(axis=1, keepdims=True), least_Q1)
