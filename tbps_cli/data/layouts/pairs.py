"""One's own image-caption pairs as JSONL or CSV: image, caption, and perhaps person, camera, time, split.

Lines about the same image add captions to it. Without persons each image is its own person; without
splits the persons are dealt out 80/10/10, the same way on every machine (`deal_splits`).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.records import Builder, Record
from tbps_cli.data.types import Caption, Dataset, ImageRecord, Person
from tbps_cli.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
COLUMNS = {
    "image": ("image", "image_path", "img_path", "file_path", "filename", "path", "file"),
    "caption": ("caption", "captions", "text", "sentence", "description"),
    "person": ("person", "person_id", "pid", "id", "identity"),
    "camera": ("camera", "camera_id", "cam"),
    "time": ("time", "timestamp"),
    "split": ("split", "set"),
}
"""Our name for a field -> the names that users give it."""
UNDECIDED = ""


def read(path: Path) -> Dataset:
    """The data set of one file; images lie beside it, or in imgs/ or images/ beside it."""
    rows = _csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else _json_rows(path)
    builder = Builder(path.parent.name if path.stem in ("pairs", "captions", "data") else path.stem, path)
    for number, row in rows:
        _add(builder, row, number, path)
    if not builder.images:
        raise DataError(f"{path} holds no pairs.", "Each line needs an image and a caption.")
    _decide_splits(builder, path)
    root = records.image_root(path.parent, (image.path for image in builder.images), up=0)
    return builder.finish(root)


def _json_rows(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(records.read_text(path).split("\n"), start=1):
        if line.strip():
            row = records.parse_json(line, f"{path}, line {number},")
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: line {number} is not an object.", 'For example {"image": ..., "caption": ...}'
                )
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Record]]:
    text = records.read_text(path)
    header = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: line {reader.line_num} has not as many fields as the header.",
                    'Put captions that hold the delimiter into "quotes".',
                )
            yield reader.line_num, {key: value for key, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}.") from None


def _value(row: Record, field: str) -> object:
    return next((row[name] for name in COLUMNS[field] if name in row), None)


def _add(builder: Builder, row: Record, number: int, path: Path) -> None:
    for needed in ("image", "caption"):
        if _value(row, needed) is None:
            raise DataError(
                f"{path}: record {number} has no {needed}.", f"It may be called {', '.join(COLUMNS[needed])}."
            )
    where = records.as_path(_value(row, "image"), number, path)
    texts = records.as_captions(_value(row, "caption"), number, path)
    person = _value(row, "person")
    split = _value(row, "split")
    camera, time = (None if value is None else str(value) for value in (_value(row, "camera"), _value(row, "time")))
    image = ImageRecord(
        where,
        where if person is None else records.as_person(person, number, path),
        UNDECIDED if split is None else records.as_split(split, number, path),
        camera,
        time,
    )
    builder.captions += [Caption(text, _place(builder, image, number, path)) for text in texts]


def _place(builder: Builder, image: ImageRecord, number: int, path: Path) -> int:
    """The number of the image, new or known; a known one must be described alike."""
    known = builder.known(image.split, image.path)
    if known is None:
        return builder.image(image)
    if builder.images[known].person != image.person:
        raise DataError(
            f"{path}: record {number} gives {image.path} to person {image.person}, "
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
