"""Ctrl-C at the wrong moment: what waits in the main thread must not be broken by it.

A signal handler raises KeyboardInterrupt between any two steps of Python. The locks of `threading` and
`concurrent.futures` are written in Python themselves: inside `Event.wait`, `Event.set`, `Thread.start`,
`Future.result` or `ThreadPoolExecutor.submit` such an exception may leave a lock held for ever, or end in "release
unlocked lock" in the place of KeyboardInterrupt. What may run in the main thread of a command therefore does these
with signals held back, or waits by `time.sleep` or a `queue.SimpleQueue`, which are made in C.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
LOOK = 0.1
"""Seconds after which whoever waits looks again."""
_SIGNALS = signal.SIGINT, signal.SIGTERM


class Flag:
    """Set once, by any thread, and never waited for; in the place of an Event, `is_set` and `set` take no lock."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered at the end of the block, by whatever answers them outside of it.

    For short work: nothing ends it earlier. Outside the main thread, where no signal is answered, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    before = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    try:
        for noted in before:
            signal.signal(noted, note)
        yield
    finally:
        for noted, handler in before.items():
            signal.signal(noted, handler)
        for number, frame in came:
            before[signal.Signals(number)](number, frame)


def sleep(seconds: float, stop: threading.Event | Flag) -> None:
    """Until so many seconds have passed, or `stop` is set."""
    until = time.monotonic() + seconds
    while not stop.is_set() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK))


def result(future: Future[T]) -> T:
    """What a future returns or raises."""
    while True:
        with held():
            try:
                return future.result(LOOK)
            except TimeoutError:
                if future.done():  # by now, or this is what was raised there
                    return future.result()


@contextmanager
def recognised() -> Iterator[None]:
    """Raise KeyboardInterrupt for the error of a lock that Ctrl-C has broken, in code that is not ours."""
    try:
        yield
    except RuntimeError as error:
        if _is_of_interrupt(error):
            raise KeyboardInterrupt from None
        raise


def _is_of_interrupt(error: RuntimeError) -> bool:
    """Whether it was raised while KeyboardInterrupt was on its way out."""
    before = error.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None
