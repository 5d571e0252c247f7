"""SIGKILL at a moment drawn from the whole life of a command; then the next start must put everything right.

Each trial runs the command once undisturbed: that tells how long its life is, and what it must leave. Then it is
killed again and again in one place, started anew there, and now and then brought to its end and compared.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from support import growth_kills, kill_campaign
from support.kills import METHODS

from campaigns.children import Ended, tbps
from campaigns.trials import Result, Trial
from campaigns.workshop import Workshop, copy, differing, tree
from tbps_cli.features import footer, row_sink, snapshot, store
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile

CHAIN = 20
"""Kills of a trial."""
SAVES = "1e-6", "0.05", "1e9"
"""Seconds between the checkpoints of a training."""


class Job:
    """One command in one folder, to be killed. The defaults are for commands that need no more."""

    finish_after = 0.25
    """How often a kill is followed by a start that is let end; otherwise by one that is killed too."""

    def __init__(self, place: Workshop, bench: Path) -> None:
        self.place, self.bench = place, bench

    def words(self, draw: random.Random) -> list[object]:
        """The command line of the next start."""
        raise NotImplementedError

    def results(self) -> dict[str, str]:
        """What it has left, to be compared with what an undisturbed one leaves."""
        return {}

    def before(self) -> None:
        """Called in the process that may be killed."""

    def change(self, draw: random.Random) -> None:
        """Change what the command works on, between two starts."""

    def check_killed(self) -> str | None:
        """What is wrong right after a kill."""
        return None

    def check_finished(self, whole: Job) -> str | None:
        """What is wrong after a start that ended by itself."""
        return differing(whole.results(), self.results())

    def start(self, draw: random.Random, kill_after: float | None = None) -> Ended:
        return tbps(self.words(draw), self.bench, before=self.before, kill_after=kill_after)

    def again(self) -> None:
        """Make room for the next start after one that has done everything."""


class Made(Job):
    """A command that makes a folder at once, or not at all."""

    target: Path

    def results(self) -> dict[str, str]:
        return tree(self.bench, "cache")

    def check_killed(self) -> str | None:
        return f"{self.target.name} is there in part" if self.target.exists() and self._is_part() else None

    def _is_part(self) -> bool:
        return tree(self.target) != self.whole

    whole: dict[str, str]

    def again(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)


class Export(Made):
    def words(self, draw: random.Random) -> list[object]:
        self.target = self.bench / "exported"
        if self.target.exists():  # it was killed after its work was done
            self.again()
        return ["export", "--ckpt", self.place.run, "--out", self.target, "--format", "safetensors"]


class Convert(Made):
    def words(self, draw: random.Random) -> list[object]:
        self.target = self.bench / "converted"
        if self.target.exists():
            self.again()
        return ["convert", self.place.official, "--out", self.target]


class Synthetic(Made):
    def words(self, draw: random.Random) -> list[object]:
        self.target = self.bench / "data" / "synthetic"
        return ["prepare-data", "synthetic", "--identities", "6", "--data-root", self.bench / "data"]


class Install(Made):
    def words(self, draw: random.Random) -> list[object]:
        self.target = self.bench / "data" / "CUHK-PEDES"
        source = [] if self.target.exists() else ["--source", self.place.archive]
        return ["prepare-data", "cuhk-pedes", *source, "--data-root", self.bench / "data"]


class Decode(Job):
    """The store of decoded images, beside a data set."""

    def __init__(self, place: Workshop, bench: Path) -> None:
        super().__init__(place, bench)
        copy(place.data, bench / "data")

    def words(self, draw: random.Random) -> list[object]:
        return ["prepare-data", "cuhk-pedes", "--data-root", self.bench / "data", "--decode", "96x48"]

    def results(self) -> dict[str, str]:
        return tree(self.bench / "data", bench=self.bench)

    def again(self) -> None:
        for images in (self.bench / "data").glob("*.store"):
            shutil.rmtree(images)


class Index(Job):
    """Rows that were acknowledged are never lost, and every row has the embedding of its image."""

    may_stay: tuple[str, ...] = ()
    """What it may leave beside the index."""

    def __init__(self, place: Workshop, bench: Path) -> None:
        super().__init__(place, bench)
        self.photos, self.path = bench / "photos", bench / "index" / "photos.h5"
        copy(place.photos, self.photos)
        self.path.parent.mkdir()
        self.told = bench / "acknowledged"
        self.kept: dict[str, str] = {}
        """Path -> content of every row that some process was told to be safe."""
        self.oracle: dict[str, np.ndarray] = {}

    def words(self, draw: random.Random) -> list[object]:
        return ["index", self.photos, "--ckpt", self.place.run, "--index", self.path, "--workers", "1"]

    def before(self) -> None:
        """Write down what `append` has acknowledged; a write to a file survives a kill."""
        row_sink.FLUSH_ROWS = 3
        handle = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        append = FeatureFile.append

        def acknowledged(file: FeatureFile, rows: Sequence[Row], vectors: np.ndarray) -> None:
            append(file, rows, vectors)
            os.write(handle, "".join(f"{row.path}\t{row.content}\n" for row in rows).encode())

        FeatureFile.append = acknowledged  # type: ignore[method-assign]

    def change(self, draw: random.Random) -> None:
        """An image goes, comes back, or becomes a copy of another one."""
        names = sorted(path.relative_to(self.place.photos) for path in self.place.photos.rglob("*.png"))
        for _ in range(draw.randint(0, 6)):
            name, other = draw.choice(names), draw.choice(names)
            target = self.photos / name
            self.kept.pop(name.as_posix(), None)
            if target.exists() and draw.random() < 0.5:
                target.unlink()
            else:
                shutil.copyfile(self.place.photos / other, target)

    def rows(self) -> dict[str, tuple[str, np.ndarray]]:
        """Path -> content and embedding, as a reader finds them now."""
        for file in (self.path, *sorted(self.path.parent.glob("*.parts/*.h5"))):
            if file.exists():
                with file.open("rb") as opened:
                    contents = footer.read(opened)
                assert contents is not None
                parts = snapshot.load(self.path, contents.facts["fingerprint"])
                now = snapshot.Snapshot(parts, np.dtype(np.float32))
                return {row.path: (row.content, vector) for row, vector in zip(now.rows, now.matrix(), strict=True)}
        return {}

    def check_killed(self) -> str | None:
        if self.told.exists():
            lines = self.told.read_text().splitlines()
            self.kept |= dict(line.split("\t") for line in lines)
            self.told.unlink()
        rows = self.rows()
        lost = [path for path, content in self.kept.items() if rows.get(path, ("",))[0] != content]
        if lost:
            return f"{len(lost)} acknowledged rows are lost ({lost[0]})"
        return self._wrong(rows)

    def _wrong(self, rows: dict[str, tuple[str, np.ndarray]]) -> str | None:
        for path, (content, vector) in rows.items():
            if content not in self.oracle or not np.allclose(self.oracle[content], vector, atol=1e-5):
                return f"{path} has the embedding of another image"
        return None

    def check_finished(self, whole: Job) -> str | None:
        fault, rows = self.check_killed(), self.rows()
        usable = {path.relative_to(self.photos).as_posix() for path in self.photos.rglob("*.*") if _is_image(path)}
        if fault or rows.keys() != usable:
            return fault or f"the index has {len(rows)} rows for {len(usable)} images"
        left = sorted(path.name for path in self.path.parent.iterdir() if path.name not in self.may_stay)
        return None if left == ["photos.h5", "photos.h5.left-out.json"] else f"it leaves {', '.join(left)}"

    def again(self) -> None:
        shutil.rmtree(self.path.parent)
        self.path.parent.mkdir()
        self.kept.clear()


class LargeIndex(Index):
    """The same as if the index were a large one: parts stay beside it, are joined now and then, and merged seldom."""

    may_stay = ("photos.h5.parts",)

    def before(self) -> None:
        super().before()
        store.FEW, store.SHARE, store.PARTS = 0, 1, 5


def _is_image(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:1] not in (b"", b"n")


class Train(Job):
    """`tbps train --resume` with checkpoints as often as it likes; compared bit by bit."""

    def words(self, draw: random.Random) -> list[object]:
        self.out = self.bench / "run"
        saved = f"train.save_every={draw.choice(SAVES)}"
        where = ["--data-root", self.place.data, "--out", self.out, "--device", "cpu", "--resume"]
        return ["train", self.place.recipe, *where, "--set", saved]

    def check_finished(self, whole: Job) -> str | None:
        assert isinstance(whole, Train)
        stray = sorted(path.name for path in self.bench.iterdir() if path.name not in ("run", "cache"))
        different = kill_campaign.difference(whole.out, self.out)
        return different or (f"it leaves {', '.join(stray)}" if stray else None)

    def again(self) -> None:
        shutil.rmtree(self.out)


JOBS: dict[str, tuple[type[Job], int]] = {
    "train": (Train, 5),
    "index": (Index, 10),
    "index, large": (LargeIndex, 5),
    "prepare-data synthetic": (Synthetic, 4),
    "prepare-data --source": (Install, 4),
    "prepare-data --decode": (Decode, 4),
    "export": (Export, 4),
    "convert": (Convert, 4),
}
"""Name -> the job, and how many trials of CHAIN kills the long form makes."""
WAYS = dict(zip(("merges, drops", "merges", "drops", "appends"), growth_kills.WAYS, strict=True))
"""Name -> what the writers of one feature file do while they are killed."""
SHORT = "index", "prepare-data --source", "convert"
"""What the short form kills; ./scripts/test kills trainings elsewhere too."""
METHOD_KILLS = 23


def trials(place: Workshop, short: bool) -> list[Trial]:
    found = []
    for name, (job, count) in JOBS.items():
        for number in range(name in SHORT if short else count):
            run: Callable[[random.Random], Result] = partial(chain, place, job, 2 if short else CHAIN)
            found.append(Trial("kills", name, number, run, seconds=1800))
    for number, (name, how) in enumerate(list(WAYS.items())[: 1 if short else None]):
        group = f"feature file, two writers and a reader: {name}"
        found.append(
            Trial("kills", group, number, partial(writer_kills, place, how, 3 if short else CHAIN), seconds=900)
        )
    if not short:
        for number, method in enumerate(METHODS):
            found.append(Trial("kills", "train, every method", number, partial(method_kills, method), seconds=1800))
    return found


def chain(place: Workshop, make: type[Job], kills: int, draw: random.Random) -> Result:
    """Kill one job so many times."""
    result = Result()
    with place.bench() as first, place.bench() as second:
        whole, job = make(place, first), make(place, second)
        began = time.monotonic()
        ended = whole.start(draw)
        life = time.monotonic() - began
        if fault := ended.fault():
            return Result(faults=[f"undisturbed: {fault}"])
        if isinstance(job, Made) and isinstance(whole, Made):
            job.whole = tree(whole.target)
        if isinstance(job, Index) and isinstance(whole, Index):
            job.oracle = dict(whole.rows().values())
        while result.count < kills:
            job.change(draw)
            make_leftovers_old(second)
            moment = draw.uniform(0, life)
            ended = job.start(draw, kill_after=moment)
            when = f"killed after {moment:.3f} of {life:.3f} s"
            if not ended.killed:
                result.seen["ended before it was killed"] += 1
                if fault := ended.fault() or job.check_finished(whole):
                    result.faults.append(f"started again after a kill: {fault}")
                    return result
                job.again()
                continue
            if fault := job.check_killed():
                result.add(f"{when}: {fault}")
                return result
            result.add()
            if draw.random() < job.finish_after or result.count == kills:
                make_leftovers_old(second)
                fault = job.start(draw).fault() or job.check_finished(whole)
                result.seen["brought to its end and compared"] += 1
                if fault:
                    result.faults.append(f"{when}, then started again: {fault}")
                    return result
                job.again()
    return result


def make_leftovers_old(folder: Path) -> None:
    """As if what the kill left half written were two hours old: then the next who writes there removes it."""
    for path in folder.rglob(".*.tmp"):
        if path.is_file():
            os.utime(path, (0, time.time() - 7200))


def method_kills(method: str, draw: random.Random) -> Result:
    """The engine under the same treatment, with every state that each method can have (see `support.kill_campaign`)."""
    records = kill_campaign.campaign(method, METHOD_KILLS, seed=draw.randrange(1 << 30), tell=lambda told: None)
    result = Result(len(records.kills))
    result.seen["brought to its end and compared"] += records.runs
    if records.difference is not None:
        result.faults.append(f"{method}: {records.difference}")
    return result


def writer_kills(place: Workshop, how: str, kills: int, draw: random.Random) -> Result:
    """Two writers of one feature file, killed while they append, drop and merge in the background; a third reads."""
    with place.bench() as bench:
        done = growth_kills.kill_writers(bench, how, kills, seed=draw.randrange(1 << 30))
    result = Result(done.kills, [done.fault] if done.fault else [])
    result.seen["found unmerged parts"] += done.in_parts
    result.seen["found an unfinished merge"] += done.in_merges
    result.seen["times read meanwhile"] += done.galleries
    return result
