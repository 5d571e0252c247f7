"""One's own image-caption pairs as JSONL or CSV: image, caption, and perhaps person, camera, time, split.

Lines about the same image add captions to it. Without persons each image is its own person; without
splits the persons are dealt out 80/10/10, the same way on every machine (`deal_splits`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tbps_cli.data.layouts import records, tables
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.layouts.tables import Row
from tbps_cli.data.types import Caption, Dataset, ImageRecord, Person
from tbps_cli.errors import DataError

SUFFIXES = (*tables.LINES, *tables.TABLES)
FIELDS: tables.Fields = {
    "image": ("image", "image_path", "img_path", "file_path", "filename", "path", "file"),
    "caption": ("caption", "captions", "text", "sentence", "description"),
    "person": ("person", "person_id", "pid", "id", "identity"),
    "camera": ("camera", "camera_id", "cam"),
    "time": ("time", "timestamp"),
    "split": ("split", "set"),
}
NEEDED = ("image", "caption")
UNDECIDED = ""


def read(path: Path) -> Dataset:
    """The data set of one file; images lie beside it, or in imgs/ or images/ beside it."""
    builder = Builder(path.absolute().parent.name if path.stem in ("pairs", "captions", "data") else path.stem, path)
    for place, row in _rows(path):
        _add(builder, row, place, path)
    if not builder.images:
        raise DataError(f"{path} holds no pairs.", "Each line needs an image and a caption.")
    _decide_splits(builder, path)
    root = records.image_root(path.parent, (image.path for image in builder.images), up=0)
    return builder.finish(root)


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    text = records.read_text(path)
    if path.suffix.lower() in tables.TABLES:
        yield from tables.csv_rows(text, FIELDS, str(path), sentence="caption", required=NEEDED)
        return
    for place, record in tables.entries(path, text, str(path)):
        if not isinstance(record, dict):
            raise DataError(f"{path}: {place} is not an object.", 'For example {"image": ..., "caption": ...}')
        yield place, tables.fields_of(record, FIELDS, str(path), place)


def _add(builder: Builder, row: Row, place: str, path: Path) -> None:
    for needed in NEEDED:
        if needed not in row:
            raise DataError(f"{path}: {place} has no {needed}.", f"It may be called {', '.join(FIELDS[needed])}.")
    where = records.as_path(row["image"], place, path)
    texts = records.as_captions(row["caption"], place, path)
    image = ImageRecord(
        where,
        records.as_person(row["person"], place, path) if "person" in row else where,
        records.as_split(row["split"], place, path) if "split" in row else UNDECIDED,
        _word(row, "camera"),
        _word(row, "time"),
    )
    builder.captions += [Caption(text, _place(builder, image, place, path)) for text in texts]


def _word(row: Row, field: str) -> str | None:
    return records.whole_text(str(row[field]).strip()) if field in row else None


def _place(builder: Builder, image: ImageRecord, place: str, path: Path) -> int:
    """The number of the image, new or known; a known one must be described alike."""
    known = builder.known(image.split, image.path)
    if known is None:
        return builder.image(image)
    if builder.images[known].person != image.person:
        raise DataError(
            f"{path}: {place} gives {image.path} to person {image.person}, "
            f"an earlier one to {builder.images[known].person}."
        )
    return known


def _decide_splits(builder: Builder, path: Path) -> None:
    undecided = [image for image in builder.images if image.split == UNDECIDED]
    if not undecided:
        return
    if len(undecided) != len(builder.images):
        raise DataError(
            f"{path}: {len(undecided):,} of {len(builder.images):,} images have no split (first: {undecided[0].path}).",
            "State it for all of them, or for none.",
        )
    of_person = deal_splits(image.person for image in undecided)
    builder.images = [replace(image, split=of_person[image.person]) for image in builder.images]
    builder.notes.append("no split is stated: persons are dealt out 80/10/10 into train, val and test by their names")


def deal_splits(persons: Iterable[Person]) -> dict[Person, str]:
    """Person -> split: about 80/10/10, at least one person each in val and test when there are three.

    Persons are ordered by a hash of their names, so the result depends on neither the order of the
    file nor the machine.
    """
    distinct = sorted(set(persons), key=lambda person: hashlib.blake2b(repr(person).encode()).digest())
    count = len(distinct)
    held = max(1, round(count / 10)) if count >= 3 else 0
    return {
        person: "val" if place < held else "test" if place < 2 * held else "train"
        for place, person in enumerate(distinct)
    }
