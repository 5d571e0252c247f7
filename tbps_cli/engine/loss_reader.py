"""Reading losses without making the device wait, and stopping at the first one that is not a number."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tbps_cli.engine.step import Outcome
from tbps_cli.errors import TbpsError
from tbps_cli.types import Step


@dataclass
class Seen:
    """One step's figures as plain numbers; "loss" is the sum and comes first."""

    at: Step
    step: int
    """Steps taken, this one included."""
    figures: dict[str, float]
    pairs: int


@dataclass
class _Sent:
    """Figures on their way from the device."""

    at: Step
    step: int
    names: list[str]
    values_N: Tensor
    sample_B: Tensor
    metrics: dict[str, float]
    arrived: Any


class LossReader:
    """Steps go in as tensors and come out as numbers: at once on the CPU, one step later on CUDA.

    On CUDA the copy is queued behind the step and read after the next one was queued, so the device
    always has work.
    """

    def __init__(self) -> None:
        self.sent: deque[_Sent] = deque()

    def put(self, at: Step, step: int, outcome: Outcome) -> None:
        """Queue a step's figures."""
        values_N = torch.stack([value.float() for value in outcome.losses.values()])
        arrived = None
        if values_N.is_cuda:
            values_N = values_N.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.sent.append(_Sent(at, step, list(outcome.losses), values_N, outcome.sample_B, outcome.metrics, arrived))

    def take(self, *, all_of_them: bool = False) -> list[Seen]:
        """The steps that have arrived, oldest first. Raises NotFinite at a loss that is not a number."""
        seen = []
        while self.sent and (all_of_them or self.sent[0].arrived is None or len(self.sent) > 1):
            seen.append(_received(self.sent.popleft()))
        return seen


class NotFinite(TbpsError):
    """A loss became infinite or undefined."""

    def __init__(self, at: Step, name: str, value: float, samples: list[int]) -> None:
        shown = ", ".join(map(str, samples[:16])) + (", …" if len(samples) > 16 else "")
        super().__init__(
            f"the loss is not finite: {name} = {value} at epoch {at.epoch + 1}, iteration {at.iteration + 1} "
            f"of {at.iterations} (training captions {shown})."
        )


def _received(sent: _Sent) -> Seen:
    if sent.arrived is not None:
        sent.arrived.synchronize()
    values = sent.values_N.tolist()
    parts = dict(zip(sent.names, values, strict=True))
    for name, value in parts.items():
        if not math.isfinite(value):
            raise NotFinite(sent.at, name, value, sent.sample_B.tolist())
    return Seen(sent.at, sent.step, {"loss": sum(values), **parts, **sent.metrics}, len(sent.sample_B))
