"""What the vectors of a feature file belong to: one `Row` each, held as columns.

Text columns are fixed-width UTF-8 bytes, which HDF5 reads at once; they are decoded where somebody
looks at them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person

Array = NDArray[Any]


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


COLUMNS = tuple(field.name for field in fields(Row))


class Rows(Sequence[Row]):
    """Many rows as columns, so that a million of them load at once; indexing gives a `Row`."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = dict(columns)
        self._paths: list[str] | None = None

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Columns of the given rows."""
        values = [(encoded(r.path), r.size, r.mtime, *map(encoded, _texts(r))) for r in rows]
        columns: list[tuple[Any, ...]] = list(zip(*values, strict=True)) or [()] * len(COLUMNS)
        kinds = {"size": np.int64, "mtime": np.int64}
        return cls(
            {
                name: np.array(column, kinds.get(name, "S" if column else "S1"))
                for name, column in zip(COLUMNS, columns, strict=True)
            }
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, one after another."""
        if not parts:
            return cls.of([])
        if len(parts) == 1:
            return parts[0]
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in COLUMNS})

    def take(self, index: Array) -> Rows:
        """The rows at these places, or where this mask is true."""
        return Rows({name: column[index] for name, column in self.columns.items()})

    @property
    def paths(self) -> list[str]:
        """Every path, decoded once."""
        if self._paths is None:
            self._paths = [_text(value) for value in self.columns["path"].tolist()]
        return self._paths

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        path, size, mtime, content, camera, time, person = (self.columns[name][index] for name in COLUMNS)
        return Row(
            _text(path),
            int(size),
            int(mtime),
            _text(content),
            _text(camera) or None,
            _text(time) or None,
            json.loads(_text(person) or "null"),
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def _texts(row: Row) -> tuple[str, str, str, str]:
    return row.content, row.camera or "", row.time or "", json.dumps(row.person)


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
