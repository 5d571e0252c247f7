"""From which score on a standing question is told, so that false alarms stay within a budget.

The rule. The gallery's own population are those seen so far: a track counts once, with its best score, as an image
does where no track is known. If `a_day` of them arrive in a day, and a budget allows `budget` alerts a day over Q
queries, then each query may be told for a share of budget / (Q x a_day) of the arrivals. Its threshold is the score
that this share of the population exceeds:

* Of n scores, the next one is above the k-th largest with a probability of exactly k / (n + 1), whatever their
  distribution, as long as it stays the same. So with k = the largest whole number up to share x (n + 1), no more than
  the budget is told on the average.
* Where k would be 0, the population is too small to show so rare a score, and the tail is continued: above u, the
  (m + 1)-th largest score, the excesses of the m largest are taken as exponential, S their sum. Then the next score is
  above u + S x t with a probability of (m + 1) / (n + 1) x (1 + t)^-m, which allows for S being an estimate. Cosines
  end at 1, so that their tails are shorter than exponential and the threshold errs on the high side.
* With fewer than `FEWEST` there is no threshold, and nothing is told.

Everybody counts, also those who were rightly told: the budget is kept if tomorrow is like the past, and whoever is
looked for comes on top. Nothing is used but what was there before the scores that are judged.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError

FEWEST = 50
"""Images or tracks below which no share of them says anything."""
TAIL = 10, 100
"""Fewest and most of the largest scores that the tail is continued from; between them a twentieth of all."""
WINDOW = 14 * 86_400.0
"""Seconds of the past that say how many arrive in a day: two weeks hold every day of the week."""
SHORTEST = 3600.0
"""Seconds; what arrived within less says nothing about a day."""
DAY = 86_400.0

_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/|per|a|an)\s*(hour|h|day|d|week|w|month)\s*", re.IGNORECASE)
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "m": 30.0}


@dataclass(frozen=True)
class Budget:
    """How many alerts may come in a day, over all queries together."""

    a_day: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`5/day`, `1/h`, `2/week`, `0.5/day`. Raises UsageError."""
        found = _BUDGET.fullmatch(text)
        count = float(found[1]) if found else 0.0
        if found is None or not 0 < count < 1e9:
            raise UsageError(f"--budget {text}: not so many alerts in some time.", "For example: --budget 5/day")
        return cls(count / _DAYS[found[2][0].lower()])


class Tail:
    """The scores that the population has for one query, and how rare others are among them."""

    def __init__(self, score_N: NDArray[Any]) -> None:
        self.score_N = np.sort(np.asarray(score_N, np.float64))[::-1]
        """The largest first."""

    def threshold(self, share: float) -> float | None:
        """The score that a share of the arrivals will exceed; None where too few are known to say."""
        n = len(self.score_N)
        if n < FEWEST or not share > 0:
            return None
        k = math.floor(share * (n + 1) + 1e-9)
        if k > n:
            return -math.inf  # everything may be told
        if k >= 1:
            return float(self.score_N[k - 1])
        m, start, total = self._largest()
        above = (m + 1) / (n + 1)
        return start + total * ((share / above) ** (-1 / m) - 1)

    def share(self, score: float) -> float:
        """Which share of the arrivals scores as high, as far as the population shows; above 0."""
        n = len(self.score_N)
        as_high = int(np.searchsorted(-self.score_N, -score, side="right"))
        if as_high >= 1 or n < FEWEST:
            return (as_high + 1) / (n + 1)
        m, start, total = self._largest()
        beyond = (score - start) / total if total > 0 else 0.0
        return min(1 / (n + 1), (m + 1) / (n + 1) * (1 + beyond) ** -m)

    def _largest(self) -> tuple[int, float, float]:
        """How many scores the tail is continued from, where it begins, and the sum of their excesses."""
        m = min(TAIL[1], max(TAIL[0], len(self.score_N) // 20))
        start = float(self.score_N[m])
        return m, start, float((self.score_N[:m] - start).sum())


def arrivals_a_day(moment_N: NDArray[np.float64]) -> float | None:
    """How many arrive in a day, by the seconds at which each did; None where too few are known to say.

    The average over two weeks before the last of them, or the number of the last day where that is more.
    """
    known = np.sort(moment_N[np.isfinite(moment_N)])
    if len(known) < 2:
        return None
    known = known[known > known[-1] - WINDOW]
    span = max(SHORTEST, float(known[-1] - known[0]))
    average = len(known) / span * DAY
    return max(average, float(np.count_nonzero(known > known[-1] - DAY))) if span > DAY else average
