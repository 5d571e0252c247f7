"""Rows of a gallery as records of PostgreSQL, and back.

Besides what a `Row` has, a record holds what filters compare: the numbers that texts spell, the time of day, times
written alike, the detector's score as a filter sees it. So a filter means the same there as over an index file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.texts import as_it_was, kept
from tbps_cli.features.rows import Rows, encoded, texts
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
"""What a row is read from, as the client gives it."""
HEADER, END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
"""Before and behind the rows of a COPY in the binary form, in which each value stands behind its length in bytes."""
_NULL = b"\xff\xff\xff\xff"
"""The length of a value that is not there."""
_SPELLING = b"0123456789.+-eE"
"""All that may stand in a text that spells a number."""
_VALUES = (len(KINDS) + 2).to_bytes(2, "big")
"""How many values a row has, with number and vector."""


def sent(rows: Rows, number_N: NDArray[np.int64] | None, vector_NE: NDArray[Any], kind: str) -> bytes:
    """Rows in the binary form of COPY: each its number (None: no row has one), the columns of `KINDS`, its vector."""
    column, count = rows.columns, len(rows)
    time_N = times_alike(column["time"].astype(f"S{max(column['time'].dtype.itemsize, len('2026-01-31T18:05:00'))}"))
    written_N = np.where(column["time"] == time_N, b"", column["time"])
    box_N4 = column["box"]
    boxes = _fixed(*((box_N4[:, side], ">i4") for side in range(4)))
    rounded_N = column["detection"].astype(np.float64).round(DIGITS)
    parts: list[Iterable[bytes]] = [
        repeat(_VALUES + _NULL, count) if number_N is None else [_VALUES + one for one in _fixed((number_N, ">i8"))],
        _each(column["path"], _text_and_number),
        _fixed((column["size"], ">i8"), (column["mtime"], ">i8")),
        _each(column["content"], _text),
        _each(column["camera"], _text_and_number),
        _each(time_N, _text_and_number),
        _each(written_N, lambda text: _text(text) if text else _NULL),
        _each(_spread(clock_of(Texts(time_N))), _text_and_number),
        _each(column["person"], _person),
        _each(column["source"], _text_and_number),
        _numbers(column["seconds"], ">f8"),
        [one if width > 0 else 4 * _NULL for one, width in zip(boxes, box_N4[:, 2].tolist(), strict=True)],
        _each(column["track"], _text_and_number),
        _numbers(column["detection"], ">f4"),
        _numbers(rounded_N, ">f8"),
        _vectors(vector_NE, kind),
    ]
    return b"".join(map(b"".join, zip(*parts, strict=True)))


def _spread(texts: Texts) -> NDArray[np.bytes_]:
    """A text for each row."""
    return texts.text_V if texts.code_G is None else texts.text_V[texts.code_G]


def _each(text_N: NDArray[np.bytes_], make: Callable[[bytes], bytes]) -> list[bytes]:
    """What is made of each text; of equal ones once."""
    listed = text_N.tolist()
    known = {text: make(text) for text in set(listed)}
    return [known[text] for text in listed]


def _text(text: bytes) -> bytes:
    """A text as it is kept."""
    if not text.isascii() or 0 in text:
        text = kept(text.decode("utf-8", "surrogateescape")).encode()
    return len(text).to_bytes(4, "big") + text


def _text_and_number(text: bytes) -> bytes:
    """A text, and the number that it spells; an empty one is unknown."""
    if not text:
        return 2 * _NULL
    spelt = None if text.translate(None, _SPELLING) else number(text.decode())
    return _text(text) + (_NULL if spelt is None else struct.pack(">id", 8, spelt))


def _person(stored: bytes) -> bytes:
    """As a filter compares persons, and as JSON, in which 12 and "12" are two."""
    person = json.loads(stored.decode("utf-8", "surrogateescape") or "null")
    if person is None:
        return 3 * _NULL
    spelt = str(person)
    text = spelt.encode() if spelt.isascii() else encoded(spelt)
    return _text_and_number(text) + _text(json.dumps(person).encode())


def _numbers(value_N: NDArray[Any], kind: str) -> list[bytes]:
    """NaN is unknown."""
    unknown = np.isnan(value_N).tolist()
    return [_NULL if missing else one for one, missing in zip(_fixed((value_N, kind)), unknown, strict=True)]


def _fixed(*columns: tuple[NDArray[Any], str]) -> list[bytes]:
    """Values of a fixed size, those of several columns behind each other."""
    parts = [
        (f"{part}{place}", of) for place, (_, kind) in enumerate(columns) for part, of in (("n", ">i4"), ("v", kind))
    ]
    made_N = np.empty(len(columns[0][0]), np.dtype(parts))
    for place, (value_N, kind) in enumerate(columns):
        made_N[f"n{place}"], made_N[f"v{place}"] = np.dtype(kind).itemsize, value_N
    return _cut(made_N)


def _vectors(vector_NE: NDArray[Any], kind: str) -> list[bytes]:
    """Vectors as pgvector reads them: how many numbers, two bytes of nothing, and the numbers."""
    width = vector_NE.shape[1]
    value = np.dtype((">f2" if kind == "halfvec" else ">f4", (width,)))
    made_N = np.zeros(len(vector_NE), np.dtype([("n", ">i4"), ("width", ">i2"), ("nothing", ">i2"), ("value", value)]))
    made_N["n"], made_N["width"], made_N["value"] = 4 + value.itemsize, width, vector_NE
    return _cut(made_N)


def _cut(made_N: NDArray[Any]) -> list[bytes]:
    """The bytes of each entry."""
    content, size = made_N.tobytes(), made_N.dtype.itemsize
    return [content[start : start + size] for start in range(0, len(content), size)]


def read(found: Sequence[Record]) -> tuple[Rows, list[Any]]:
    """The rows of records with the columns of `READ`, and their vectors as the client gives them."""
    if not found:
        return Rows.of([]), []
    (
        path,
        size,
        mtime,
        content,
        camera,
        time,
        person,
        source,
        seconds,
        x,
        y,
        width,
        height,
        track,
        detection,
        vector,
    ) = zip(*found, strict=True)
    box_K4 = np.array([[side or 0 for side in box] for box in zip(x, y, width, height, strict=True)], np.int32)
    columns = {
        "path": _texts(path),
        "size": np.array(size, np.int64),
        "mtime": np.array(mtime, np.int64),
        "content": _texts(content),
        "camera": _texts(camera),
        "time": _texts(time),
        "person": texts([stored or "null" for stored in person]),
        "source": _texts(source),
        "seconds": np.array(seconds, np.float64),
        "box": np.where(box_K4[:, 2:3] > 0, box_K4, 0),
        "track": _texts(track),
        "detection": np.array(detection, np.float32),
    }
    return Rows(columns), list(vector)


def _texts(found: Sequence[str | None]) -> NDArray[np.bytes_]:
    """Texts as they were; one that is unknown is empty."""
    return texts([as_it_was(text) if text else "" for text in found])


def vectors(found: Sequence[Any], width: int, kind: str) -> NDArray[Any]:
    """[N, width], in the type in which the vectors are stored."""
    dtype = np.float16 if kind == "halfvec" else np.float32
    return np.stack([one.to_numpy() for one in found]) if found else np.zeros((0, width), dtype)
