"""How much memory and time a run will take, told before it starts.

A few pairs of the first batch go forward and backward once. What the graph keeps of them is counted
as it is kept, which is exact for any method; what weights, gradients and optimiser take follows from
the parameters. The time of those pairs, scaled to a batch, is a first guess that the measured steps
replace. Nothing of the run changes: gradients are dropped and buffers put back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tbps_cli.engine.observe import Memory
from tbps_cli.engine.step import Stepper
from tbps_cli.types import Batch, Step

_ROWS = {"cpu": 2, "cuda": 16, "mps": 4}
"""Pairs of the probe: few, yet enough to keep the device busy."""


@dataclass(frozen=True)
class Probe:
    """What one pair costs."""

    bytes_per_pair: float
    seconds_per_pair: float


def probe(stepper: Stepper, batch: Batch) -> Probe:
    """Measure a few pairs of a batch; weights, buffers and gradients are afterwards as before."""
    rows = batch.rows(0, min(len(batch), _ROWS.get(stepper.device.type, 2)))
    buffers = {name: buffer.clone() for name, buffer in stepper.method.named_buffers()}
    try:
        kept = _kept_bytes(stepper, rows)
        started = time.perf_counter()
        stepper.backward(rows, Step())
        _wait(stepper.device)
        return Probe(kept / len(rows), (time.perf_counter() - started) / len(rows))
    finally:
        stepper.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in stepper.method.named_buffers():
                buffer.copy_(buffers[name])


def _kept_bytes(stepper: Stepper, rows: Batch) -> int:
    """Bytes that the graph holds between forward and backward, each storage once, weights apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in stepper.method.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        stepper.backward(rows, Step())
    _wait(stepper.device)
    return sum(kept.values())


def memory(method: nn.Module, kind: str, found: Probe | None, pairs: int) -> Memory:
    """What training takes on one device.

    kind: of optimiser (adam and adamw keep two numbers a parameter, sgd one). pairs: embedded at a
    time with their graph.
    """
    parameters = list(method.parameters())
    trained = _bytes([parameter for parameter in parameters if parameter.requires_grad])
    weights = _bytes(parameters) + _bytes(list(method.buffers()))
    activations = round(found.bytes_per_pair * pairs) if found else 0
    return Memory(weights, trained, trained * (1 if kind == "sgd" else 2), activations)


def available(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where it cannot say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 (not a file of ours)
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def highest(device: torch.device) -> int | None:
    """Most bytes that tensors took on the device so far; None where it cannot say."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


class Clock:
    """Seconds a step, from the steps of the last while; the first ones, which warm up, count for nothing."""

    SKIPPED = 2
    KEPT = 50

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []
        self.passed = 0

    def tick(self, pairs: int) -> None:
        """A step with so many pairs has ended now."""
        self.passed += 1
        if self.passed >= self.SKIPPED:
            self.marks = [*self.marks[-self.KEPT :], (time.perf_counter(), pairs)]

    def pause(self) -> None:
        """Time from here to the next step is not training (an evaluation)."""
        self.marks, self.passed = [], self.SKIPPED - 1

    @property
    def step(self) -> float:
        """Seconds a step; 0 before two steps were measured."""
        return (self.marks[-1][0] - self.marks[0][0]) / (len(self.marks) - 1) if len(self.marks) > 1 else 0.0

    @property
    def pairs(self) -> float:
        """Pairs a second; 0 before two steps were measured."""
        if len(self.marks) < 2:
            return 0.0
        return sum(pairs for _, pairs in self.marks[1:]) / max(1e-9, self.marks[-1][0] - self.marks[0][0])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
