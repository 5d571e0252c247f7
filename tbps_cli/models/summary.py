"""What can be said of a run without loading it: read from its recipe's text and the weights file's head.

No torch and no method is imported, so a list of a hundred runs appears at once, and a run that is
damaged is listed with what is wrong with it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tbps_cli.errors import TbpsError
from tbps_cli.models.run import CARD, LOCK, RECIPE, STATE, WEIGHTS, list_runs
from tbps_cli.types import Scores
from tbps_cli.weights.headers import read_metadata

STOPPED = "stopped at"
_CONVERTED = "converted from"


@dataclass
class RunSummary:
    """One run in a list; empty texts where something is unknown."""

    run: Path
    method: str = ""
    data: str = ""
    epoch: int | None = None
    epochs: int | None = None
    state: str = ""
    """running, stopped at 3/20, finished, converted; empty for weights that no training left there."""
    scores: dict[str, float] = field(default_factory=dict)
    selected_on: str | None = None
    written: datetime | None = None
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """For `--json`."""
        written = self.written.isoformat(timespec="seconds") if self.written else None
        return vars(self) | {"run": str(self.run), "written": written}


def summaries(runs: Path) -> list[RunSummary]:
    """All runs below a folder, the newest last."""
    return [summarise(run) for run in list_runs(runs)]


def summarise(run: Path) -> RunSummary:
    """What the files of one run say."""
    summary = _read(run)
    if any(note.startswith(_CONVERTED) for note in summary.notes):
        summary.state = "converted"
    elif _is_locked(run / LOCK):
        summary.state = "running"
    elif (run / CARD).is_file():  # written when a training ends
        summary.state = "finished"
    elif summary.epochs and any((run / name).is_file() for name in (WEIGHTS["last"], STATE)):
        summary.state = f"{STOPPED} {_epochs_done(run)}/{summary.epochs}"
    return summary


def _epochs_done(run: Path) -> int:
    """The epochs that a training has completed: its last weights say so."""
    try:
        return int(read_metadata(run / WEIGHTS["last"])["epoch"])
    except (TbpsError, OSError, ValueError, KeyError):
        return 0


def _is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of a run; a killed one leaves the file behind, but no lock."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go at once, with the file
    except (BlockingIOError, PermissionError):
        return True
    except (OSError, ImportError):
        return False
    return False


def _read(run: Path) -> RunSummary:
    summary = RunSummary(run)
    try:
        recipe = tomllib.loads((run / RECIPE).read_text("utf-8"))
        summary.method = str(recipe["method"]["name"])
        summary.data = str(recipe["data"]["name"])
        summary.epochs = recipe.get("train", {}).get("epochs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        summary.notes.append(f"{RECIPE} is damaged")
    weights = next((run / name for name in WEIGHTS.values() if (run / name).is_file()), None)
    if weights is None:
        summary.notes.append("no weights yet")
        return summary
    summary.written = datetime.fromtimestamp(weights.stat().st_mtime).astimezone()
    try:
        _tell(summary, read_metadata(weights))
    except (TbpsError, ValueError):
        summary.notes.append(f"{weights.name} is damaged")
    return summary


def _tell(summary: RunSummary, facts: dict[str, str]) -> None:
    summary.selected_on = facts.get("selected_on")
    summary.epoch = int(facts["epoch"]) if "epoch" in facts else None
    summary.scores = {name: float(facts[name]) for name in Scores._fields if name in facts}
    if "converted_from" in facts:
        summary.notes.append(f"{_CONVERTED} {facts['converted_from']}")
