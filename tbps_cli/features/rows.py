"""What the vectors of a feature file belong to: one `Row` each, held as columns.

Text columns are fixed-width UTF-8 bytes, which HDF5 reads at once; they are decoded where somebody
looks at them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person

Array = NDArray[Any]
Box: TypeAlias = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


@dataclass(frozen=True)
class Row:
    """What one vector belongs to. `path` names it in its gallery; `mtime` is what `change_time` gives."""

    path: str
    size: int = 0
    mtime: int = 0
    content: str = ""
    """`content_hash` of the bytes: equal images are embedded once, whatever their path."""
    camera: str | None = None
    time: str | None = None
    person: Person | None = None
    source: str | None = None
    """The video or whole frame that this is a crop of, named as `path` is; None: the file is the crop itself."""
    seconds: float | None = None
    """Into the video."""
    box: Box | None = None
    """Where the crop lies in its source: x, y, width, height in pixels."""
    track: str | None = None
    """The same person followed through its source, as far as a tracker could."""
    detection: float | None = None
    """How sure the detector was, 0 to 1."""


COLUMNS = ("path", "size", "mtime", "content", "camera", "time", "person")
"""Those that every file has."""
CROP_COLUMNS = ("source", "seconds", "box", "track", "detection")
"""Those of crops; a file without such rows does not have them."""
KINDS: Mapping[str, str] = {"size": "i8", "mtime": "i8", "seconds": "f8", "box": "i4", "detection": "f4"}
"""Numeric columns; the others are texts."""
_NO_BOX = (0, 0, 0, 0)


class Rows(Sequence[Row]):
    """Many rows as columns, so that a million of them load at once; indexing gives a `Row`."""

    def __init__(self, columns: Mapping[str, Array] | Lined) -> None:
        self.columns = columns if isinstance(columns, Lined) else _with_crops(columns)
        self._paths: list[str] | None = None
        self._sources: list[str] | None = None
        self._count = columns.count if isinstance(columns, Lined) else len(columns["path"])

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Columns of the given rows."""
        values = [_stored(row) for row in rows]
        names = (*COLUMNS, *CROP_COLUMNS)
        columns: list[tuple[Any, ...]] = list(zip(*values, strict=True)) or [()] * len(names)
        made = {
            name: np.array(column, KINDS.get(name, "S" if column else "S1"))
            for name, column in zip(names, columns, strict=True)
        }
        return cls({**made, "box": made["box"].reshape(-1, 4)})

    @classmethod
    def joined(cls, parts: Sequence[Rows], place: Array | None = None) -> Rows:
        """The rows of all parts, one after another, or those at these places of them."""
        if not parts:
            return cls.of([])
        if len(parts) == 1 and place is None:
            return parts[0]
        return cls(Lined([part.columns for part in parts], [len(part) for part in parts], place))

    def take(self, index: Array) -> Rows:
        """The rows at these places, or where this mask is true."""
        index = np.asarray(index)
        if isinstance(self.columns, Lined):
            return Rows(self.columns.take(np.flatnonzero(index) if index.dtype == bool else index))
        return Rows({name: column[index] for name, column in self.columns.items()})

    @property
    def paths(self) -> list[str]:
        """Every path, decoded once."""
        if self._paths is None:
            self._paths = [_text(value) for value in self.columns["path"].tolist()]
        return self._paths

    @property
    def sources(self) -> list[str]:
        """The source of every row, "" for those that are no crops; decoded once."""
        if self._sources is None:
            self._sources = [_text(value) for value in self.columns["source"].tolist()]
        return self._sources

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        columns: Mapping[str, Array] = self.columns
        if isinstance(columns, Lined):  # one row joins no columns
            columns, index = columns.at(int(index))
        source, track = _text(columns["source"][index]), _text(columns["track"][index])
        x, y, width, height = columns["box"][index].tolist()
        return Row(
            _text(columns["path"][index]),
            int(columns["size"][index]),
            int(columns["mtime"][index]),
            _text(columns["content"][index]),
            _text(columns["camera"][index]) or None,
            _text(columns["time"][index]) or None,
            json.loads(_text(columns["person"][index]) or "null"),
            source or None,
            _number(columns["seconds"][index]),
            (x, y, width, height) if width else None,
            track or None,
            _number(columns["detection"][index]),
        )

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns that a file needs: those of crops only where a row is one."""
        crops = any(self.columns[name].any() for name in ("source", "track", "box"))
        crops = crops or any(not np.isnan(self.columns[name]).all() for name in ("seconds", "detection"))
        return (*COLUMNS, *CROP_COLUMNS) if crops else COLUMNS

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


class Lined(Mapping[str, Array]):
    """The columns of several files, lined up. A column is joined when somebody asks for it, and then kept."""

    def __init__(self, parts: Sequence[Mapping[str, Array]], lengths: Sequence[int], place: Array | None) -> None:
        """place: the rows that count, in this order, as places in all of them; None: all."""
        self.parts, self.lengths, self.place = list(parts), list(lengths), place
        self.end = np.cumsum(self.lengths)
        self.count = int(self.end[-1]) if place is None else len(place)
        self._joined: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._joined:
            self._joined[name] = self._column([part[name] for part in self.parts])
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts[0])

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, index: Array) -> Lined:
        """Some of the rows."""
        return Lined(self.parts, self.lengths, index if self.place is None else self.place[index])

    def at(self, index: int) -> tuple[Mapping[str, Array], int]:
        """The columns of the file that has a row, and where it stands in them."""
        if not -self.count <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        place = index % self.count if self.place is None else int(self.place[index])
        part = int(np.searchsorted(self.end, place, "right"))
        return self.parts[part], place - int(self.end[part]) + self.lengths[part]

    def _column(self, columns: list[Array]) -> Array:
        if all(column.strides[0] == 0 for column in columns if len(column)):  # nothing, repeated: takes no memory
            one = next((column for column in columns if len(column)), columns[0])
            return np.broadcast_to(one[:1].reshape(one.shape[1:]), (self.count, *one.shape[1:]))
        if self.place is None:
            return np.concatenate(columns)
        if 4 * self.count > self.end[-1]:
            joined: Array = np.concatenate(columns)[self.place]
            return joined
        part_K = np.searchsorted(self.end, self.place, "right")
        kind = np.result_type(*columns) if columns[0].dtype.kind != "S" else np.dtype(f"S{_widest(columns)}")
        found_K = np.empty((self.count, *columns[0].shape[1:]), kind)
        for part in np.unique(part_K).tolist():
            mine = part_K == part
            found_K[mine] = columns[part][self.place[mine] - self.end[part] + self.lengths[part]]
        return found_K


def _widest(columns: Sequence[Array]) -> int:
    return max(column.dtype.itemsize for column in columns)


def _with_crops(columns: Mapping[str, Array]) -> dict[str, Array]:
    """The columns, with those of crops where there are none."""
    missing = [name for name in CROP_COLUMNS if name not in columns]
    nothing = _no_crops(len(columns["path"])) if missing else {}
    return {**columns, **{name: nothing[name] for name in missing}}


def _stored(row: Row) -> tuple[Any, ...]:
    """The values of a row, in the order of the columns."""
    texts = row.content, row.camera or "", row.time or "", json.dumps(row.person), row.source or ""
    numbers = math.nan if row.seconds is None else row.seconds, row.box or _NO_BOX
    detection = math.nan if row.detection is None else row.detection
    return encoded(row.path), row.size, row.mtime, *map(encoded, texts), *numbers, encoded(row.track or ""), detection


def _no_crops(count: int) -> dict[str, Array]:
    """The columns of crops for rows that are none; they take no memory."""
    return {
        "source": np.broadcast_to(np.bytes_(b""), count),
        "seconds": np.broadcast_to(np.float64(math.nan), count),
        "box": np.broadcast_to(np.int32(0), (count, 4)),
        "track": np.broadcast_to(np.bytes_(b""), count),
        "detection": np.broadcast_to(np.float32(math.nan), count),
    }


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def encoded(text: str) -> bytes:
    """UTF-8; file names need not be valid text, and survive all the same."""
    return text.encode("utf-8", "surrogateescape")


def texts(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Texts as a column holds them."""
    return np.array([encoded(value) for value in values] or [b""], "S")[: len(values)]


def _text(value: bytes) -> str:
    return bytes(value).decode("utf-8", "surrogateescape")


def change_time(state: os.stat_result) -> int:
    """When a file was last changed, in nanoseconds, as a column of 64 bits can hold it.

    Times before 1678 or after 2262 are folded into that range: all that counts is whether they differ.
    """
    return (state.st_mtime_ns + 2**63) % 2**64 - 2**63


def content_hash(source: Path | bytes) -> str:
    """32 hex digits over a file's bytes, or over the bytes given."""
    if isinstance(source, bytes):
        return _hash(source).hexdigest()
    with source.open("rb") as file:  # piece by piece: a file may be larger than the memory
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash(start: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(start, digest_size=16)
