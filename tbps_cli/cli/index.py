"""`tbps index`: embeds a folder of images once, so that searching it later takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import BatchSize, Ckpt, DataRoot, Device, Json, Sets, Words, Workers


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images, including its sub-folders.")],
    ckpt: Ckpt = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--index", metavar="FILE", help="Where to write the index, for searches with --in FILE. Default: the cache."
        ),
    ] = None,
    batch: BatchSize = None,
    workers: Workers = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Embed the images of a folder so that searches start at once. Run again, it embeds only new and changed images."""
    from tbps_cli.cli import output, render, search_view
    from tbps_cli.searching.index import BATCH, index

    with render.progress(f"Embedding {folder}", "images") as progress:
        gallery = index(
            ckpt,
            folder,
            path,
            workers=workers,
            batch=batch or BATCH,
            data_root=data_root,
            device=device,
            sets=sets or (),
            words=words,
            progress=progress,
        )
    output.stdout.written.append(str(path or f"the index of {folder}"))
    if as_json:
        render.document(gallery.document())
    else:
        options: list[tuple[str, object]] = [("--in", path or folder), ("--ckpt", ckpt), ("--words", words)]
        options += [("--set", setting) for setting in sets or ()]
        search_view.index_report(gallery, [str(part) for one in options if one[1] is not None for part in one])
