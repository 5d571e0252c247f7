"""A disk that is full at every moment of a write: the largest file that a process may write, and a small tmpfs.

A command then ends in one line and leaves what was there before; with room again, it does what it always does.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from campaigns.children import Ended, tbps
from campaigns.kills import Convert, Decode, Export, Index, Install, Job, Synthetic, Train, make_leftovers_old
from campaigns.trials import Result, Trial
from campaigns.workshop import Workshop, tree

STEPS = 24
"""File sizes from nothing to more than the largest file, closer together where files are small."""


class Eval(Job):
    """Everything that an evaluation writes."""

    def words(self, draw: random.Random) -> list[object]:
        out = self.bench / "out"
        out.mkdir(exist_ok=True)
        files = ["--html", out / "a.html", "--save-features", out / "a.npz", "--save-ranks", out / "a.csv"]
        return ["eval", "--ckpt", self.place.run, "--data", "cuhk-pedes", "--data-root", self.place.data, *files]

    def results(self) -> dict[str, str]:
        return dict.fromkeys(tree(self.bench / "out"), "")


class Search(Eval):
    """A page, copies, and the index in the cache."""

    def words(self, draw: random.Random) -> list[object]:
        out = self.bench / "out"
        shutil.rmtree(out / "copies", ignore_errors=True)
        out.mkdir(exist_ok=True)
        files = ["--html", out / "a.html", "--copy-to", out / "copies"]
        return ["search", "a man in red", "--in", self.place.photos, "--ckpt", self.place.run, *files]


JOBS: dict[str, type[Job]] = {
    "train": Train,
    "index": Index,
    "eval": Eval,
    "search": Search,
    "export": Export,
    "convert": Convert,
    "prepare-data synthetic": Synthetic,
    "prepare-data --source": Install,
    "prepare-data --decode": Decode,
}


def trials(place: Workshop, short: bool) -> list[Trial]:
    found = []
    names = ["index", "convert"] if short else list(JOBS)
    for name in names:
        run: Callable[[random.Random], Result] = partial(limited, place, JOBS[name], 4 if short else STEPS)
        found.append(Trial("disk", f"{name}, limit on the size of a file", 0, run))
    for name in () if short else JOBS:
        found.append(Trial("disk", f"{name}, small tmpfs", 0, partial(mounted, place, JOBS[name], STEPS)))
    return found


def limited(place: Workshop, make: type[Job], steps: int, draw: random.Random) -> Result:
    """Let no file grow beyond a size, for sizes from nothing up."""
    result = Result()
    with place.bench() as first:
        whole = make(place, first)
        if fault := whole.start(draw).fault():
            return Result(faults=[f"undisturbed: {fault}"])
        largest = max(path.stat().st_size for path in first.rglob("*") if path.is_file())
        for step in range(steps):
            size = int(largest * 1.05 * (step / max(1, steps - 1)) ** 2)
            with place.bench() as bench:
                job = make(place, bench)
                _try(job, whole, draw, partial(_limit, size), f"files of at most {size:,} bytes", result)
    return result


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it; a fork of a library may not
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _try(
    job: Job, whole: Job, draw: random.Random, before: Callable[[], None] | None, when: str, result: Result
) -> Ended:
    """Start once under a condition, then without it."""
    ended = tbps(job.words(draw), job.bench, before=before)
    fault = ended.fault(may_fail=True)
    if ended.status == 0 and not fault:
        fault = job.check_finished(whole) if not isinstance(job, Index) else None
        result.add(fault and f"{when}: {fault}", "went well")
        return ended
    result.add(fault and f"{when}: {fault}", "refused in one line")
    if before is not None:
        _recover(job, whole, draw, when, result)
    return ended


def _recover(job: Job, whole: Job, draw: random.Random, when: str, result: Result) -> None:
    if isinstance(job, Index) and isinstance(whole, Index):
        job.oracle = dict(whole.rows().values())
    make_leftovers_old(job.bench)
    if fault := job.start(draw).fault() or job.check_finished(whole):
        result.faults.append(f"{when}, then with room: {fault}")


# A disk that really is full --------------------------------------------------------------------


def mounted(place: Workshop, make: type[Job], steps: int, draw: random.Random) -> Result:
    """The same on a tmpfs of some pages; left out where nothing may be mounted."""
    result = Result()
    with place.bench() as first:
        whole = make(place, first)
        if fault := whole.start(draw).fault():
            return Result(faults=[f"undisturbed: {fault}"])
        needed = sum(path.stat().st_size + 4096 for path in first.rglob("*"))
    with place.bench() as bench:
        whole = make(place, bench)
        whole.start(draw)
        for step in range(steps):
            size = int(needed * 1.2 * ((step + 1) / steps) ** 2) // 4096 * 4096 + 4096
            with place.bench() as target, _tmpfs(target, size) as allowed:
                if not allowed:
                    result.seen["mounting is not allowed here"] += 1
                    return result
                try:
                    job = make(place, target)
                except OSError:  # the inputs alone do not fit
                    result.seen["the inputs alone did not fit"] += 1
                    continue
                when = f"a disk of {size:,} bytes"
                ended = _try(job, whole, draw, None, when, result)
                if ended.status:
                    _remount(target, needed * 4 + (1 << 20))
                    _recover(job, whole, draw, when, result)
    return result


@contextmanager
def _tmpfs(target: Path, size: int) -> Iterator[bool]:
    """Mount one on a folder; False where that is not allowed."""
    done = _libc().mount(b"tmpfs", os.fsencode(target), b"tmpfs", 0, f"size={size}".encode()) == 0
    try:
        yield done
    finally:
        if done:
            _libc().umount2(os.fsencode(target), 2)  # MNT_DETACH


def _remount(target: Path, size: int) -> None:
    if _libc().mount(b"tmpfs", os.fsencode(target), b"tmpfs", 32, f"size={size}".encode()):  # MS_REMOUNT
        raise OSError(ctypes.get_errno(), "remount")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
