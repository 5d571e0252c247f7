"""`tbps index`: embeds folders, videos and lists of images once, so that searching them later takes a moment."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli.options import BatchSize, GalleryOptions, Json
from tbps_cli.databases.urls import is_url, shown_place

if TYPE_CHECKING:
    from tbps_cli.features.encoder import Encoder
    from tbps_cli.searching.filling import Filled
    from tbps_cli.searching.gallery import Gallery
    from tbps_cli.searching.share import WorkShare


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
        list[str] | None,
        typer.Option(
            "--gallery",
            metavar="NAME-OR-URL",
            help="Keep the sources under a name, for searches with --in NAME; or bring a gallery in a database up to "
            "date with them (docs/databases.md; repeatable for its shards).",
        ),
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
    move: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--move",
            metavar="FROM TO",
            help="Copy a gallery elsewhere without embedding again: index files, names of galleries, URLs of "
            "databases; shards are URLs with blanks between them. Killed, the same command goes on.",
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            "--share",
            metavar="I/N",
            help="Embed one share of the files, while other processes or machines embed the others (3/16: the third of "
            "16). Under torchrun each process takes its own. See docs/distributed.md.",
        ),
    ] = None,
    single: Annotated[
        bool,
        typer.Option(
            "--float32",
            help="Keep the vectors of a new index in float32: twice the size of half precision, the default.",
        ),
    ] = False,
    as_json: Json = False,
    batch: BatchSize = None,
    *,
    made: GalleryOptions,
) -> None:
    """Embed images and the persons in videos, so that searches start at once. Run again, it embeds only what is new."""
    from tbps_cli.amounts import seconds
    from tbps_cli.cli import consent, output, process, render, search_view
    from tbps_cli.errors import TbpsError, UsageError
    from tbps_cli.searching import galleries
    from tbps_cli.searching.filling import fill
    from tbps_cli.searching.index import index
    from tbps_cli.searching.sources import find_sources

    if move or forget or share or any(map(is_url, gallery or ())):  # of torchrun's processes one does these
        if process.is_extra():
            raise typer.Exit
        process.leave_group()
    if move is not None:
        if sources or path or gallery or expire or forget:
            raise UsageError(
                "--move takes two places and nothing else.", "For example: --move people.h5 milvus://HOST/x"
            )
        _move(*move, as_json=as_json)
        return
    name, urls = _gallery(gallery or ())
    if path is not None and is_url(url := str(path).replace(":/", "://", 1)):  # a path has no two slashes in a row
        raise UsageError(f"--index {shown_place(url)}: an index is a file.", "A gallery in a database: --gallery URL")
    part, made, talks = _share(share, made)
    if part and urls:
        raise UsageError(
            "--share: shares fill an index, not a database.", "Then copy it: tbps index --move FILE.h5 URL"
        )
    if forget:
        _forget(forget, path, urls, as_json=as_json and not sources)
        if not sources and name is None:
            return
    period = None if expire is None else math.inf if expire == "never" else seconds("--expire", expire)
    indexing = made.indexing
    given = list(sources or ())
    if name is not None:
        given = galleries.define(name, given) if given else galleries.sources_of(name)
    shown = name or ", ".join(given)
    titled = f"{shown}, {part}" if part else shown
    listed = find_sources(given, gallery=name)

    def embed(chosen: Encoder | Path | str | None) -> Gallery:
        bar = render.progress(f"Embedding {titled}", "images", listing=f"Listing {titled}")
        with bar if talks else nullcontext() as progress:
            return index(
                chosen,
                listed,
                path,
                expire=period,
                batch=batch,
                **indexing,
                **made.model,
                progress=progress,
                share=part,
                single=single,
            )

    def embed_for_database(chosen: Path | str | None) -> tuple[Gallery, Filled | None]:
        if not urls:
            return embed(chosen), None
        return fill(urls, chosen, embed, complete=listed.complete, **made.model, watch=render.progress)

    typed = ["tbps", "index", *map(shown_place, given)]
    found, filled = consent.with_weights(embed_for_database, made.ckpt, typed, download=made.download)
    if found.update.kept:
        output.stdout.written.append(str(path or f"the index of {shown}"))
    if talks and as_json:
        render.document({**found.document(), **({"database": filled.document()} if filled else {})})
    elif talks:
        if filled:
            search_view.filled_report(filled)
        places: list[object] = [path or name] if path or name else list(map(shown_place, urls or given))
        options: list[tuple[str, object]] = [("--in", place) for place in places]
        options += [("--ckpt", made.ckpt), ("--words", made.words)]
        options += [("--set", setting) for setting in made.sets or ()]
        search_view.index_report(found, [str(part) for one in options if one[1] is not None for part in one])
    if not found.update.kept:
        raise TbpsError(f"the index of {shown} could not be written, so nothing is kept.", "See the warning above.")


def _share(given: str | None, made: GalleryOptions) -> tuple[WorkShare | None, GalleryOptions, bool]:
    """The share that this process does, on its device, and whether it talks: of torchrun's processes the first."""
    from tbps_cli.searching.share import WorkShare

    if given is not None or "MASTER_PORT" not in os.environ:
        return WorkShare.parse(given) if given is not None else None, made, True
    from tbps_cli.distributed import environment

    ranks = environment()
    if ranks.world == 1:
        return None, made, True
    return WorkShare(ranks.rank + 1, ranks.world), replace(made, device=ranks.own_device(made.device)), ranks.main


