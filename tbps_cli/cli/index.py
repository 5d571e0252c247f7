"""`tbps index`: embeds folders, videos and lists of images once, so that searching them later takes a moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    footage_settings,
)

if TYPE_CHECKING:
    from tbps_cli.searching.gallery import Gallery


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders, videos, images, patterns, lists of paths (- is standard input) or tables with columns "
            "image, camera, time, track, person, box.",
        ),
    ] = None,
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
    expire: Annotated[
        str | None,
        typer.Option(
            "--expire",
            metavar="TIME",
            help="Remove what is older, now and at every later use (30d, 12h); never: end that. See "
            "docs/responsible-use.md.",
        ),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            "--forget",
            metavar="PATH",
            help="Remove a file, a folder or one crop from all indexes, and never index it again; repeatable.",
        ),
    ] = None,
    detect: Detect = None,
    every: Every = None,
    detector: Detector = None,
    pattern: Pattern = None,
    ckpt: Ckpt = None,
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
    from tbps_cli.cli import consent, output, render, search_view
    from tbps_cli.errors import TbpsError
    from tbps_cli.searching import galleries
    from tbps_cli.searching.index import index

    if forget:
        _forget(forget, path, as_json=as_json and not sources)
        if not sources and gallery is None:
            return
    period = None if expire is None else math.inf if expire == "never" else seconds("--expire", expire)
    footage = footage_settings(detect, every, detector, pattern)
    given = list(sources or ())
    if gallery is not None:
        given = galleries.define(gallery, given) if given else galleries.sources_of(gallery)
    shown = gallery or ", ".join(given)

    def embed(chosen: Path | str | None) -> Gallery:
        with render.progress(f"Embedding {shown}", "images", listing=f"Listing {shown}") as progress:
            return index(
                chosen,
                given,
                path,
                gallery=gallery,
                footage=footage,
                download=download,
                expire=period,
                workers=workers,
                batch=batch,
                precision=precision.value,
                data_root=data_root,
                device=device,
                sets=sets or (),
                words=words,
                progress=progress,
            )

    found = consent.with_weights(embed, ckpt, ["tbps", "index", *given], download=download)
    if found.update.kept:
        output.stdout.written.append(str(path or f"the index of {shown}"))
    if as_json:
        render.document(found.document())
    else:
        places: list[object] = [path or gallery] if path or gallery else list(given)
        options: list[tuple[str, object]] = [("--in", place) for place in places]
        options += [("--ckpt", ckpt), ("--words", words)]
        options += [("--set", setting) for setting in sets or ()]
        search_view.index_report(found, [str(part) for one in options if one[1] is not None for part in one])
    if not found.update.kept:
        raise TbpsError(f"the index of {shown} could not be written, so nothing is kept.", "See the warning above.")


def _forget(paths: Sequence[str], index_file: Path | None, *, as_json: bool) -> None:
    from tbps_cli.amounts import amount
    from tbps_cli.cli import render
    from tbps_cli.searching.forget import forget

    report = forget(paths, index_file)
    if as_json:
        render.document({"forgotten": report.document()})
        return
    images = f"{amount(report.images, 'image')} in {amount(report.indexes, 'index', 'indexes')}"
    detections = amount(report.detections, "list of detections", "lists of detections")
    render.line(f"Forgotten: {images}, {amount(report.thumbnails, 'thumbnail')}, {detections}")
    for error in report.failed:
        render.note(f"{error.message} What was forgotten goes from it when it is used.")
    render.note(f"Not indexed again, as listed in {', '.join(map(str, report.lists))}")
