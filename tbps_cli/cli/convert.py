"""`tbps convert`: an official checkpoint becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import DataRoot, Json, Sets, Words


def command(
    file: Annotated[Path, typer.Argument(help="An official checkpoint: a file or a folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="New folder to write. Default: the next in ./runs.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Refuse the checkpoint unless it is of this method.")
    ] = None,
    sets: Sets = None,
    words: Words = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Turn an official checkpoint into a run folder. Nothing in the checkpoint is executed."""
    from tbps_cli.cli import render
    from tbps_cli.models.official import convert

    run = convert(file, out, method=method, sets=sets or (), words=words, data_root=data_root)
    recipe = run.recipe
    facts = {
        "run": str(run.folder),
        "method": recipe.method.name,
        "data": recipe.data.name,
        "image_size": list(recipe.data.image_size),
        "converted_from": str(file),
    }
    if as_json:
        render.document(facts)
        return
    render.facts(facts | {"image_size": "x".join(map(str, recipe.data.image_size))})
    render.note(f"Next: tbps eval --ckpt {run.folder}")
