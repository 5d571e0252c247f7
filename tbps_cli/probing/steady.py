"""The protocol of probe and degrade: that of the evaluation, without what changes from run to run."""

from __future__ import annotations

from typing import Any

from tbps_cli.retrieval.evaluate import Evaluation


def steady(evaluation: Evaluation) -> dict[str, Any]:
    """The protocol, with the guard's measured difference in whole steps of its tolerance.

    What is below is rounding, which another batch size changes; without it equal seeds give equal bytes.
    """
    protocol = evaluation.protocol.document()
    guard = protocol["guard"]
    steps = round(guard["difference"] / guard["tolerance"])
    return {**protocol, "guard": {**guard, "difference": steps * guard["tolerance"]}}
