"""Whole training steps, ours and the usual way in alternating rounds, for `scripts/bench train`.

Both train the same method, so the weights are the same; that they do the same work is checked first. A round ends
the worker processes of its side, so that none prepares batches while the other side is timed, and its clock starts
when the first batch is there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from benchmarks import _machine, _usual
from torch import Tensor

from tbps_cli.engine.experiment import Experiment
from tbps_cli.engine.step import Stepper
from tbps_cli.recipe.schema import Recipe
from tbps_cli.types import Batch, Step

SAME = 1e-4
"""Most that losses of the first step, and the length of its gradient, may differ, relative to their size."""


class Way(Protocol):
    """One side of the comparison."""

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
    """The bench's own training as a side of the comparison."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.method, self.optimizer = bench, bench.method, bench.stepper.optimizer

    def batches(self) -> Generator[Batch]:
        try:
            yield from self.bench.forever()
        finally:
            self.bench.parts.loader.close()

    def step(self, batch: Batch) -> None:
        self.bench.stepper([batch], Step())


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
    batch = next(batches)
    with timed(steps, device) as found:
        for _ in range(steps):
            way.step(batch)
            batch = next(batches)
    batches.close()
    return found[0]


def alone(way: Way, steps: int, device: torch.device, batch: Batch) -> Took:
    """Steps on a batch that lies on the device."""
    with timed(steps, device) as found:
        for _ in range(steps):
            way.step(batch)
    return found[0]


def rounds(ways: tuple[Way, Way], count: int, took: Callable[[Way], Took]) -> list[tuple[Took, Took]]:
    """What a step of each way took, round by round."""
    found = []
    for _ in range(count):
        pair = []
        for way in ways:
            pair.append(took(way))
            way.optimizer.zero_grad(set_to_none=True)  # the next side may share the parameters
        found.append((pair[0], pair[1]))
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
    """Time both ways and print the table."""
    device, pairs = bench.device, bench.recipe.train.batch
    bench.restart()
    batch = next(bench.batches).to(device)
    bench.restart()
    usual = _usual.Usual(bench.method, bench.parts, precision)
    ways: tuple[Way, Way] = (usual, Ours(bench))
    for way in ways:
        alone(way, 1, device, batch)  # the optimisers' numbers are made, kernels chosen
        way.optimizer.zero_grad(set_to_none=True)
    whole = rounds(ways, count, lambda way: with_data(way, steps, device))
    model = rounds(ways, count, lambda way: alone(way, steps, device, batch))
    work = [_machine.flops(lambda: usual.backward(batch)) / 1e12, bench.flops() / 1e12]
    usual.optimizer.zero_grad(set_to_none=True)
    most = [peak(way, batch, device) / 2**20 for way in ways]
    print(f"{f'the usual way in {precision}':32}{'usual':>9}{'ours':>9}{'ratio':>8}   lowest to highest round")
    figures_of = {
        "pairs/s, with their data": [(one.clock, other.clock) for one, other in whole],
        "pairs/s, the model alone": [(one.clock, other.clock) for one, other in model],
    }
    if device.type == "cpu":
        figures_of["  the same, a core-second"] = [(one.processor, other.processor) for one, other in model]
    for name, figures in figures_of.items():
        slow, fast = (pairs / statistics.median(column) for column in zip(*figures, strict=True))
        ratios = sorted(one / other for one, other in figures)
        speeds = f"{_machine.rate(slow):>9}{_machine.rate(fast):>9}"
        print(f"{name:32}{speeds}{fast / slow:8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}")
    print(f"{'work of a step, TFLOP':32}{work[0]:9.3f}{work[1]:9.3f}{work[0] / work[1]:8.2f}")
    print(f"{'peak memory of a step, MB':32}{most[0]:9,.0f}{most[1]:9,.0f}{most[0] / most[1]:8.2f}", flush=True)
