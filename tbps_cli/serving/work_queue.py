"""Who waits for whom: a fixed number of threads for each kind of work, and a short queue before them.

Searches have threads of their own, so that a heat map or a clip never keeps one waiting. A full queue is said at once
(`Overloaded`), which the server answers with 503: a client that is told to come back is better off than one that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """The queue of a kind of work is full."""

    retry_after = 1
    """Seconds."""


class WorkQueue:
    """Threads that do one kind of work, and how many requests may wait for them."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name, self.most = name, threads + waiting
        self.inside = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"tbps-{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns. Raises Overloaded at once where too many wait.

        Whoever stops waiting (a client that left) gives the place in the queue back.
        """
        if self.inside >= self.most:
            raise Overloaded
        self.inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.inside -= 1

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
