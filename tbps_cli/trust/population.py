"""What a score is worth in its gallery: how many of the gallery's own images score as high for the same query.

A cosine alone says little: 0.31 may be the best of a gallery or its average, depending on the query. So it is compared
with the scores that a random sample of the gallery gets, which costs the same few milliseconds for any gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.similarity import dots

SAMPLE = 4096
"""Images that stand for a larger gallery; a smaller one is taken whole."""
KNOWN = 100
"""First hits whose scores should be known where the sum over a large gallery is estimated: most of it lies there."""
SEED = 20
"""Of the draw: the same gallery has the same sample in every process."""
TIE = 1e-6
"""Scores closer than this are equal; rounding alone moves them so far."""

Scores = NDArray[Any]
Places = NDArray[np.int64]


class Standing(NamedTuple):
    """Where a score stands among those of the gallery's own images."""

    percentile: float
    """Percent of the gallery that scores lower. Never 100: the image itself scores as high."""
    z: float | None
    """Standard deviations above the gallery's mean; None where all images score the same."""


@dataclass(frozen=True)
class Population:
    """A random sample of images, or all of them where they are few."""

    vector_SE: NDArray[Any]
    place_S: Places
    """Where in the gallery each of them stands; below 0 for those that are only known as vectors."""
    size: int
    """How many images it stands for."""

    @classmethod
    def of(cls, vector_GE: NDArray[Any], place_K: Places | None = None) -> Population:
        """The sample of a gallery, or of the images at some of its places."""
        size = len(vector_GE) if place_K is None else len(place_K)
        chosen = np.arange(size)
        if size > SAMPLE:
            chosen = np.sort(np.random.default_rng(SEED).choice(size, SAMPLE, replace=False, shuffle=False))
        place_S = chosen if place_K is None else place_K[chosen]
        whole = place_K is None and size <= SAMPLE
        return cls(vector_GE if whole else np.asarray(vector_GE[place_S]), place_S, size)

    def scores(self, query_QE: NDArray[np.float32]) -> Scores:
        """Of each query with each image of the sample, [Q, S]."""
        return dots(query_QE, self.vector_SE)

    def standings(self, score_S: Scores, score_K: Scores, place_K: Places) -> list[Standing]:
        """Where the scores of K images of the gallery stand, given those of the sample for the same query."""
        ordered = np.sort(score_S)
        mean, deviation = (float(value) for value in (score_S.mean(), score_S.std())) if len(score_S) else (0.0, 0.0)
        as_high_K = len(ordered) - np.searchsorted(ordered, score_K - TIE)
        inside_K = np.isin(place_K, self.place_S)
        return [
            Standing(
                # an image counts once as one that scores as high as itself, whether it was drawn or not
                100 * (1 - (1 + as_high - inside) / (1 + len(ordered) - inside)),
                (score - mean) / deviation if deviation > TIE else None,
            )
            for score, as_high, inside in zip(
                score_K.tolist(), as_high_K.tolist(), inside_K.astype(int).tolist(), strict=True
            )
        ]

    def log_total(self, score_S: Scores, score_K: Scores, place_K: Places, temperature: float) -> float:
        """log of the sum of exp(score / temperature) over all images that the sample stands for.

        score_K, place_K: images whose scores are known (the first hits, where most of the sum lies); the others are
        estimated from the sample.
        """
        known_S = np.isin(self.place_S, place_K)
        rest_S = score_S[~known_S].astype(np.float64) / temperature
        parts = [score_K.astype(np.float64) / temperature]
        if len(rest_S):
            others = max(self.size - len(score_K), len(rest_S))
            parts.append(np.array([_log_sum(rest_S) + np.log(others / len(rest_S))]))
        return _log_sum(np.concatenate(parts))


def _log_sum(value_N: NDArray[np.float64]) -> float:
    highest = float(value_N.max())
    return highest + float(np.log(np.exp(value_N - highest).sum()))
