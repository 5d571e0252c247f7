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
    time_G = rows.columns["time"].astype(f"S{max(rows.columns['time'].dtype.itemsize, 19)}")
    alike_G = times_alike(time_G)
    clock_G = clock_of(Texts(alike_G)).text_V
    return [
        _record(row, time.decode("utf-8", "surrogateescape"), clock.decode("utf-8", "surrogateescape"))
        for row, time, clock in zip(rows, alike_G.tolist(), clock_G.tolist(), strict=True)
    ]


def _record(row: Row, time: str, clock: str) -> Record:
    """time, clock: as filters compare them, "" where unknown."""
    x, y, width, height = row.box or (None, None, None, None)
    detection = None if row.detection is None else round(float(np.float32(row.detection)), DIGITS)
    return (
        *_text(row.path),
        row.size,
        row.mtime,
        row.content,
        *_text(row.camera),
        *_text(time),
        kept(row.time) if row.time and row.time != time else None,
        *_text(clock),
        *_text(None if row.person is None else str(row.person)),
        None if row.person is None else json.dumps(row.person),
        *_text(row.source),
        row.seconds,
        x,
        y,
        width,
        height,
        *_text(row.track),
        row.detection,
        detection,
    )


def _text(value: str | None) -> tuple[str | None, float | None]:
    """A text as it is kept, and the number that it spells; an empty one is unknown."""
    return (kept(value), number(value)) if value else (None, None)


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
