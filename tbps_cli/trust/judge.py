"""What is said beside the hits of a search: where each score stands, how likely it is right, who is surely there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.similarity import dots
from tbps_cli.trust.population import KNOWN, Places, Population, Scores

if TYPE_CHECKING:
    from tbps_cli.trust.calibration import Calibration
    from tbps_cli.trust.conformal import Verdict

DownTo = Callable[[NDArray[np.float32], float], tuple[Scores, Places]]
"""(query_E, lowest) -> (score_K, place_K)."""
BLOCK = 32768
"""Images counted at a time."""


class Figures(NamedTuple):
    """Beside one hit."""

    percentile: float
    """Percent of the gallery's images that score lower."""
    z: float | None
    """Standard deviations above the gallery's mean score for this query."""
    probability: float | None
    """That the hit shows the person, if the person is among the candidates; None without a calibration."""


class Judge:
    """Judges the hits of searches in one gallery, of which a filter may have left only some images.

    place_K: where the images that may be hits stand in the gallery; None: all of them.
    """

    def __init__(
        self,
        vector_GE: NDArray[Any],
        place_K: Places | None,
        calibration: Calibration | None,
        down_to: DownTo | None = None,
        sample: Population | None = None,
    ) -> None:
        """down_to: finds the candidates that score so high without reading all of them, where something can.

        sample: of the whole gallery, where one was drawn for another search.
        """
        self.vector_GE, self.place_K, self.calibration, self.down_to = vector_GE, place_K, calibration, down_to
        self.sample = sample

    @property
    def known(self) -> int:
        """How many of the first hits it wants to know of, whatever is shown."""
        return 0 if self.calibration is None else KNOWN

    @cached_property
    def gallery(self) -> Population:
        """A sample of all images."""
        return self.sample or Population.of(self.vector_GE)

    @cached_property
    def candidates(self) -> Population:
        """A sample of those that may be hits."""
        return self.gallery if self.place_K is None else Population.of(self.vector_GE, self.place_K)

    def figures(
        self,
        query_E: NDArray[np.float32],
        ranked: tuple[Scores, Places],
        score_N: Scores,
        place_N: Places,
        *,
        calibrated: bool = True,
    ) -> list[Figures]:
        """What stands beside N hits.

        ranked: the scores and places of the first images, best first, at least `known` of them where there are so many.
        calibrated: the query is of the kind that was calibrated, a sentence.
        """
        if not len(score_N):
            return []
        score_S = self.gallery.scores(query_E[None])[0]
        standings = self.gallery.standings(score_S, score_N, place_N)
        if self.calibration is None or not calibrated:
            return [Figures(standing.percentile, standing.z, None) for standing in standings]
        if self.candidates is not self.gallery:
            score_S = self.candidates.scores(query_E[None])[0]
        first_K, place_K = (values[: self.known] for values in ranked)
        scale = self.calibration.temperature
        total = self.candidates.log_total(score_S, first_K, place_K, scale)
        share_N1 = score_N.astype(np.float64)[:, None] / scale - total
        share_N2 = np.concatenate([np.full_like(share_N1, float(first_K[0]) / scale - total), share_N1], axis=1)
        said_N2 = self.calibration.probabilities(share_N2)
        said_N = np.where(place_N == place_K[0], said_N2[:, 0], said_N2[:, 1])
        return [Figures(one.percentile, one.z, said) for one, said in zip(standings, said_N.tolist(), strict=True)]

    def verdict(self, level: float, best: float) -> Verdict:
        """Whether there is a confident match, and down to which score it goes. Needs a calibration."""
        assert self.calibration is not None
        return self.calibration.rule.judge(level, best, self.candidates.size)

    def reaching(self, query_E: NDArray[np.float32], threshold: float) -> int:
        """How many candidates score at least so much."""
        if self.down_to is not None:
            return len(self.down_to(query_E, threshold)[1])
        count, size = 0, self.candidates.size
        for start in range(0, size, BLOCK):
            rows: slice | Places = slice(start, min(start + BLOCK, size))
            rows = rows if self.place_K is None else self.place_K[rows]
            count += int((dots(query_E[None], self.vector_GE[rows])[0] >= threshold).sum())
        return count

    def shifted(self) -> tuple[float, float] | None:
        """(distance, limit) where the gallery looks unlike the one that was calibrated on; None where it does not."""
        return None if self.calibration is None else self.calibration.shifted(self.gallery.vector_SE)
