"""`tbps search`: the images that fit a sentence, in a folder, an index or the run's own test set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli.options import Ckpt, DataRoot, Device, Json, Sets, Words, Workers

if TYPE_CHECKING:
    from tbps_cli.models.exported import ExportedModel
    from tbps_cli.models.model import Model
    from tbps_cli.search.gallery import Gallery
    from tbps_cli.search.query import Answer, Query


class Part(StrEnum):
    train = "train"
    val = "val"
    test = "test"


def command(
    query: Annotated[str | None, typer.Argument(help="What the person looks like, in a sentence.")] = None,
    place: Annotated[
        Path | None,
        typer.Option(
            "--in", metavar="DIR-OR-INDEX", help="A folder of images, or an index. Default: the run's own test set."
        ),
    ] = None,
    ckpt: Ckpt = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Images to show.")] = 10,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="An image to search by, alone or with the sentence.")
    ] = None,
    minus: Annotated[str | None, typer.Option("--minus", metavar="TEXT", help="What it should not be.")] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPR", help="Only images that fit, e.g. 'camera == \"c1\"'; see docs."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="X", help="Leave out images with a lower cosine.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help="Many queries: text lines, JSON, JSONL or CSV; - is stdin."),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print hits as CSV.")] = False,
    as_paths: Annotated[bool, typer.Option("--paths", help="Print the files alone, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="With --paths: end each with NUL, for xargs -0.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page with thumbnails.")
    ] = None,
    copy_to: Annotated[
        Path | None, typer.Option("--copy-to", metavar="DIR", help="Copy the hits into a new folder.")
    ] = None,
    split: Annotated[Part, typer.Option("--split", help="Without --in: which images of the data set.")] = Part.test,
    data_root: DataRoot = None,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    workers: Workers = None,
) -> None:
    """Rank images for a sentence, an image, or both."""
    from tbps_cli.cli import render
    from tbps_cli.errors import UsageError
    from tbps_cli.files import check_new_folder
    from tbps_cli.search.where import parse

    if as_json + as_csv + (as_paths or null) > 1:
        raise UsageError("--json, --csv and --paths exclude each other.", "Leave all but one out.")
    asked = _queries(query, image, minus, queries)
    keep = parse(where) if where is not None else None
    _check_files(place, html)
    if copy_to:
        check_new_folder("--copy-to", copy_to, inside=True)
    from tbps_cli.models import open_model
    from tbps_cli.search.query import answers

    model = open_model(ckpt, device=device, sets=sets or (), words=words)
    gallery = _gallery(model, place, split, data_root, workers)
    found = answers(model, gallery, asked, top=top, where=keep, min_score=min_score)
    # Files first: whoever reads the output may leave early (tbps search ... | head).
    _keep(found, gallery, str(model.path), html, copy_to)
    _print(found, gallery, str(model.path), "json" if as_json else "csv" if as_csv else "", as_paths, null, queries)
    if not any(answer.hits for answer in found):
        render.note("No image fits." if gallery else "There are no images.")


def _queries(query: str | None, image: Path | None, minus: str | None, file: Path | None) -> list[Query]:
    from tbps_cli.errors import UsageError
    from tbps_cli.search.queries import read_queries
    from tbps_cli.search.query import Query

    if file is not None:
        if query is not None or image is not None or minus is not None:
            raise UsageError("--queries and a single query exclude each other.", "Leave one of them out.")
        return read_queries(file)
    if image is not None and not image.is_file():
        raise UsageError(f"--image {image}: there is no such file.")
    return [Query(query, image, minus)]


def _check_files(place: Path | None, html: Path | None) -> None:
    from tbps_cli.errors import DataError
    from tbps_cli.files import check_new_file

    check_new_file("--html", html, (".html", ".htm"))
    if place is not None and not place.expanduser().exists():
        raise DataError(f"--in {place}: there is no such folder or index.", "Give a folder of images.")


def _gallery(
    model: Model | ExportedModel, place: Path | None, split: str, data_root: Path | None, workers: int | None
) -> Gallery:
    from tbps_cli.cli import render, search_view

    if place is None:
        return _own_test_set(model, split, data_root, workers)
    place = place.expanduser()
    if place.is_file():
        from tbps_cli.search.index import open_index

        return open_index(model, place)
    from tbps_cli.search.index import index

    with render.progress(f"Embedding {place}", "images") as progress:
        gallery = index(model, place, workers=workers, progress=progress)
    search_view.index_line(gallery)
    return gallery


def _own_test_set(model: Model | ExportedModel, split: str, data_root: Path | None, workers: int | None) -> Gallery:
    from tbps_cli.cli import render
    from tbps_cli.data.open import open_dataset
    from tbps_cli.errors import UsageError
    from tbps_cli.places import data_root as place_of
    from tbps_cli.search.dataset import of_split

    if not model.data:
        raise UsageError(f"{model.path} does not say which data set it belongs to.", "Name a folder: --in DIR")
    exclude = model.recipe.data.exclude if model.recipe else None
    dataset = open_dataset(model.data, place_of(data_root), exclude=Path(exclude) if exclude else None)
    with render.progress(f"Embedding {dataset.name} {split}", "images") as progress:
        return of_split(model, dataset.split(split), workers=workers, progress=progress)


def _print(
    found: list[Answer], gallery: Gallery, run: str, form: str, as_paths: bool, null: bool, queries: Path | None
) -> None:
    from tbps_cli.cli import output, render, search_view
    from tbps_cli.search import document

    if form == "json":
        documents = [document.document(answer, gallery, run) for answer in found]
        render.document(documents if queries is not None else documents[0])
    elif form == "csv":
        output.stdout.write_exactly(document.table(found))
    elif as_paths or null:
        output.stdout.write_bytes(document.paths(found, b"\0" if null else b"\n"))
    else:
        search_view.hits(found, gallery)


def _keep(found: list[Answer], gallery: Gallery, run: str, html: Path | None, copy_to: Path | None) -> None:
    from tbps_cli.cli import render

    if html:
        from tbps_cli.files import write_bytes
        from tbps_cli.search.hits import page

        with render.progress("Thumbnails") as progress:
            text = page(found, gallery, run, progress=progress)
        write_bytes(html, text.encode("utf-8", "replace"))
        render.note(f"Written: {html}")
    if copy_to:
        from tbps_cli.search.hits import copy_hits

        render.note(f"Copied: {copy_hits(found, copy_to)} images to {copy_to}")
