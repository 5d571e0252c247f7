"""Whole training steps, ours and the usual way in alternating rounds, for `scripts/bench train`.

Both train the same method, so the weights are the same; that they do the same work is checked first. A round ends
the worker processes of its side, so that none prepares batches while the other side is timed, and its clock starts
when the first batch is there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from benchmarks import _machine, _usual
from torch import Tensor

from tbps_cli.engine.experiment import Experiment
from tbps_cli.engine.kept_memory import freed_memory_kept
from tbps_cli.engine.step import Stepper
from tbps_cli.features.image_ways import has_bf16
from tbps_cli.recipe.schema import Recipe
from tbps_cli.types import Batch, Step

SAME = 1e-4
"""Most that losses of the first step, and the length of its gradient, may differ, relative to their size."""


class Way(Protocol):
    """One side of the comparison."""

    name: str
    keeps_memory: bool
    """As `tbps train` does on a CPU."""
    method: Any
    optimizer: torch.optim.Optimizer

    def batches(self) -> Generator[Batch]: ...
    def step(self, batch: Batch) -> Any: ...


class Bench(Protocol):
    """What is needed of the bench's own training (`train.Bench`)."""

    recipe: Recipe
    device: torch.device
    parts: Experiment
    method: Any
    stepper: Stepper
    batches: Iterator[Batch]

    def forever(self) -> Iterator[Batch]: ...
    def restart(self) -> None: ...
    def flops(self) -> float: ...


class Ours:
    """The bench's own training as a side of the comparison, in its own precision or another."""

    def __init__(self, bench: Bench, precision: str | None = None) -> None:
        self.bench, self.method, self.optimizer = bench, bench.method, bench.stepper.optimizer
        self.keeps_memory, self.stepper = bench.device.type == "cpu", bench.stepper
        if precision is not None:
            train = bench.recipe.train.model_copy(update={"precision": precision})
            self.stepper = Stepper(bench.method, self.optimizer, train=train, clip_norm=bench.recipe.optim.clip_norm)
        self.name = f"ours, {self.stepper.precision}"

    def batches(self) -> Generator[Batch]:
        try:
            yield from self.bench.forever()
        finally:
            self.bench.parts.loader.close()

    def step(self, batch: Batch) -> None:
        self.stepper([batch], Step())


def first_step(bench: Bench) -> tuple[float, float]:
    """How far both ways differ on one batch, in float32 and without dropout: (losses, length of the gradient)."""
    bench.method.eval()
    settings = bench.recipe.train.model_copy(update={"precision": "fp32"})
    ours = Stepper(bench.method, bench.stepper.optimizer, train=settings)
    usual = _usual.Usual(bench.method, bench.parts)
    batch = next(bench.batches)
    ours.optimizer.zero_grad(set_to_none=True)
    with _usual.exact():
        found = {name: float(value) for name, value in ours.backward(batch, Step()).losses.items()}
    length = gradient_length(ours.parameters)
    expected = {name: float(value) for name, value in usual.backward(batch).items()}
    usual_length = gradient_length(ours.parameters)
    ours.optimizer.zero_grad(set_to_none=True)
    bench.method.train()
    assert found.keys() == expected.keys(), f"losses {', '.join(found)} beside {', '.join(expected)}"
    losses = max(abs(found[name] - value) / max(1.0, abs(value)) for name, value in expected.items())
    return losses, abs(length - usual_length) / usual_length


def gradient_length(parameters: list[torch.nn.Parameter]) -> float:
    lengths = [parameter.grad.double().norm() for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(lengths).norm())


class Took(NamedTuple):
    """Seconds a step."""

    clock: float
    processor: float
    """Of this process alone, whatever else the machine had to do."""


@contextmanager
def timed(steps: int, device: torch.device) -> Iterator[list[Took]]:
    """Puts into the list what each of the steps inside took."""
    found: list[Took] = []
    _machine.wait(device)
    started, busy = time.perf_counter(), time.process_time()
    yield found
    _machine.wait(device)
    found.append(Took((time.perf_counter() - started) / steps, (time.process_time() - busy) / steps))


