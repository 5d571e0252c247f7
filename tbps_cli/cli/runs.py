"""`tbps runs`: the run folders below ./runs, the newest last, which is the one that `--ckpt` means by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import Json


def command(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs with their method, data, best epoch and its scores."""
    from tbps_cli.cli import render
    from tbps_cli.models.summary import summaries

    found = summaries(folder)
    if as_json:
        render.document([summary.document() for summary in found])
        return
    if not found:
        render.note(f"There are no runs in {folder}. Make one: tbps train demo")
        return
    headings = ["run", "method", "data", "epoch", "R@1", "mAP", "chosen on", "written", "notes"]
    render.table(headings, [summary.row() for summary in found], right=["epoch", "R@1", "mAP"])
