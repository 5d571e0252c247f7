"""What a trial of a campaign is, how it is kept apart from the others, and which are done already."""

from __future__ import annotations

import json
import os
import pickle
import random
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path


@dataclass
class Result:
    """What came of one trial, which may consist of many runs or files."""

    count: int = 0
    """How many kills, inputs or files it held."""
    faults: list[str] = field(default_factory=list)
    """What went wrong, each with enough words to try it again."""
    seen: Counter[str] = field(default_factory=Counter)
    """What was seen how often, for the table."""

    def add(self, fault: str | None = None, *seen: str) -> None:
        """One more kill, input or file."""
        self.count += 1
        if fault:
            self.faults.append(fault)
        self.seen.update(seen)


@dataclass(frozen=True)
class Trial:
    """One entry of a campaign: the same seed and key always do the same."""

    part: str
    group: str
    """The row of the table that it belongs to."""
    number: int
    run: Callable[[random.Random], Result]
    seconds: float = 600.0
    """After these it counts as hanging."""

    @property
    def key(self) -> str:
        return f"{self.part}/{self.group}/{self.number}"


class Ledger:
    """The results so far, a JSON document a line. Another seed begins another one."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.done: dict[str, tuple[Result, float]] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # the campaign itself was killed while it wrote
                continue
            if entry["seed"] == seed:
                result = Result(entry["count"], entry["faults"], Counter(entry["seen"]))
                self.done[entry["key"]] = result, entry["seconds"]

    def keep(self, trial: Trial, result: Result, seconds: float) -> None:
        self.done[trial.key] = result, seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"key": trial.key, "seed": self.seed, "seconds": round(seconds, 2), **vars(result)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(file.tell()) + json.dumps(entry))


def run_all(trials: Iterable[Trial], ledger: Ledger, tell: Callable[[str], None]) -> list[str]:
    """Run what is not done yet; returns the faults of all of them."""
    faults = []
    for trial in trials:
        if trial.key not in ledger.done:
            began = time.monotonic()
            result = isolated(partial(trial.run, random.Random(f"{ledger.seed}/{trial.key}")), trial.seconds)
            seconds = time.monotonic() - began
            ledger.keep(trial, result, seconds)
            tell(f"{trial.key}: {result.count} in {seconds:.1f} s" + (", FAULTS" if result.faults else ""))
        found = ledger.done[trial.key][0].faults
        for fault in found:
            tell(f"  fault in {trial.key}: {fault}")
        faults += found
    return faults


def isolated(work: Callable[[], Result], seconds: float) -> Result:
    """Do it in a fork, so that neither a crash nor a hang nor threads of torch reach the campaign."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.setsid()
        try:
            result = work()
        except BaseException:
            result = Result(faults=[f"the campaign itself failed: {traceback.format_exc()[-1500:]}"])
        with os.fdopen(theirs, "wb") as pipe:
            pipe.write(pickle.dumps(result))
        os._exit(0)
    os.close(theirs)
    content, limit = b"", time.monotonic() + seconds
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, limit - time.monotonic()))[0]:
            block = pipe.read(1 << 16)
            if not block:
                break
            content += block
    ended = ended_within(child, max(0.0, limit - time.monotonic()) + 1)
    if ended is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Result(faults=[f"hung for {seconds:.0f} s"])
    if not content:
        return Result(faults=[f"crashed with status {ended}"])
    result = pickle.loads(content)
    assert isinstance(result, Result)
    return result


def ended_within(child: int, seconds: float) -> int | None:
    """The status of a child, negative for a signal; None when it still runs after so many seconds."""
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], seconds)[0]:
            return None
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
