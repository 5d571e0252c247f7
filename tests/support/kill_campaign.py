"""Kill trainings at random moments, resume them, and compare what they leave with a run in one go, bit by bit.

`scripts/kill_campaign.py` is what a person runs.

Half of the moments are drawn uniformly over the time that is left of the run, from the start of the
process on; the other half over what it does (every step, every file that it writes, every epoch that it
closes), plus up to 20 ms, so that short phases are hit as well as long ones. Each process keeps checkpoints
as often as it likes: after every step, now and then, or after epochs alone. docs/kill-campaign.md shows a result.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from support.kills import Run, write_data, write_recipe

from tbps_cli.engine import state
from tbps_cli.engine.log import MACHINE
from tbps_cli.errors import TbpsError
from tbps_cli.models.run import LOCK
from tbps_cli.weights.weights_file import read_metadata, read_safetensors

SAVES = ("1e-6", "0.1", "1e9")
"""Seconds between checkpoints, drawn for each process anew."""
LOST = "another process of this training has ended."
PHASES = ("starting", "meeting", "stepping", "passing over the pairs", "writing", "closing an epoch", "finishing")


@dataclass
class Kill:
    """One kill: when it came, what it hit, and where the run goes on."""

    method: str
    number: int
    victims: str
    step: int
    """The last that was taken before it; 0: none by this process."""
    after: float
    """Milliseconds since then, or since the start of the process."""
    phase: str
    half: str
    """Files left half written."""
    resumes: str
    survivor: str = ""
    """What the other process said."""

    def __str__(self) -> str:
        since = f"step {self.step}" if self.step else "the start"
        half = f" [half written: {self.half}]" if self.half else ""
        other = f"; the other: {self.survivor}" if self.survivor else ""
        return (
            f"{self.method:10} {self.number:3}  {self.victims}{self.after:6.0f} ms after {since:9}  "
            f"{self.phase}{half} -> {self.resumes}{other}"
        )


@dataclass
class Records:
    """All kills of one method, and what came of them."""

    method: str
    ranks: int
    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    """Killed runs that were brought to their end and compared."""
    difference: str | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        return "bit-identical" if self.difference is None and self.runs else f"DIFFERS: {self.difference}"

    def hits(self) -> list[int]:
        """Kills in each of PHASES."""
        count = Counter(kill.phase.split(" ", 1)[0] for kill in self.kills)
        return [count[phase.split(" ", 1)[0]] for phase in PHASES]

    def __str__(self) -> str:
        return (
            f"{self.method}: {len(self.kills)} kills, {self.runs} runs brought to their end in {self.seconds:.0f} s: "
            f"{self.verdict}"
        )

    def row(self) -> str:
        """For the table of docs/kill-campaign.md."""
        half = sum(bool(kill.half) for kill in self.kills)
        cells = [self.method, len(self.kills), *self.hits(), half, self.runs, self.verdict]
        return f"| {' | '.join(map(str, cells))} |"


TABLE = (
    "| method | kills | starting | meeting | stepping | in a pass | writing a file | closing an epoch | finishing "
    "| left a file half written | runs compared | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def campaign(
    method: str,
    kills: int,
    ranks: int = 1,
    seed: int = 0,
    *,
    folder: Path | None = None,
    tell: Callable[[object], None] = print,
) -> Records:
    """Kill runs of a method until there were so many kills; the last run too is brought to its end.

    Several processes are killed all at once, then one or another alone. tell: is given each kill, then the records.
    """
    with tempfile.TemporaryDirectory() as made:
        return Campaign(method, ranks, seed, folder or Path(made), tell).run(kills)


@dataclass
class Life:
    """What a run in one go takes: where the moments are drawn from."""

    words: int
    """That its first process says."""
    start: float
    """Seconds until the first step begins."""
    whole: float
    """Seconds until the end."""
    steps: int

    @classmethod
    def of(cls, run: Run) -> Life:
        said = run.children[0].said
        start = next(word.at for word in said if word.value == "stepping")
        steps = max(word.value for word in said if word.kind == "step")
        return cls(len(said), start - run.began, said[-1].at - run.began, steps)

    def moment(self, before: int, draw: random.Random) -> tuple[int, float]:
        """Words to wait for, and seconds after them, in the life of a process that resumes after some steps."""
        left = 1 - before / self.steps
        if draw.random() < 0.5:
            return 0, draw.uniform(0, self.start + (self.whole - self.start) * left)
        return draw.randint(1, max(5, int(self.words * left))), draw.uniform(0, 0.02)


class Campaign:
    """The runs of one method: the one in one go, and those that are killed."""

    def __init__(self, method: str, ranks: int, seed: int, folder: Path, tell: Callable[[object], None]) -> None:
        self.folder, self.data, self.tell = folder, write_data(folder / "data"), tell
        self.path, self.whole = write_recipe(folder, method), folder / "whole"
        self.draw, self.records = random.Random(f"{method}/{ranks}/{seed}"), Records(method, ranks)
        self.lives: dict[str, Life] = {}
        self._anew()

    def run(self, kills: int) -> Records:
        started, records = time.monotonic(), self.records
        self._in_one_go()
        while records.difference is None and (len(records.kills) < kills or self.here):
            try:
                kill = self._child(last=len(records.kills) >= kills or self.here >= self.chain)
            except TbpsError as error:  # a checkpoint that cannot be read
                kill, records.difference = None, error.message
            if kill is not None:
                records.kills.append(kill)
                self.tell(kill)
        records.seconds = time.monotonic() - started
        self.tell(records)
        return records

    def _in_one_go(self) -> None:
        for save, out in (("1e-6", self.whole), ("1e9", self.folder / "whole2")):
            run = Run(self.path, self.data, out, self.records.ranks, (f"train.save_every={save}",))
            ends = run.end()
            assert set(ends) == {"done"}, ends
            self.lives[save] = Life.of(run)
        self.lives["0.1"] = self.lives["1e9"]
        self.records.difference = difference(self.whole, self.folder / "whole2")

    def _child(self, last: bool) -> Kill | None:
        """Start or resume the run, and kill it; None when it has reached its end."""
        before, self.old = self._saved_steps(), self._half()
        save, victims = self.draw.choice(SAVES), self._victims()
        moment = self.lives[save].moment(before, self.draw)
        run = Run(self.path, self.data, self.out, self.records.ranks, (f"train.save_every={save}",))
        if not last:
            run.wait(*moment)
        run.children[0].hear_all()
        if last or run.children[0].last("end") or not run.running:
            self._finished(run, before)
            return None
        self.here += 1
        kill = self._kill(run, victims, before)
        self._check_start(run, before)
        return kill

    def _victims(self) -> list[int]:
        ranks, turn = self.records.ranks, len(self.records.kills) % (self.records.ranks + 1)
        return list(range(ranks)) if ranks == 1 or turn == 0 else [ranks - turn]

    def _kill(self, run: Run, victims: list[int], before: int) -> Kill:
        now = time.monotonic()
        run.kill(*victims)
        survivor = self._survivor(run, victims)
        first, victim = run.children[0], run.children[victims[0]]
        step = first.last("step")
        phase = victim.last("phase")
        return Kill(
            self.records.method,
            len(self.records.kills) + 1,
            "" if self.records.ranks == 1 else "both   " if len(victims) > 1 else f"rank {victims[0]} ",
            step.value if step else 0,
            1000 * (now - (step.at if step and step.at < now else run.began)),
            phase.value if phase else "starting",
            ", ".join(sorted(_meant(path.name) for path in self._half() - self.old)),
            self._place(),
            survivor,
        )

    def _survivor(self, run: Run, victims: list[int]) -> str:
        """How the others end: with a message, if they had met; else they wait until their launcher ends them."""
        others = [child for rank, child in enumerate(run.children) if rank not in victims]
        if not others:
            return ""
        for child in others:
            child.hear_all()
        if not all(child.met for child in run.children):
            run.end(1.0)
            return "ended with it, before they had met"
        ends = [end for rank, end in enumerate(run.end(60)) if rank not in victims]
        if not set(ends) <= {LOST, "done"}:
            self.records.difference = f"after a kill the other process {ends[0]}"
        if "done" in ends and self._place() != "is finished":
            self.records.difference = "the other process said that it was done, but the run is not finished"
        return ", ".join(ends)

    def _anew(self) -> None:
        """Another run, to be killed up to eight times before it is brought to its end."""
        self.out, self.here, self.chain = self.folder / f"killed{self.records.runs + 1}", 0, self.draw.randint(3, 8)

    def _finished(self, run: Run, before: int) -> None:
        """The run is at its end: compare it, and go on with another."""
        ends = run.end()
        if set(ends) != {"done"}:
            self.records.difference = "; ".join(ends)
            return
        self._check_start(run, before)
        self.records.difference = self.records.difference or difference(self.whole, self.out)
        self.records.runs += 1
        self._anew()

    def _check_start(self, run: Run, before: int) -> None:
        """The first step of a process is the one after the checkpoint's last: nothing repeated, nothing lost."""
        first = next((word.value for word in run.children[0].said if word.kind == "step"), before + 1)
        if first != before + 1:
            self.records.difference = f"went on with step {first}, but {before} were saved"

    def _half(self) -> set[Path]:
        return {path for path in self.out.glob(".*") if path.name != LOCK}

    def _saved_steps(self) -> int:
        saved = state.load(self.out) if self.out.exists() else None
        return saved.place.steps if saved else 0

    def _place(self) -> str:
        saved = state.load(self.out) if self.out.exists() else None
        if saved is None:
            return "starts afresh"
        if saved.place.finished:
            return "is finished"
        place = saved.place
        where = (
            f"step {place.iteration} of epoch {place.epoch + 1}" if place.iteration else f"{place.epoch} epochs done"
        )
        return f"resumes after step {place.steps} ({where})"


