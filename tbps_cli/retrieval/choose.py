"""The best of several evaluations, and the record that it was chosen: of files, of constants, of ways to fuse scores.

Choosing is fine where it is done on val and told. Choosing by the scores of the test split makes the chosen score too
good, the more so the more candidates there were; `best_of` takes either, and the protocol says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tbps_cli.choices import Choice, Choices, Chosen
from tbps_cli.errors import UsageError
from tbps_cli.retrieval.evaluate import Evaluation


def best_of(what: Chosen, evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the highest R@1 (the first of equals), its protocol saying that `what` was chosen so.

    For an honest score give those on val, then `evaluate(..., "test", choices=best.protocol.choices)`.
    Raises UsageError where they were not made on one split of one data set, or there are none.
    """
    made_on = {(evaluation.data, evaluation.split.name) for evaluation in evaluations}
    if len(made_on) != 1:
        raise UsageError(
            f"best_of: evaluations of one split are compared, not of {len(made_on)}.",
            "Evaluate every candidate on the same data set and split.",
        )
    best = max(evaluations, key=lambda evaluation: evaluation.scores.R1)
    choice = Choice(best.split.name, best.data, len(evaluations))
    choices = best.protocol.choices.and_also(Choices({what: choice}))
    return replace(best, protocol=replace(best.protocol, choices=choices))
