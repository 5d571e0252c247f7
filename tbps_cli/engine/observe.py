"""What a training run tells whoever watches it: the plan, each step, each evaluation, the end.

The engine never draws. The command line implements `Observer` with a live display; `Silent` is the
default for callers of the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tbps_cli.retrieval.guard import Guard
from tbps_cli.types import Scores, Step


@dataclass(frozen=True)
class MemoryEstimate:
    """What training takes on the device, in bytes; activations are those of the pairs held at a time.

    program: what this process holds besides, on a CPU: Python, PyTorch and the data; 0 on other devices, where only
    tensors count.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    program: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.program


@dataclass(frozen=True)
class Plan:
    """What is about to happen, and why it was chosen so."""

    run: Path
    recipe: str
    method: str
    data: str
    pairs: int
    identities: int
    device: str
    choices: tuple[str, ...]
    """Every automatic choice with its reason, one sentence each."""
    parameters: int
    trained: int
    batch: int
    iterations: int
    """Steps of an epoch."""
    epochs: int
    processes: int
    select_on: str
    start: Step
    """Where training begins: step 0, or where a resumed run goes on."""
    memory: MemoryEstimate | None = None
    available: int | None = None
    """Bytes that the device has free, where it can say."""
    seconds: float | None = None
    """For the steps that are left, from a probe of a few pairs."""
    bf16_speed: float | None = None
    """How many times as fast steps in bf16 would be here; None where that was not asked."""


@dataclass(frozen=True)
class Progress:
    """One step taken. Losses are the running means of the epoch, as the field logs them."""

    at: Step
    step: int
    """Steps taken since the beginning, this one included."""
    losses: Mapping[str, float]
    """"loss" is the sum; then the parts, and the method's further figures."""
    rate: float
    pairs_per_second: float
    seconds_left: float
    best: float | None
    best_epoch: int | None
    memory: int | None = None
    """Most bytes held on the device so far, where it can say."""


@dataclass(frozen=True)
class Evaluated:
    """The scores after an epoch (counted from 1), text to image."""

    epoch: int
    split: str
    scores: Scores
    best: float
    best_epoch: int
    improved: bool
    guard: Guard | None = None
    """What was looked for before the scores were believed."""


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended; its scores are in the run folder."""

    epochs: int
    seconds: float
    stopped_early: bool = False


class Observer(Protocol):
    """Whoever watches; called from the training process, so it should be quick."""

    def started(self, plan: Plan) -> None: ...

    def stepped(self, progress: Progress) -> None: ...

    def decoding(self, done: int, total: int) -> None:
        """Before the plan is made, where images have to be decoded first."""

    def evaluating(self, done: int, total: int) -> None: ...

    def evaluated(self, evaluated: Evaluated) -> None: ...

    def note(self, text: str) -> None: ...

    def finished(self, summary: TrainingSummary) -> None: ...


class Silent:
    """Watches nothing."""

    def started(self, plan: Plan) -> None: ...

    def stepped(self, progress: Progress) -> None: ...

    def decoding(self, done: int, total: int) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def evaluated(self, evaluated: Evaluated) -> None: ...

    def note(self, text: str) -> None: ...

    def finished(self, summary: TrainingSummary) -> None: ...
