"""How much memory and time a run will take, told before it starts.

Some pairs of the first batch go forward and backward, few and then more, so that what each pair costs
can be told from what any step costs. What the graph keeps of them is counted as it is kept, which is
exact for any method; what weights, gradients and optimiser take follows from the parameters. The time is
a first guess that the measured steps replace; on a CPU it is what this thread computes for, so that another
program's work at that moment is not taken for ours. Nothing of the run changes: gradients are dropped and
buffers put back.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tbps_cli.engine.observe import MemoryEstimate
from tbps_cli.engine.step import Stepper
from tbps_cli.types import Batch, Step

_ROWS = {"cpu": 2, "cuda": 16, "mps": 4}
"""Pairs of the first look; the second one takes twice as many, or all when that is quick and fits."""
_QUICK = 2.0
"""Seconds that a look at all pairs may take."""
_SHORT = 0.5
"""Seconds in which passes are repeated: threads that share work also wait for each other when others compute."""
_REHEARSED = 1 << 22
"""Numbers that the rehearsal of the optimiser's step changes."""


@dataclass(frozen=True)
class Probe:
    """What a step costs: so much for each pair, and so much however few there are."""

    bytes_per_pair: float
    seconds_per_pair: float
    bytes_fixed: float = 0.0
    seconds_fixed: float = 0.0
    held: int = 0
    """Bytes that the whole process holds when everything is loaded; 0 unless it computes on the CPU."""

    def bytes(self, pairs: int) -> float:
        """Kept between forward and backward."""
        return self.bytes_fixed + self.bytes_per_pair * pairs

    def seconds(self, pairs: int) -> float:
        """Of a step over so many pairs on this device, without reading them."""
        return self.seconds_fixed + self.seconds_per_pair * pairs


def probe(stepper: Stepper, batch: Batch) -> Probe:
    """Measure some pairs of a batch; weights, buffers and gradients are afterwards as before."""
    few = min(len(batch), _ROWS.get(stepper.device.type, 2))
    with _unchanged(stepper):
        few_bytes, few_seconds = _look(stepper, batch.rows(0, few))
        # The second look takes all pairs that are held at a time, unless that would be slow or might not fit:
        # then twice the first one's.
        more = min(len(batch), stepper.chunk or len(batch))
        per_pair = few_seconds / few, few_bytes / few
        free = available(stepper.device)
        if more * per_pair[0] > _QUICK or (free is not None and 2 * more * per_pair[1] > free):
            more = min(2 * few, more)
        if more <= few:  # a small batch: nothing to tell fixed costs from
            held = _held(stepper.device)
            return Probe(per_pair[1], per_pair[0], 0.0, _update_seconds(stepper), held)
        more_bytes, more_seconds = _look(stepper, batch.rows(0, more))
        held = _held(stepper.device)  # before the rehearsal of the optimiser's step, whose memory it will use again
        # A line through both looks: its slope is the cost of a pair, the rest is what any step costs.
        bytes_each = max(0.0, more_bytes - few_bytes) / (more - few)
        seconds_each = max(0.0, more_seconds - few_seconds) / (more - few)
        fixed = more_seconds - more * seconds_each + _update_seconds(stepper)
        return Probe(bytes_each, seconds_each, more_bytes - more * bytes_each, fixed, held)


def bf16_speed(stepper: Stepper, batch: Batch, found: Probe) -> float:
    """How many times as fast some pairs of a batch go forward and backward in bf16; nothing changes.

    found: the probe of the precision that was chosen, which says how many pairs take a second; at least two are taken.
    """
    count = min(len(batch), stepper.chunk or len(batch), max(2, int(_QUICK / 2 / max(found.seconds_per_pair, 1e-6))))
    rows, chosen = batch.rows(0, count), stepper.precision
    with _unchanged(stepper):
        own = _pass_seconds(stepper, rows)
        stepper.precision = "bf16"
        try:
            return own / _pass_seconds(stepper, rows)
        finally:
            stepper.precision = chosen


