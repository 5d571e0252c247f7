"""Whether two runs differ: a paired bootstrap over persons, and which queries gained or lost.

Both runs answer the same captions, so their scores rise and fall together with the persons drawn; the
difference is far better known than either score. Persons are drawn with all their queries, the same ones
for both runs (see `retrieval.interval`). The p-value belongs to the percentile interval: twice the share
of resamples on the far side of zero (or on it), so p < 0.05 exactly where the 95 % interval leaves out
zero; one is added to both counts, since no finite number of draws can show p = 0.

A difference is called real only between scores of one protocol: weights chosen on test gain on weights chosen on val
without being better. What this cannot know is how another seed would have trained: `NOTE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.checkpoint import Checkpoint, find, open_data, open_encoder
from tbps_cli.retrieval.evaluate import Direction, Evaluation, Side, Watch, evaluate
from tbps_cli.retrieval.interval import LEVEL, SEED, ends, figures, resampled, sums
from tbps_cli.types import Scores

RESAMPLES = 10_000
"""More than for an interval: small p-values live in the tails."""
SAMPLING = 0.05
"""A difference with a larger p-value may be sampling error."""
ACROSS = "--across-protocols"
"""Asks for a verdict all the same."""
NOTE = (
    "Drawn were the tested persons, not the training seeds; seeds alone move R@1 by up to 2 points. "
    "Several seeds: tbps train RECIPE --repeat N"
)
SPOKEN = {"R1": "R@1", "mAP": "mAP"}
"""The scores that a verdict is given on."""


@dataclass(frozen=True)
class Difference:
    """One score of both runs, in percent; `difference` is the second minus the first, in points."""

    name: str
    first: float
    second: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        return self.second - self.first

    def document(self) -> dict[str, object]:
        """The comparison of one score as JSON-able values."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "interval": [self.low, self.high],
            "p": self.p,
        }


@dataclass(frozen=True)
class Moved:
    """One query of text to image and what became of it."""

    caption: str
    person: int | str
    image: str
    """The image that the caption describes, relative to the data set."""
    ranks: tuple[int, int]
    """Rank of the first right image in both runs."""
    ap: tuple[float, float]
    """Average precision in both runs, in percent."""

    def document(self) -> dict[str, object]:
        """The query as JSON-able values."""
        return {**self.__dict__, "ranks": list(self.ranks), "ap": list(self.ap)}


