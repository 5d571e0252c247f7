"""Lists and tables of files: paths a line, JSON, JSONL and CSV, with what they know of each file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tbps_cli.data.layouts import pairs, records, tables
from tbps_cli.errors import DataError
from tbps_cli.features.rows import Box
from tbps_cli.features.taken import parse_time
from tbps_cli.files import expanded
from tbps_cli.searching.listed import HINT, FileFacts, Listed

FIELDS: tables.Fields = {
    **{field: names for field, names in pairs.FIELDS.items() if field in ("image", "person", "camera", "time")},
    "track": ("track", "track_id", "tracklet"),
    "box": ("box", "bbox", "xywh"),
}
_BOX = re.compile(r"\[?\s*" + r"\s*[,; ]\s*".join([r"(\d+(?:\.\d+)?)"] * 4) + r"\s*\]?")


def of_lines(text: str, folder: Path) -> Iterator[Listed]:
    """The paths of a text, one a line, or with NUL bytes between them as `find -print0` writes them."""
    separated = text.split("\0") if "\0" in text else tables.split_lines(text)
    for number, line in enumerate(separated, 1):
        if line.strip():
            yield Listed(f"line {number}", folder / expanded(Path(line)), FileFacts())


def of_file(path: Path) -> Iterator[Listed]:
    """The files that a list or table names. Raises DataError where it cannot be understood."""
    kind, name = path.suffix.lower(), str(path)
    text = records.read_text(path)
    if kind in (".txt", ".lst"):
        yield from of_lines(text, path.parent)
    elif kind in tables.TABLES:
        for place, row in tables.csv_rows(text, FIELDS, name, sentence="image", required=("image",)):
            yield _entry(row, name, place, path.parent)
    else:
        for place, value in tables.entries(path, text, name):
            record = {"image": value} if isinstance(value, str) else value
            if not isinstance(record, dict):
                raise DataError(f"{name}: {place} is neither a path nor a record.", HINT)
            yield _entry(tables.fields_of(record, FIELDS, name, place), name, place, path.parent)


def _entry(row: tables.Row, name: str, place: str, folder: Path) -> Listed:
    file = row.get("image")
    if not isinstance(file, str) or not file.strip() or "\0" in file:
        raise DataError(f"{name}: {place} has no image.", HINT)
    person = row.get("person")
    known = None if person in (None, "") else records.as_person(person, place, name)
    time = row.get("time")
    facts = FileFacts(
        _text(row.get("camera")),
        None if time is None else parse_time(str(time)) or str(time),
        known,
        _text(row.get("track")),
        _box(row["box"], name, place) if "box" in row else None,
    )
    return Listed(place, folder / expanded(Path(file.strip())), facts)


def _text(value: object) -> str | None:
    return None if value is None else str(value).strip() or None


def _box(value: object, name: str, place: str) -> Box:
    written = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    numbers = _BOX.fullmatch(written.strip())
    x, y, width, height = (round(float(part)) for part in numbers.groups()) if numbers else (0, 0, 0, 0)
    if not width or not height:
        raise DataError(
            f"{name}: {place} has the box {written:.60}.", "A box is x, y, width, height in pixels: 120,80,40,96"
        )
    return x, y, width, height
