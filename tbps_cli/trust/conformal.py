"""The smallest set of images that holds the person with a given probability, or the finding that there is none.

Two tests at one level, both calibrated on val, where it is known who is described. First: might the best image be a
stranger's? The best of N images of strangers is known for every N; a search whose best image scores no higher than
strangers do in `level` of all searches gets no set. Second, for those that pass: all images above a score that the
person's own best image reaches in `level` of them. How high that one scores does not depend on how many others there
are, so the score itself is what carries over to galleries of other sizes (measured: docs/evaluation.md).
Source of the second: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, inductive version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from tbps_cli.errors import UsageError
from tbps_cli.section import Section, Whole

Array = NDArray[np.float64]
Table = tuple[tuple[float, ...], ...]

SURE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99)
"""Levels that sets are calibrated at; others lie between them."""
QUANTILES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, *SURE, 0.995, 0.999, 0.9999)
"""What is kept of the distribution of the best score among strangers."""
LOWEST = -1.0
"""Of all cosines: a set down to it is the whole gallery."""
FARTHEST = 64.0
"""In galleries so many times larger than any that was measured, only what holds for every size is relied on."""


class Verdict(NamedTuple):
    """What can be said of one search at one level."""

    level: float
    threshold: float
    """Images that score as high are the set."""
    stranger: float
    """The best image has to score as high, or else it may be a stranger's."""
    by_chance: float
    """How often the best of as many images of strangers scores as high as the best here, 0 to 1."""
    refused: bool
    """Whether there is no confident match."""
    present_refused: float
    """The share of persons who are in a gallery of this size and get no confident match."""


class ConformalRule(Section):
    """What val taught: how high people score in searches for themselves and for others."""

    sizes: tuple[Whole, ...]
    """Numbers of images, ascending."""
    strangers: Table
    """For each of these sizes: the best score among strangers, at `QUANTILES`."""
    thresholds: Table
    """For each of these sizes: down to which score a set goes, at the levels `SURE`."""
    refused: Table
    """For each of these sizes: the share of persons in the gallery who get no set, at the levels `SURE`."""
    everybody: tuple[float, ...]
    """The score that the own best image of that share of all people reaches, at the levels `SURE`."""

    @model_validator(mode="after")
    def _is_whole(self) -> ConformalRule:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ValueError("sizes must be positive and ascending")
        for table, columns in ((self.strangers, QUANTILES), (self.thresholds, SURE), (self.refused, SURE)):
            if [len(row) for row in table] != [len(columns)] * len(self.sizes):
                raise ValueError("a table has another shape than sizes and levels")
        rows = (*self.strangers, *self.thresholds, *self.refused, self.everybody)
        if len(self.everybody) != len(SURE) or not all(math.isfinite(value) for row in rows for value in row):
            raise ValueError("a table lacks numbers, or they are not finite")
        if any(list(row) != sorted(row) for row in self.strangers):
            raise ValueError("strangers must be ascending")
        return self

    @classmethod
    def fit(cls, own_Q: Array, sizes: Sequence[int], strangers_NQ: Sequence[Array]) -> ConformalRule:
        """From Q searches: the score of the own best image, and of the best stranger's for each size of gallery."""
        outcomes = [[_set_at(level, own_Q, stranger_Q) for level in SURE] for stranger_Q in strangers_NQ]
        return cls(
            sizes=tuple(sizes),
            strangers=tuple(tuple(np.quantile(stranger_Q, QUANTILES).tolist()) for stranger_Q in strangers_NQ),
            thresholds=tuple(tuple(threshold for threshold, _ in row) for row in outcomes),
            refused=tuple(tuple(refused for _, refused in row) for row in outcomes),
            everybody=tuple(_reached(own_Q, level) for level in SURE),
        )

    def judge(self, level: float, best: float, images: int) -> Verdict:
        """What a search says whose best image scores `best`, among `images` candidates.

        Both errors are 1 - level: of people who are not there as many get a set after all, and of those who are there
        and get one as many are outside it.
        """
        stranger_L = self._strangers(images)
        stranger = float(np.interp(level, QUANTILES, stranger_L))
        threshold = float(np.interp(level, SURE, self._thresholds(images)))
        by_chance = 1 - float(np.interp(best, stranger_L, QUANTILES, left=0.0, right=1.0))
        present_refused = float(np.interp(level, SURE, _between(self.sizes, self.refused, images)))
        return Verdict(level, threshold, stranger, by_chance, not best >= max(stranger, threshold), present_refused)

    def _strangers(self, images: int) -> Array:
        """The best score among so many images of strangers at each of `QUANTILES`.

        k times the largest size that was measured is as if k galleries were searched one after the other: the best of
        all is below a score as often as each of them is.
        """
        if images <= self.sizes[-1]:
            return _between(self.sizes, self.strangers, images)
        made: Array = np.interp(np.power(QUANTILES, self.sizes[-1] / images), QUANTILES, self.strangers[-1])
        return made

    def _thresholds(self, images: int) -> Array:
        """Beyond the sizes that were measured they move, over a factor of `FARTHEST`, to what holds for every size."""
        measured = _between(self.sizes, self.thresholds, images)
        beyond = math.log(max(images / self.sizes[-1], 1)) / math.log(FARTHEST)
        return measured + min(beyond, 1) * (np.minimum(self.everybody, measured) - measured)


def _between(sizes: Sequence[int], table: Table, images: int) -> Array:
    """A row of a table, linear in the logarithm of the size; level beyond the sizes."""
    known, wanted = np.log(sizes), math.log(max(images, 1))
    return np.array([np.interp(wanted, known, column) for column in zip(*table, strict=True)])


def _set_at(level: float, own_Q: Array, stranger_Q: Array) -> tuple[float, float]:
    """(the score that sets go down to, share of searches without one), if galleries hold who is described."""
    best_Q = np.maximum(own_Q, stranger_Q)
    passed_Q = best_Q >= np.quantile(stranger_Q, level)
    threshold = _reached(own_Q[passed_Q], level)
    return threshold, float(1 - (passed_Q & (best_Q >= threshold)).mean())


def _reached(own_Q: Array, level: float) -> float:
    """The score that a further person reaches with this probability: among n scores each place is as likely for it."""
    outside = math.floor((1 - level) * (len(own_Q) + 1) + 1e-9)
    return float(np.sort(own_Q)[outside - 1]) if outside else LOWEST


def check_level(level: float, most: float | None = None) -> None:
    """Raises UsageError for a probability that no set can have. most: the highest that a calibration can promise."""
    if not 0 < level < 1:  # NaN too
        hint = "For example 0.9: the set holds the person in nine searches of ten."
        raise UsageError(f"--sure {level:g}: must be a probability between 0 and 1.", hint)
    if level < SURE[0] or level > SURE[-1]:
        raise UsageError(f"--sure {level:g}: sets are calibrated from {SURE[0]:g} to {SURE[-1]:g}.", "For example: 0.9")
    if most is not None and level > most:
        said = f"--sure {level:g}: the calibration knows too few people for more than {most:.3f}."
        raise UsageError(said, f"For example: --sure {max(SURE[0], math.floor(100 * most) / 100):g}")