@contextmanager
def _unchanged(stepper: Stepper) -> Iterator[None]:
    """Weights keep their values inside; gradients that were left are dropped, and running statistics put back."""
    buffers = {name: buffer.clone() for name, buffer in stepper.method.named_buffers()}
    try:
        yield
    finally:
        stepper.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in stepper.method.named_buffers():
                buffer.copy_(buffers[name])


def _look(stepper: Stepper, rows: Batch) -> tuple[float, float]:
    """(bytes, seconds) of a forward and backward pass; a pass of its own counts the bytes, and warms up."""
    kept = kept_bytes(stepper, rows)
    stepper.optimizer.zero_grad(set_to_none=True)
    return float(kept), _pass_seconds(stepper, rows)


def _pass_seconds(stepper: Stepper, rows: Batch) -> float:
    """Of a forward and backward pass, the quickest of two, or of up to five that take no half second together."""
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 5 and sum(seconds) < _SHORT):
        started = _now(stepper.device)
        stepper.backward(rows, Step())
        _wait(stepper.device)
        seconds.append(_now(stepper.device) - started)
        stepper.optimizer.zero_grad(set_to_none=True)  # as in training, each pass makes its gradients anew
    return min(seconds)


def _update_seconds(stepper: Stepper) -> float:
    """Of the optimiser's step, rehearsed on stand-ins for some of the parameters."""
    chosen: list[nn.Parameter] = []  # as many as take measurable time; all of them would double the memory
    for parameter in stepper.parameters:
        chosen.append(nn.Parameter(torch.zeros_like(parameter)))
        chosen[-1].grad = torch.zeros_like(parameter)
        if sum(one.numel() for one in chosen) > _REHEARSED:
            break
    # A second optimiser of the same kind, so that the real one keeps its state; only what its constructor takes.
    kind = type(stepper.optimizer)
    known = inspect.signature(kind).parameters
    settings = {key: value for key, value in stepper.optimizer.defaults.items() if key in known}
    optimizer: Optimizer = kind(chosen, **settings)
    seconds = []
    for _ in range(3):
        _wait(stepper.device)
        started = _now(stepper.device)
        optimizer.step()
        _wait(stepper.device)
        seconds.append(_now(stepper.device) - started)
    total, part = (sum(one.numel() for one in every) for every in (stepper.parameters, chosen))
    return min(seconds[1:]) * total / part  # the first step makes the optimiser's own numbers


def kept_bytes(stepper: Stepper, rows: Batch) -> int:
    """Bytes that the graph holds between forward and backward, each storage once, weights apart."""
    # Autograd hands over each tensor that it keeps for the backward pass; views share a storage, which counts once.
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


def memory(method: nn.Module, kind: str, found: Probe | None, pairs: int) -> MemoryEstimate:
    """What training takes on one device.

    kind: of optimiser (adam and adamw keep two numbers a parameter, sgd one). pairs: embedded at a
    time with their graph.
    """
    parameters = list(method.parameters())
    trained = _bytes([parameter for parameter in parameters if parameter.requires_grad])
    weights = _bytes(parameters) + _bytes(list(method.buffers()))
    activations = round(found.bytes(pairs)) if found else 0
    program = max(0, found.held - weights) if found else 0
    return MemoryEstimate(weights, trained, trained * (1 if kind == "sgd" else 2), activations, program)


def _held(device: torch.device) -> int:
    """Bytes that this process holds now where it computes on the CPU; 0 where tensors lie elsewhere."""
    return (resident() or 0) if device.type == "cpu" else 0


def resident() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (not a file of ours)
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


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
    """Most bytes held so far: by tensors on CUDA, by this whole process on a CPU; None where nobody can say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


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


def _now(device: torch.device) -> float:
    """Seconds: of this thread's work where it computes itself, which takes part in all that several threads share."""
    return time.thread_time() if device.type == "cpu" else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
