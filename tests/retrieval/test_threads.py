"""Threads of a pool are kept apart where there are as many as processors."""

from __future__ import annotations

import os
import threading

import pytest

from tbps_cli.retrieval import threads

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system says no thread's processors")


def processors_of(count: int) -> list[set[int]]:
    """The processors of each thread of a pool."""
    together = threading.Barrier(count, timeout=60)

    def of_this_thread() -> set[int]:
        together.wait()
        return os.sched_getaffinity(0)

    threads._pool.cache_clear()
    waiting = [threads.pool(count).submit(of_this_thread) for _ in range(count)]
    found = [one.result() for one in waiting]
    threads._pool.cache_clear()
    return found


def test_each_thread_has_a_processor_of_its_own_and_the_process_all() -> None:
    before = os.sched_getaffinity(0)
    found = processors_of(len(before))
    assert sorted(found, key=min) == [{processor} for processor in sorted(before)]
    assert os.sched_getaffinity(0) == before


def test_fewer_threads_than_processors_may_run_anywhere() -> None:
    every = os.sched_getaffinity(0)
    assert processors_of(len(every) + 1) == [every] * (len(every) + 1)


def test_processors_that_were_taken_away_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, processors: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    every = os.sched_getaffinity(0)
    assert processors_of(len(every)) == [every] * len(every)
