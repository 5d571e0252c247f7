"""`tbps runs`: the run folders below ./runs, the newest last, which is the one that `--ckpt` means by default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli.options import Json

if TYPE_CHECKING:
    from tbps_cli.models.summary import RunSummary


def command(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the runs. Default: ./runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs with their state, method, data and the scores of their best epoch."""
    from tbps_cli.cli import render
    from tbps_cli.models.summary import summaries

    found = summaries(folder)
    if as_json:
        render.document([summary.document() for summary in found])
        return
    if not found:
        render.note(f"There are no runs in {folder}. Make one: tbps train demo")
        return
    noted = any(summary.notes for summary in found)
    headings = ["run", "state", "method", "data", "best epoch", "R@1", "mAP", "chosen on", "written"] + [
        "notes"
    ] * noted
    render.table(
        headings,
        [_row(summary) for summary in found],
        right=["best epoch", "R@1", "mAP"],
        prose=["notes"],
        optional=["written", "best epoch", "chosen on", "mAP", "method", "data"],
    )


def _row(summary: RunSummary) -> list[object]:
    scores = [f"{summary.scores[name]:.2f}" if name in summary.scores else "" for name in ("R1", "mAP")]
    written = f"{summary.written:%Y-%m-%d %H:%M}" if summary.written else ""
    about = [summary.run, summary.state, summary.method, summary.data, summary.epoch]
    return [*about, *scores, summary.selected_on, written, "; ".join(summary.notes)]
