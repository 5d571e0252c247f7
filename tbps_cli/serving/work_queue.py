"""Who waits for whom: a fixed number of threads for each kind of work, and a short queue before them.

Searches have threads of their own, so that a heat map or a clip never keeps one waiting. A full queue is said at once
(`Overloaded`), which the server answers with 503: a client that is told to come back is better off than one that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """The queue of a kind of work is full."""

    retry_after = 1
    """Seconds."""


class WorkQueue:
    """Threads that do one kind of work, and how many requests may wait for them."""

    closed = False

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name, self.most = name, threads + waiting
        self.inside = 0
        self._begun: set[asyncio.Future[Any]] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"tbps-{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns. Raises Overloaded at once where too many wait.

        Whoever stops waiting (a client that left) gives the place in the queue back.
        """
        if self.closed or self.inside >= self.most:
            raise Overloaded
        self.inside += 1
        begun = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._begun.add(begun)
        try:
            return await begun
        except asyncio.CancelledError:
            if self.closed and begun.cancelled():
                raise Overloaded from None
            raise
        finally:
            self._begun.discard(begun)
            self.inside -= 1

    def close(self) -> None:
        """Begin nothing more, and let those go who wait; what runs goes on, and nobody hears of it."""
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for begun in list(self._begun):
            begun.cancel()


class WorkQueues:
    """Those of a server. cores: how many processors it has."""

    def __init__(self, cores: int) -> None:
        self.searches = WorkQueue("search", cores + 14, 48)
        """More threads than processors: most of them wait for a batch (`batching`, `shared_ranking`), and a batch is no
        larger than the threads are many."""
        self.images = WorkQueue("images", max(2, cores), 400)
        self.slow = WorkQueue("slow", 1, 12)
        self.far = WorkQueue("databases", 8, 400)
        """Searches and images of galleries in databases: these wait for another machine."""

    def close(self) -> None:
        """Close all."""
        for queue in (self.searches, self.images, self.slow, self.far):
            queue.close()
