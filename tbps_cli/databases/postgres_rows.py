"""Rows of a gallery as records of PostgreSQL, and back.

Besides what a `Row` has, a record holds what filters compare: the numbers that texts spell, the time of day, times
written alike, the detector's score as a filter sees it. So a filter means the same there as over an index file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector

from tbps_cli.databases.texts import as_it_was, kept
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.columns import Texts, clock_of, times_alike
from tbps_cli.filtering.tree import number

KINDS = {
    "path": "text",
    "path_number": "float8",
    "size": "int8",
    "mtime": "int8",
    "content": "text",
    "camera": "text",
    "camera_number": "float8",
    "time": "text",
    "time_number": "float8",
    "time_written": "text",
    "clock": "text",
    "clock_number": "float8",
    "person": "text",
    "person_number": "float8",
    "person_json": "text",
    "source": "text",
    "source_number": "float8",
    "seconds": "float8",
    "x": "int4",
    "y": "int4",
    "width": "int4",
    "height": "int4",
    "track": "text",
    "track_number": "float8",
    "detection": "float4",
    "detection_rounded": "float8",
}
"""The columns of a record besides id and vector, and their types."""
READ = (
    "path",
    "size",
    "mtime",
    "content",
    "camera",
    "coalesce(time_written, time)",
    "person_json",
    "source",
    "seconds",
    "x",
    "y",
    "width",
    "height",
    "track",
    "detection",
    "vector",
)
"""What a row is read from."""
DIGITS = 6
"""Of a detector's score in a filter, as in `searching.gallery`."""
Record = tuple[Any, ...]


def records(rows: Rows) -> list[Record]:
    """The records of rows, with the columns of `KINDS`."""
    column, count = rows.columns, len(rows)
    time_G = times_alike(column["time"].astype(f"S{max(column['time'].dtype.itemsize, len('2026-01-31T18:05:00'))}"))
    times = zip(_plain(column["time"]), _plain(time_G), strict=True)
    box_G4 = np.where(column["box"][:, 2:3] > 0, column["box"], 0).tolist()
    rounded_G = column["detection"].astype(np.float64).round(DIGITS)
    parts: list[Sequence[tuple[Any, ...]]] = [
        _texts(column["path"]),
        list(zip(column["size"].tolist(), column["mtime"].tolist(), _plain(column["content"], ""), strict=True)),
        _texts(column["camera"]),
        _texts(time_G),
        [(written if written != alike else None,) for written, alike in times],
        _texts(clock_of(Texts(time_G)).text_V),
        _persons(column["person"]),
        _texts(column["source"]),
        [(value,) for value in _numbers(column["seconds"])],
        [tuple(box) if box[2] else (None,) * 4 for box in box_G4],
        _texts(column["track"]),
        list(zip(_numbers(column["detection"]), _numbers(rounded_G), strict=True)),
    ]
    return [sum(values, ()) for values in zip(*parts, strict=True)] if count else []


def _texts(text_G: NDArray[np.bytes_]) -> list[tuple[str | None, float | None]]:
    """Texts as they are kept, each with the number that it spells; an empty one is unknown."""
    known = {text: _text(text.decode("utf-8", "surrogateescape")) for text in set(text_G.tolist())}
    return [known[text] for text in text_G.tolist()]


def _text(text: str) -> tuple[str | None, float | None]:
    return (kept(text), number(text)) if text else (None, None)


def _plain(text_G: NDArray[np.bytes_], nothing: str | None = None) -> list[str | None]:
    known = {text: kept(text.decode("utf-8", "surrogateescape")) or nothing for text in set(text_G.tolist())}
    return [known[text] for text in text_G.tolist()]


def _persons(person_G: NDArray[np.bytes_]) -> list[tuple[str | None, float | None, str | None]]:
    """As a filter compares them, and as JSON, in which 12 and "12" are two."""
    known: dict[bytes, tuple[str | None, float | None, str | None]] = {}
    for stored in set(person_G.tolist()):
        person = json.loads(stored or b"null")
        text = None if person is None else str(person)
        known[stored] = (*_text(text or ""), None if person is None else json.dumps(person))
    return [known[stored] for stored in person_G.tolist()]


def _numbers(value_G: NDArray[Any]) -> list[float | None]:
    """NaN is unknown."""
    return [None if value != value else value for value in value_G.tolist()]


def read(found: Iterable[Record]) -> tuple[Rows, list[Any]]:
    """The rows of records with the columns of `READ`, and their vectors as the client gives them."""
    listed = list(found)
    return Rows.of([_row(record) for record in listed]), [record[-1] for record in listed]


def _row(record: Record) -> Row:
    path, size, mtime, content, camera, time, person, source, seconds, x, y, width, height, track, detection, _ = record
    return Row(
        as_it_was(path),
        size,
        mtime,
        content,
        _was(camera),
        _was(time),
        json.loads(person or "null"),
        _was(source),
        None if seconds is None or math.isnan(seconds) else seconds,
        (x, y, width, height) if width else None,
        _was(track),
        detection,
    )


def _was(text: str | None) -> str | None:
    return None if text is None else as_it_was(text)


def vectors(found: Sequence[Any], width: int, kind: str) -> NDArray[Any]:
    """[N, width], in the type in which the vectors are stored."""
    dtype = np.float16 if kind == "halfvec" else np.float32
    return np.stack([one.to_numpy() for one in found]) if found else np.zeros((0, width), dtype)


def wrapped(vector_E: NDArray[Any], kind: str) -> HalfVector | Vector:
    """A vector as the client sends it."""
    return HalfVector(vector_E) if kind == "halfvec" else Vector(vector_E)