@dataclass(frozen=True)
class Queries:
    """What happened to single queries, text to image."""

    total: int
    improved: int
    """Right at rank 1 in the second run only."""
    worsened: int
    """Right at rank 1 in the first run only."""
    gains: list[Moved]
    """Those whose average precision rose most, the largest rise first."""
    losses: list[Moved]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same split beside each other."""

    first: Evaluation
    second: Evaluation
    persons: int
    differences: dict[Direction, list[Difference]]
    queries: Queries
    across_protocols: bool = False
    """Whether a verdict was asked for although the protocols differ."""

    @property
    def verdicts(self) -> list[str]:
        """A plain sentence on R@1 and one on mAP, text to image; one that says why not, where protocols differ."""
        if self.unequal and not self.across_protocols:
            return [refusal(self.unequal)]
        return [verdict(item) for item in self.differences["text_to_image"] if item.name in SPOKEN]

    @property
    def unequal(self) -> dict[str, list[object]]:
        """Parts of the protocol in which the runs differ: {"selected_on": [first, second]}."""
        return self.first.protocol.differences(self.second.protocol)

    def document(self) -> dict[str, object]:
        """The comparison as `tbps compare --json` prints it."""
        queries = self.queries
        return {
            "runs": [_head(evaluation) for evaluation in (self.first, self.second)],
            "data": self.first.data,
            "split": self.first.split.name,
            "bootstrap": {
                "level": int(LEVEL),
                "resamples": RESAMPLES,
                "seed": SEED,
                "over": "persons",
                "persons": self.persons,
            },
            **{side: {item.name: item.document() for item in items} for side, items in self.differences.items()},
            "queries": {
                "total": queries.total,
                "improved": queries.improved,
                "worsened": queries.worsened,
                "gains": [moved.document() for moved in queries.gains],
                "losses": [moved.document() for moved in queries.losses],
            },
            "protocol_differs": self.unequal,
            "across_protocols": self.across_protocols,
            "verdict": self.verdicts,
            "note": NOTE,
        }


def compare(first: Evaluation, second: Evaluation, *, shown: int = 5, across_protocols: bool = False) -> Comparison:
    """Set two evaluations of one split beside each other.

    shown: queries listed among the gains and among the losses, at most.
    across_protocols: judge the difference even where the protocols differ.
    Raises UsageError when they do not rank the same captions and images.
    """
    if not _same_questions(first, second):
        raise UsageError(
            f"{first.run} and {second.run} were evaluated on different captions or images.", "Use one data set."
        )
    differences = {side: differences_of(first.sides[side], second.sides[side]) for side in first.sides}
    persons = len(set(first.split.caption_person))
    return Comparison(first, second, persons, differences, _queries(first, second, shown), across_protocols)


def compare_checkpoints(
    first: Encoder | Checkpoint | str | Path,
    second: Encoder | Checkpoint | str | Path,
    data: str | None = None,
    split: str = "test",
    *,
    shown: int = 5,
    across_protocols: bool = False,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    batch: int | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
) -> Comparison:
    """Evaluate two checkpoints on one data set and compare them.

    data: its name or path; left out, the one that both belong to. watch: gives the progress callback of a
    checkpoint, whose path it is called with. Else as `evaluate`. Cheap checks come first: both checkpoints,
    the data set, and only then weights. Raises UsageError when the checkpoints belong to different data sets.
    """
    owners = [find(checkpoint, sets, data) for checkpoint in (first, second)]
    own = {str(owner.path): owner.data for owner in owners if owner.data}
    if data is None and len(set(own.values())) > 1:
        raise UsageError(
            f"the runs belong to different data sets ({', '.join(f'{path}: {name}' for path, name in own.items())}).",
            "Name the one to compare them on: --data NAME",
        )
    (dataset,) = open_data(owners[0], [data] if data else (), split=split, data_root=data_root)
    models = [open_encoder(owner, device=device, words=words, data_root=data_root) for owner in owners]
    evaluations = []
    for model in models:
        with watch(str(model.path)) if watch else nullcontext() as progress:
            made = evaluate(model, dataset, split, batch=batch, cache_dir=cache_dir, workers=workers, progress=progress)
        evaluations.append(made)
    return compare(*evaluations, shown=shown, across_protocols=across_protocols)


def differences_of(first: Side, second: Side, *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Difference]:
    """The five scores of one direction, each with the interval and the p-value of its difference."""
    sum_PS = [sums(side.details, side.person_Q) for side in (first, second)]
    drawn = resampled(np.concatenate(sum_PS, axis=1), resamples=resamples, seed=seed)
    width = sum_PS[0].shape[1]
    # Rounded, because the sums of equal runs may differ in their last bit, and ties with zero count.
    change_RS = np.round(figures(drawn[:, width:]) - figures(drawn[:, :width]), 9)
    low, high = ends(change_RS, LEVEL)
    scores = zip(Scores._fields, first.details.scores(), second.details.scores(), strict=True)
    return [
        Difference(name, a, b, float(low[column]), float(high[column]), p_value(change_RS[:, column]))
        for column, (name, a, b) in enumerate(scores)
    ]


def p_value(change_R: NDArray[np.float64]) -> float:
    """Twice the smaller share of resamples that lie on one side of zero or on it; at most 1."""
    below, above = int((change_R <= 0).sum()), int((change_R >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(change_R) + 1))


def verdict(item: Difference) -> str:
    """What a difference means, in a sentence."""
    name = SPOKEN.get(item.name, item.name)
    if item.difference == item.low == item.high == 0:
        return f"Both runs have the same {name}, for every person."
    chance = f"p = {item.p:.2f}" if item.p >= 0.01 else f"p = {item.p:.3f}" if item.p >= 0.001 else "p < 0.001"
    size = abs(item.difference)
    points = f"The difference of {size:.{1 if size >= 0.05 else 2}f} points in {name}"
    if item.p >= SAMPLING:
        return f"{points} is within sampling error ({chance})."
    better = "second" if item.difference > 0 else "first"
    return f"{points} is more than sampling error ({chance}): the {better} run is better."


def refusal(unequal: Mapping[str, list[object]]) -> str:
    """Why no difference is called real: what was not equal, and how to get a verdict all the same."""
    named = "; ".join(f"{name}: {said(one)} and {said(two)}" for name, (one, two) in unequal.items())
    return (
        f"No difference is called real, because the protocols differ ({named}). "
        f"Evaluate both runs alike, or judge them as they are with {ACROSS}."
    )


def said(condition: object) -> str:
    """A condition of a protocol in words; None stands for a choice that nobody has recorded."""
    if condition is None:
        return "unknown"
    return {True: "yes", False: "no"}[condition] if isinstance(condition, bool) else str(condition)


def _queries(first: Evaluation, second: Evaluation, shown: int) -> Queries:
    one, two = (evaluation.sides["text_to_image"].details for evaluation in (first, second))
    gain_Q = np.nan_to_num(two.ap_Q) - np.nan_to_num(one.ap_Q)
    order = np.argsort(-gain_Q, kind="stable")
    return Queries(
        total=len(gain_Q),
        improved=int(((one.first_Q != 1) & (two.first_Q == 1)).sum()),
        worsened=int(((one.first_Q == 1) & (two.first_Q != 1)).sum()),
        gains=[_moved(first, second, query) for query in order[:shown] if gain_Q[query] > 0],
        losses=[_moved(first, second, query) for query in order[::-1][:shown] if gain_Q[query] < 0],
    )


def _moved(first: Evaluation, second: Evaluation, query: int) -> Moved:
    split = first.split
    one, two = (evaluation.sides["text_to_image"].details for evaluation in (first, second))
    return Moved(
        caption=split.captions[query],
        person=split.caption_person[query],
        image=split.paths[int(split.caption_image[query])].relative_to(split.root).as_posix(),
        ranks=(int(one.first_Q[query]), int(two.first_Q[query])),
        ap=(100 * float(one.ap_Q[query]), 100 * float(two.ap_Q[query])),
    )


def _same_questions(first: Evaluation, second: Evaluation) -> bool:
    def asked(evaluation: Evaluation) -> Iterator[Any]:
        split = evaluation.split
        yield from (split.captions, split.paths, split.caption_person, split.image_person)

    return all(one == two for one, two in zip(asked(first), asked(second), strict=True))


def _head(evaluation: Evaluation) -> dict[str, object]:
    return {"run": evaluation.run, "method": evaluation.method, "protocol": evaluation.protocol.document()}
