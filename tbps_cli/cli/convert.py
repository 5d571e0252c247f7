"""`tbps convert`: an official checkpoint becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli.options import DataRoot, Json, Sets, Words


def command(
    file: Annotated[Path, typer.Argument(help="An official checkpoint: a file or a folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="New folder to write. Default: the next in ./runs.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Read it as this method, without what it has no place for.",
        ),
    ] = None,
    sets: Sets = None,
    words: Words = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Turn an official checkpoint into a run folder. Nothing in the checkpoint is executed."""
    from tbps_cli.cli import output, render
    from tbps_cli.models.conversion import convert_file
    from tbps_cli.models.run import CARD

    made = convert_file(file, out, method=method, sets=sets or (), words=words, data_root=data_root)
    run, recipe = made.run, made.run.recipe
    output.stdout.written.append(str(run.folder))
    facts = {
        "run": str(run.folder),
        "method": recipe.method.name,
        "data": recipe.data.name,
        "image_size": list(recipe.data.image_size),
        "converted_from": str(file),
    }
    if as_json:
        render.document({**facts, "left_out": [extra.document() for extra in made.left_out]})
        return
    shown = {"image_size": "x".join(map(str, recipe.data.image_size))}
    if made.left_out:
        shown["left_out"] = f"{amount(len(made.left_out), 'tensor')}, listed in {run.folder / CARD}"
    render.facts({**facts, **shown})
    render.note(f"Next: tbps eval --ckpt {run.folder}")