def _meant(name: str) -> str:
    """What a half-written file was to become; safetensors' writer has names of its own for it."""
    return "weights" if name.startswith(".tmp") else name[1:].rsplit(".", 2)[0]


# What a run leaves ----------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, object]:
    """All that a run leaves, piece by piece, without what measures time and how often it was saved."""
    found: dict[str, object] = dict.fromkeys((path.name for path in folder.iterdir()), "there")
    for name in ("weights.safetensors", "last.safetensors"):
        found |= {f"{name}: {key}": value for key, value in read_safetensors(folder / name).items()}
        found[f"{name}: facts"] = read_metadata(folder / name)
    saved = state.load(folder)
    assert saved is not None
    found |= {f"state.pt: {key}": value for key, value in asdict(saved.place).items() if key != "seconds"}
    for name in ("log.txt", "recipe.toml", "card.md", "tokenizer.json"):
        if (folder / name).exists():
            text = re.sub(r"Time per batch.*|^save_every.*", "", (folder / name).read_text("utf-8"), flags=re.MULTILINE)
            found |= {f"{name}: line {number}": line for number, line in enumerate(text.splitlines(), 1)}
    rows = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    found |= {f"metrics.jsonl: line {number}": _timeless(row) for number, row in enumerate(rows, 1)}
    return found


def _timeless(row: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(row).items() if key not in MACHINE}


def difference(first: Path, second: Path) -> str | None:
    """The first difference of two finished runs; None when there is none."""
    one, two = contents(first), contents(second)
    for name in [*one, *(name for name in two if name not in one)]:
        if name not in one or name not in two:
            return f"{name} is in {(first if name in one else second).name} alone"
        if not _same(one[name], two[name]):
            return f"{name}: {_shown(one[name])} became {_shown(two[name])}"
    return None


def _same(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return one == two


def _shown(value: object) -> str:
    return f"{str(value.flatten()[:4].tolist())[:-1]}, …]" if isinstance(value, torch.Tensor) else repr(value)


# The command ----------------------------------------------------------------------------------