def _gallery(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name of a gallery, or the URLs of one in a database."""
    from tbps_cli.errors import UsageError

    urls = [one for one in given if is_url(one)]
    names = [one for one in given if not is_url(one)]
    if names and len(given) > 1:
        raise UsageError(
            "--gallery: several are given.", "Several URLs are the shards of one gallery; a name is alone."
        )
    return next(iter(names), None), urls


def _forget(paths: Sequence[str], index_file: Path | None, urls: Sequence[str], *, as_json: bool) -> None:
    from tbps_cli.amounts import amount
    from tbps_cli.cli import render
    from tbps_cli.searching.filling import forget_in
    from tbps_cli.searching.forget import forget

    report = forget(paths, index_file)
    title, rows = forget_in(urls, paths) if urls else ("", 0)
    if as_json:
        there = {"database": {"gallery": title, "images": rows}} if urls else {}
        render.document({"forgotten": {**report.document(), **there}})
        return
    if urls:
        render.line(f"Forgotten: {amount(rows, 'image')} in {title}")
    images = f"{amount(report.images, 'image')} in {amount(report.indexes, 'index', 'indexes')}"
    detections = amount(report.detections, "list of detections", "lists of detections")
    render.line(f"Forgotten: {images}, {amount(report.thumbnails, 'thumbnail')}, {detections}")
    for error in report.failed:
        render.note(f"{error.message} What was forgotten goes from it when it is used.")
    render.note(f"Not indexed again, as listed in {', '.join(map(str, report.lists))}")


def _move(origin: str, target: str, *, as_json: bool) -> None:
    from tbps_cli.amounts import amount
    from tbps_cli.cli import render
    from tbps_cli.searching.moving import move

    with render.progress("Copying", "rows") as progress:
        moved = move(origin, target, progress=progress)
    if as_json:
        render.document(moved.document())
        return
    render.line(
        f"{moved.target}: {amount(moved.size, 'row')} of {moved.origin}, {moved.copied:,} copied now "
        f"({moved.replaced:,} replaced), {moved.withheld:,} left out"
    )
    places = target.split() if is_url(target) else [target]
    there = " ".join(f"--in {shown_place(place)}" for place in places)
    render.line(f'{amount(moved.in_target, "row")} in all. Search them: tbps search "..." {there}')
