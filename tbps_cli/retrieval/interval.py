"""How far scores would move if other persons had been tested: a bootstrap over persons.

Captions of one person are not independent (same clothes, same near-twins), so persons are drawn, each
with all its queries, and not captions: drawing captions gives intervals that are too narrow. Scores are
means over queries, hence ratios of sums over persons; every resample is then a row of counts times a
small table of sums, and thousands of them take a fraction of a second. Percentile intervals: Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

Written by hand on purpose: `scipy.stats.bootstrap` draws single observations (here persons with all their queries) and
calls the statistic for each resample, where one product of a table of counts with a table of sums gives all of them.

The gallery stays as it is, and so do the weights: what another training seed would give is not in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.retrieval.evaluate import Evaluation
from tbps_cli.retrieval.metrics import Details
from tbps_cli.retrieval.similarity import codes
from tbps_cli.types import Scores

RESAMPLES = 2000
SEED = 0
LEVEL = 95.0
DEPTHS = 1, 5, 10
DRAWN = 1 << 22
"""Persons drawn at a time."""

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """The lower and upper end of every score, in percent."""

    low: Scores
    high: Scores

    def document(self) -> dict[str, list[float]]:
        """{"R1": [low, high], ...}."""
        return {name: [getattr(self.low, name), getattr(self.high, name)] for name in Scores._fields}


def of_evaluation(evaluation: Evaluation, level: float = LEVEL) -> dict[str, object]:
    """The intervals of both directions as `tbps eval --json` prints them; those of text to image come first."""
    check_level(level)
    text, image = (
        interval(side.details, side.person_Q, level=level).document()
        for side in (evaluation.sides["text_to_image"], evaluation.sides["image_to_text"])
    )
    return {
        "level": int(level) if level == int(level) else level,
        "resamples": RESAMPLES,
        "seed": SEED,
        "over": "persons",
        "persons": len(set(evaluation.split.caption_person)),
        **text,
        "image_to_text": image,
    }


def interval(details: Details, person_Q: Any, *, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Percentile intervals of the five scores.

    person_Q: whose query each is; queries of equal identities are drawn together.
    level: percent of the resamples that lie inside.
    """
    check_level(level)
    drawn_RS = figures(resampled(sums(details, person_Q), resamples=resamples, seed=SEED))
    low, high = ends(drawn_RS, level)
    return Interval(Scores(*low.tolist()), Scores(*high.tolist()))


def check_level(level: float) -> None:
    """Raises UsageError for a level that leaves nothing outside, or nothing inside."""
    if not 0 < level < 100:
        raise UsageError(f"--interval {level:g}: the level must lie between 0 and 100 percent.", "Usual: 95.")


def sums(details: Details, person_Q: Any) -> Table:
    """What scores are ratios of, summed over the queries of each person: one row a person.

    Columns: queries; those found within 1, 5 and 10; queries that have relevant items; their AP; their INP.
    """
    row_Q = np.unique(codes(person_Q, person_Q)[0], return_inverse=True)[1]
    found_Q = details.first_Q > 0
    columns = [
        np.ones(len(row_Q)),
        *(found_Q & (details.first_Q <= depth) for depth in DEPTHS),
        details.relevant_Q > 0,
        np.nan_to_num(details.ap_Q),
        np.nan_to_num(details.inp_Q),
    ]
    return np.stack([np.bincount(row_Q, weights=column) for column in columns], axis=1)


def figures(sum_RS: Table) -> Table:
    """The five scores in percent of each row of sums, in the order of `Scores`; 0 where nothing can be judged."""
    queries, judged = sum_RS[:, :1], sum_RS[:, 4:5]
    recall, precision = sum_RS[:, 1:4] / queries, sum_RS[:, 5:7] / np.maximum(judged, 1)
    return 100.0 * np.concatenate([recall, precision], axis=1)


def resampled(sum_PS: Table, *, resamples: int, seed: int) -> Table:
    """Sums [R, S] over as many persons as there are, drawn with replacement."""
    return np.concatenate([count_RP @ sum_PS for count_RP in draws(len(sum_PS), resamples, seed)])


def draws(persons: int, resamples: int, seed: int) -> Iterator[Table]:
    """How often each person is drawn, [R, P], some resamples at a time."""
    rng = np.random.default_rng(seed)
    size = max(1, DRAWN // persons)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn_RP = rng.integers(persons, size=(rows, persons)) + persons * np.arange(rows)[:, None]
        yield np.bincount(drawn_RP.ravel(), minlength=rows * persons).reshape(rows, persons).astype(np.float64)


def ends(drawn_RS: Table, level: float) -> Table:
    """[2, S]: below the first and above the second end lies the same share of the resamples."""
    outside = (100.0 - level) / 2
    return np.asarray(np.percentile(drawn_RS, [outside, 100.0 - outside], axis=0))
