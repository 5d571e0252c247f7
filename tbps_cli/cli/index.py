"""`tbps index`: embeds a folder of images once, so that searching it later takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import BatchSize, Ckpt, Device, Json, Sets, Words, Workers


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images; sub-folders belong to it.")],
    ckpt: Ckpt = None,
    path: Annotated[
        Path | None,
        typer.Option("--index", metavar="FILE", help="Where the index goes, for --in FILE. Default: the cache."),
    ] = None,
    batch: BatchSize = None,
    workers: Workers = None,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Embed the images of a folder; a second time only what is new or changed."""
    from tbps_cli.cli import render, search_view
    from tbps_cli.errors import DataError

    if not folder.expanduser().is_dir():
        raise DataError(f"{folder} is not a folder.", "Give a folder of images.")
    from tbps_cli.models import open_model
    from tbps_cli.search.index import BATCH, index

    model = open_model(ckpt, device=device, sets=sets or (), words=words)
    with render.progress(f"Embedding {folder}", "images") as progress:
        gallery = index(model, folder, path, workers=workers, batch=batch or BATCH, progress=progress)
    if as_json:
        render.document(gallery.document(str(model.path)))
    else:
        search_view.index_report(gallery, path)
