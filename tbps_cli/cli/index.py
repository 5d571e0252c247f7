"""`tbps index`: embeds folders, videos and lists of images once, so that searching them later takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import (
    BatchSize,
    Ckpt,
    DataRoot,
    Detect,
    Detector,
    Device,
    Download,
    Every,
    ImagePrecision,
    Json,
    Pattern,
    Precision,
    Sets,
    Words,
    Workers,
)


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, videos, images, patterns, lists of paths (- is standard input) or tables with columns "
            "image, camera, time, track, person, box.",
        ),
    ] = None,
    ckpt: Ckpt = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--index", metavar="FILE", help="Where to write the index, for searches with --in FILE. Default: the cache."
        ),
    ] = None,
    gallery: Annotated[
        str | None,
        typer.Option("--gallery", metavar="NAME", help="Keep the sources under a name, for searches with --in NAME."),
    ] = None,
    detect: Detect = None,
    every: Every = None,
    detector: Detector = None,
    pattern: Pattern = None,
    download: Download = False,
    precision: ImagePrecision = Precision.auto,
    batch: BatchSize = None,
    workers: Workers = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Embed images and the persons in videos, so that searches start at once. Run again, it embeds only what is new."""
    from tbps_cli.amounts import seconds
    from tbps_cli.cli import output, render, search_view
    from tbps_cli.searching import galleries
    from tbps_cli.searching.index import index
    from tbps_cli.searching.index_state import FootageSettings

    footage = FootageSettings(detect, None if every is None else seconds("--every", every), detector, pattern)
    given = list(sources or ())
    if gallery is not None:
        given = galleries.define(gallery, given) if given else galleries.sources_of(gallery)
    shown = gallery or ", ".join(given)
    with render.progress(f"Embedding {shown}", "images") as progress:
        found = index(
            ckpt,
            given,
            path,
            gallery=gallery,
            footage=footage,
            download=download,
            workers=workers,
            batch=batch,
            precision=precision.value,
            data_root=data_root,
            device=device,
            sets=sets or (),
            words=words,
            progress=progress,
        )
    output.stdout.written.append(str(path or f"the index of {shown}"))
    if as_json:
        render.document(found.document())
    else:
        places: list[object] = [path or gallery] if path or gallery else list(given)
        options: list[tuple[str, object]] = [("--in", place) for place in places]
        options += [("--ckpt", ckpt), ("--words", words)]
        options += [("--set", setting) for setting in sets or ()]
        search_view.index_report(found, [str(part) for one in options if one[1] is not None for part in one])
