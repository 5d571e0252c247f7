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

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = dict(columns)
        self._paths: list[str] | None = None
        self._sources: list[str] | None = None
        missing = [name for name in CROP_COLUMNS if name not in self.columns]
        if missing:
            nothing = _no_crops(len(self.columns["path"]))
            self.columns.update({name: nothing[name] for name in missing})

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
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, one after another."""
        if not parts:
            return cls.of([])
        if len(parts) == 1:
            return parts[0]
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})

    def take(self, index: Array) -> Rows:
        """The rows at these places, or where this mask is true."""
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
        return len(self.columns["path"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        columns = self.columns
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
    def stored(self) -> dict[str, Array]:
        """The columns that a file needs: those of crops only where a row is one."""
        crops = self.columns["source"].any() or self.columns["track"].any() or self.columns["box"].any()
        return {name: column for name, column in self.columns.items() if crops or name in COLUMNS}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


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