def with_data(way: Way, steps: int, device: torch.device) -> Took:
    """Steps with a batch for each; from the first batch on."""
    batches = way.batches()
    way.step(next(batches))
    batch = next(batches)
    with timed(steps, device) as found:
        for _ in range(steps):
            way.step(batch)
            batch = next(batches)
    batches.close()
    return found[0]


def alone(way: Way, steps: int, device: torch.device, batch: Batch) -> Took:
    """Steps on a batch that lies on the device."""
    way.step(batch)
    with timed(steps, device) as found:
        for _ in range(steps):
            way.step(batch)
    return found[0]


def rounds(ways: Sequence[Way], count: int, took: Callable[[Way], Took]) -> list[list[Took]]:
    """What a step of each way took, round by round; a step that nobody times goes before."""
    found = []
    for _ in range(count):
        each = []
        for way in ways:
            with freed_memory_kept(way.keeps_memory):
                each.append(took(way))
            way.optimizer.zero_grad(set_to_none=True)  # the next side may share the parameters
        found.append(each)
    return found


def peak(way: Way, batch: Batch, device: torch.device) -> int:
    """Most bytes of tensors during a step, without those of the other way."""
    standing: list[Tensor] = [*way.method.parameters(), *way.method.buffers()]
    for kept in way.optimizer.state.values():
        standing += [value for value in kept.values() if isinstance(value, Tensor)]
    most = _machine.most_bytes(device, lambda: way.step(batch), standing)
    way.optimizer.zero_grad(set_to_none=True)
    return most


def report(bench: Bench, precision: str, count: int, steps: int) -> None:
    """Time the usual way, ours, and on a CPU that has it ours in bf16, and print the table."""
    device, pairs = bench.device, bench.recipe.train.batch
    bench.restart()
    batch = next(bench.batches).to(device)
    bench.restart()
    usual = _usual.Usual(bench.method, bench.parts, precision)
    ways: list[Way] = [usual, Ours(bench)]
    if device.type == "cpu" and has_bf16() and bench.stepper.precision == "fp32":
        ways.append(Ours(bench, "bf16"))
    whole = rounds(ways, count, lambda way: with_data(way, steps, device))
    model = rounds(ways, count, lambda way: alone(way, steps, device, batch))
    work = [_machine.flops(lambda: usual.backward(batch)) / 1e12, bench.flops() / 1e12]
    usual.optimizer.zero_grad(set_to_none=True)
    most = [peak(way, batch, device) / 2**20 for way in ways]
    print(f"{f'the usual way in {precision}':28}{'usual':>9}", end="")
    print("".join(f"{way.name:>14}{'ratio, lowest to highest':>26}" for way in ways[1:]))
    figures_of = {
        "pairs/s, with their data": [[took.clock for took in each] for each in whole],
        "pairs/s, the model alone": [[took.clock for took in each] for each in model],
    }
    if device.type == "cpu":
        figures_of["  the same, a core-second"] = [[took.processor for took in each] for each in model]
    for name, figures in figures_of.items():
        columns = list(zip(*figures, strict=True))
        speeds = [pairs / statistics.median(column) for column in columns]
        print(f"{name:28}{_machine.rate(speeds[0]):>9}", end="")
        for speed, column in zip(speeds[1:], columns[1:], strict=True):
            ratios = [slow / quick for slow, quick in zip(columns[0], column, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{_machine.rate(speed):>14}{ratio:>26}", end="")
        print()
    print(f"{'work of a step, TFLOP':28}{work[0]:9.3f}{work[1]:14.3f}{work[0] / work[1]:26.2f}")
    print(f"{'peak memory of a step, MB':28}{most[0]:9,.0f}", end="")
    print("".join(f"{bytes_:14,.0f}{most[0] / bytes_:26.2f}" for bytes_ in most[1:]), flush=True)
