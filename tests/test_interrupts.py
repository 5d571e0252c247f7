"""Ctrl-C at any moment of what runs in a command's main thread: KeyboardInterrupt comes out, and no lock stays held."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

import pytest

from tbps_cli import interrupts
from tbps_cli.features import pipeline
from tbps_cli.features.merging import BackgroundMerge
from tbps_cli.searching import arrivals
from tbps_cli.searching.arrivals import Noticing


@pytest.fixture(autouse=True)
def answered() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt; it is ignored where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_every_line(work: Callable[[], object], after: Callable[[], object], most: int) -> int:
    """Ctrl-C at each line of Python of a piece of work, the first `most`; what is done after each must not hang."""
    before = sys.gettrace()
    for moment in range(most):
        interrupt = _Interrupt(moment)
        sys.settrace(interrupt)
        try:
            work()
        except KeyboardInterrupt:
            pass
        else:
            assert not interrupt.place, f"nothing was raised at {interrupt.place}"
        finally:
            sys.settrace(before)
        ended = SimpleQueue[bool]()
        threading.Thread(target=lambda ended=ended: (after(), ended.put(True)), daemon=True).start()
        try:
            assert ended.get(timeout=20)
        except Empty:
            pytest.fail(f"what follows hangs after Ctrl-C at {interrupt.place}")
        if not interrupt.place:
            return moment
    return most


class _Interrupt:
    """Sends the signal at a line, counted from the first."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        self.place = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> _Interrupt | None:
        if frame.f_code.co_filename.endswith("_weakrefset.py"):
            return None  # what is raised while an object goes is lost, in any program
        if event == "line" and not self.place:
            self.left -= 1
            if self.left < 0:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self


def test_waiting_for_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_STOPS", 0.001)
    noticing, stop = Noticing(), interrupts.Flag()
    assert at_every_line(lambda: noticing.wait(0.02, stop), noticing.look, 200) > 10


def test_waiting_for_changes_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_STOPS", 0.001)
    noticing, stop = Noticing(), interrupts.Flag()

    def work() -> None:
        noticing.look()
        noticing.look()
        noticing.wait(60, stop)

    assert at_every_line(work, lambda: None, 200) < 200


def test_following_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noticing, "_notice", lambda *_: None)  # threads that end at once
    found = list[Noticing]()

    def work() -> None:
        found.append(Noticing())
        found[-1].follow([tmp_path])
        found[-1].close()

    def after() -> None:
        for thread in threading.enumerate():
            if thread.name == "watch":
                thread.join()

    assert 20 < at_every_line(work, after, 300) < 300


def test_sleeping() -> None:
    stop = interrupts.Flag()
    assert 5 < at_every_line(lambda: interrupts.sleep(0.01, stop), stop.is_set, 100) < 100


def test_images_prepared_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "LOOK", 0.002)
    pools = [ThreadPoolExecutor(1)]

    def prepare(item: int) -> int:
        time.sleep(0.003)
        return item

    def work() -> None:
        with closing(pipeline._ahead(pools[-1], prepare, range(2), 1)) as ahead:
            assert list(ahead) == [0, 1]

    def after() -> None:
        pools[-1].shutdown(wait=True, cancel_futures=True)
        pools.append(ThreadPoolExecutor(1))

    assert at_every_line(work, after, 400) > 100  # how many lines there are depends on how often it has to look


def test_beginning_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundMerge, "_run", lambda self: setattr(self, "running", False))

    def after() -> None:
        for thread in threading.enumerate():
            if thread.name == "tbps-merge":
                thread.join()

    assert 20 < at_every_line(lambda: BackgroundMerge(tmp_path / "file", "f", lambda *_: None), after, 300) < 300


def test_what_is_held_back_comes_at_the_end_of_the_block() -> None:
    done = list[str]()
    with pytest.raises(KeyboardInterrupt):
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
            done.append("inside")
        done.append("behind")
    assert done == ["inside"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_in_blocks_hold_back_until_the_outermost_ends() -> None:
    done = list[str]()
    with pytest.raises(KeyboardInterrupt):
        with interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
            done.append("outer")
        done.append("behind")
    assert done == ["outer"]


def test_a_future_gives_its_result_its_error_and_its_own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "LOOK", 0.001)

    def late(error: Exception | None) -> int:
        time.sleep(0.01)
        if error:
            raise error
        return 3

    with ThreadPoolExecutor(1) as pool:
        assert interrupts.result(pool.submit(late, None)) == 3
        for error in (TimeoutError("of a disk"), ValueError("of a file")):
            with pytest.raises(type(error), match=str(error)):
                interrupts.result(pool.submit(late, error))


def test_a_future_that_is_done_just_after_the_wait_gives_its_result() -> None:
    class Late(Future[int]):
        def result(self, timeout: float | None = None) -> int:
            if not self.done():
                self.set_result(7)
                raise TimeoutError
            return super().result(timeout)

    assert interrupts.result(Late()) == 7


def test_an_error_of_a_lock_that_ctrl_c_broke_is_ctrl_c() -> None:
    lock = threading.Lock()

    def broken() -> None:
        with lock:
            lock.release()
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="unlocked"):
        broken()
    with pytest.raises(KeyboardInterrupt), interrupts.recognised():
        broken()


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="ours"), interrupts.recognised():
        raise RuntimeError("ours")
