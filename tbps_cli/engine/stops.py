"""What may stop a run from outside, as something that the user can act on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from tbps_cli.errors import TbpsError
from tbps_cli.recipe.schema import TrainSection

_NO_MEMORY = "can't allocate memory", "out of memory", "not enough memory"


class Interrupted(TbpsError):
    """Ctrl-C (or a polite kill), after the step was finished and saved."""

    status = 130


class OutOfMemory(TbpsError):
    """The device or the machine has too little memory for the recipe."""


class StopRequest:
    """Whether somebody wants the run to stop after the present step."""

    def __init__(self) -> None:
        self.stop = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a polite kill (SIGTERM) end what is under way as Ctrl-C does, so that it is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Take the first Ctrl-C (or SIGTERM) as a request; the second one is handled as before.

    Outside the main thread signals cannot be taken, and stay what they are.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def heard(number: int, frame: FrameType | None) -> None:
        request.stop = True
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (int(signal.SIGINT), int(signal.SIGTERM))}
    for number in before:
        signal.signal(number, heard)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_advice(train: TrainSection) -> Iterator[None]:
    """Turn an allocation that failed into one line that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(
            words in str(error).lower() for words in _NO_MEMORY
        ):
            raise
        raise OutOfMemory(f"out of memory with {_held(train)}.", _advice(train)) from None


def _held(train: TrainSection) -> str:
    return f"train.batch = {train.batch}, train.accumulate = {train.accumulate}, train.chunk = {train.chunk or 'none'}"


def _advice(train: TrainSection) -> str:
    smaller = max(1, (train.chunk or train.batch // train.accumulate) // 2)
    ways = [] if train.accumulate > 1 else [f"--set train.chunk={smaller} (the same result, a little slower)"]
    ways.append("a smaller train.batch or data.image_size")
    if train.precision == "fp32":
        ways.append("--set train.precision=bf16")
    return "Try " + ", ".join(ways) + "."
