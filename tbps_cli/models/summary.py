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
from tbps_cli.models.run import RECIPE, WEIGHTS, list_runs
from tbps_cli.types import Scores
from tbps_cli.weights.heads import read_metadata


@dataclass
class Summary:
    """One run in a list; empty texts where something is unknown."""

    run: Path
    method: str = ""
    data: str = ""
    epoch: int | None = None
    epochs: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    selected_on: str | None = None
    written: datetime | None = None
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """For `--json`."""
        written = self.written.isoformat(timespec="seconds") if self.written else None
        return vars(self) | {"run": str(self.run), "written": written}

    def row(self) -> list[object]:
        """Cells in the order of `tbps runs`."""
        scores = [f"{self.scores[name]:.2f}" if name in self.scores else "" for name in ("R1", "mAP")]
        epoch = "" if self.epoch is None else f"{self.epoch}/{self.epochs}" if self.epochs else self.epoch
        written = f"{self.written:%Y-%m-%d %H:%M}" if self.written else ""
        return [self.run, self.method, self.data, epoch, *scores, self.selected_on, written, "; ".join(self.notes)]


def summaries(runs: Path) -> list[Summary]:
    """All runs below a folder, the newest last."""
    return [_summary(run) for run in list_runs(runs)]


def _summary(run: Path) -> Summary:
    summary = Summary(run)
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


def _tell(summary: Summary, facts: dict[str, str]) -> None:
    summary.selected_on = facts.get("selected_on")
    summary.epoch = int(facts["epoch"]) if "epoch" in facts else None
    summary.scores = {name: float(facts[name]) for name in Scores._fields if name in facts}
    if "converted_from" in facts:
        summary.notes.append(f"converted from {facts['converted_from']}")
