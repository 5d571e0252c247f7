"""A feature file and its parts as they are at one moment: rows and vectors that belong together.

Reading takes no lock, since it must work where nothing can be written. Instead every file is read through one
handle, so that rows and vectors are of one generation even when another file is renamed over it meanwhile,
and mapped vectors outlive their name. A part that vanishes between listing and opening, or another main file
at the end than at the beginning, means that somebody merged: then reading begins again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tbps_cli.errors import CacheError
from tbps_cli.features import footer, separate
from tbps_cli.features.footer import VECTORS, Contents, DamagedFile
from tbps_cli.features.parts import part_paths
from tbps_cli.features.rows import COLUMNS, CROP_COLUMNS, KINDS, Array, Rows
from tbps_cli.features.separate import SIGNATURE

FORMAT = "tbps-features-1"
TRIES = 200
"""A merge takes longer than looking for its traces, so that twice in a row is rare already."""


class BadFile(CacheError):
    """A file that is damaged, or was made by something else."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"cache: {file} {what}.", "Delete it: it is made again when needed.")
        self.file = file


@dataclass(frozen=True)
class Part:
    """One file, the main one or a part, its vectors mapped; or rows in memory, with an empty path."""

    path: Path
    rows: Rows
    vectors: Array
    about: dict[str, object]
    merged: tuple[str, ...] = ()
    """Names of the parts that the file holds."""
    identity: tuple[int, ...] = ()
    """Which file was opened under the path, since another one may be there later."""
    compacted: bool = False
    """Whether no two of its rows have the same path, as merging leaves them."""


class Snapshot:
    """The rows of several files, lined up: of those with the same path the latest counts."""

    def __init__(self, parts: Sequence[Part], dtype: np.dtype[Any]) -> None:
        self.parts, self.dtype = tuple(parts), dtype
        self.rows = Rows.joined([part.rows for part in parts])
        self._place = np.arange(len(self.rows))
        """Where each row stands in the joined ones."""
        if len(parts) == 1 and parts[0].compacted:
            return  # the paths of a million images are decoded when somebody asks for them
        latest = {path: place for place, path in enumerate(self.rows.paths)}
        if len(latest) < len(self.rows):
            self._place = np.fromiter(latest.values(), np.int64, len(latest))
            self.rows = self.rows.take(self._place)

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Path -> its place among the rows."""
        return {path: place for place, path in enumerate(self.rows.paths)}

    def matrix(self) -> Array:
        """The vectors of all rows: mapped when they lie in one file, else in memory."""
        if len(self.parts) == 1 and len(self.rows) == len(self.parts[0].rows):
            return self.parts[0].vectors
        return self.vectors(np.arange(len(self.rows)))

    def vectors(self, index_K: Array) -> Array:
        """The vectors of some rows, in memory."""
        if not self.parts:
            return np.empty((0, 0), self.dtype)
        place_K = self._place[index_K]
        vectors = np.empty((len(place_K), self.parts[0].vectors.shape[1]), self.dtype)
        start = 0
        for part in self.parts:
            mine = (place_K >= start) & (place_K < start + len(part.rows))
            vectors[mine] = part.vectors[place_K[mine] - start]
            start += len(part.rows)
        return vectors


def load(path: Path, fingerprint: str) -> list[Part]:
    """The main file and its parts as they are at one moment. Raises CacheError (BadFile names the file)."""
    for attempt in range(TRIES):
        parts = _generation(path, fingerprint)
        if parts is not None:
            if len({part.vectors.shape[1] for part in parts if len(part.rows)}) > 1:
                raise BadFile(parts[-1].path, "holds vectors of another width than the files beside it")
            return parts
        time.sleep(0.001 * min(attempt, 20))
    raise _busy(path)


def read_about(path: Path) -> dict[str, object] | None:
    """What a feature file was told of itself (`about` of `FeatureFile.open`); None when there is none.

    Raises BadFile when it is damaged or foreign.
    """
    for _ in range(TRIES):
        parts = part_paths(path)
        there = path if path.exists() or not parts else parts[-1]
        try:
            with there.open("rb") as file:
                return _about(there, _contents(file))
        except FileNotFoundError:
            if not parts:
                return None
        except (OSError, ValueError) as error:
            raise _unreadable(there, error) from error
    raise _busy(path)


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint of what made a feature file, or its parts; None when there is none. Raises BadFile."""
    there = next((file for file in (path, *part_paths(path)) if file.exists()), None)
    if there is None:
        return None
    try:
        with there.open("rb") as file:
            return str(_contents(file).facts.get("fingerprint"))
    except (OSError, ValueError) as error:
        raise _unreadable(there, error) from error


def _generation(path: Path, fingerprint: str) -> list[Part] | None:
    """The file and its parts; None when somebody merged them meanwhile."""
    try:
        parts = [read(path, fingerprint, compacted=True)] if _identity(path) else []
        main = parts[0].identity if parts else ()
        # parts that the file holds already were left there by a process that was killed while it merged
        held = {name for part in parts for name in part.merged}
        parts += [read(part, fingerprint) for part in part_paths(path) if part.name not in held]
        return parts if _identity(path) == main else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def read(path: Path, fingerprint: str, *, compacted: bool = False) -> Part:
    """One HDF5 file, through one handle. Raises BadFile, and FileNotFoundError when it is gone."""
    try:
        with path.open("rb") as file:
            contents = _contents(file)
            about = _about(path, contents)
            if contents.facts.get("fingerprint") != fingerprint:
                made = about.get("run", "other weights, another transform or method settings")
                raise BadFile(path, f"was made by {made}, so its vectors cannot be compared")
            merged = tuple(map(str, json.loads(contents.facts.get("merged", "[]"))))
            crops = [name for name in CROP_COLUMNS if name in contents.datasets]
            rows = Rows({name: _column(file, contents, name) for name in (*COLUMNS, *crops)})
            vectors = _mapped(file, contents)
            if {len(column) for column in rows.columns.values()} != {len(vectors)}:
                raise DamagedFile("not every row has a vector")
            identity = _identity_of(os.fstat(file.fileno()))
            return Part(path, rows, vectors, about, merged, identity, compacted)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _column(file: BinaryIO, contents: Contents, name: str) -> Array:
    """A column, read into memory."""
    there = contents.datasets.get(name)
    kind = KINDS.get(name, "S")
    if there is None or there.shape[1:] != ((4,) if name == "box" else ()) or kind not in there.dtype:
        raise DamagedFile(f"it has no column {name}")
    file.seek(there.offset)
    content = file.read(there.nbytes)
    return np.frombuffer(content, there.dtype).reshape(there.shape) if content else np.empty(there.shape, there.dtype)


def _mapped(file: BinaryIO, contents: Contents) -> Array:
    there = contents.datasets.get(VECTORS)
    if there is None or len(there.shape) != 2 or "f" not in there.dtype:
        raise DamagedFile("it has no vectors")
    if not there.nbytes:
        return np.empty(there.shape, there.dtype)
    return np.memmap(file, there.dtype, "r", there.offset, there.shape)


def _about(path: Path, contents: Contents) -> dict[str, object]:
    """What the file was told of itself. Raises BadFile for a foreign one."""
    if contents.facts.get("format") != FORMAT:
        raise BadFile(path, "is not a feature file of this version of tbps")
    about = json.loads(contents.facts.get("about", ""))
    if not isinstance(about, dict):
        raise DamagedFile("its description is not a table")
    return about


def _identity(path: Path) -> tuple[int, ...]:
    """Which file lies at a path; () when there is none."""
    try:
        return _identity_of(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _identity_of(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


# What is in a file ----------------------------------------------------------------------------


def _contents(file: BinaryIO) -> Contents:
    """As the footer says, else as a process of its own finds out. Raises DamagedFile."""
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DamagedFile("it is not an HDF5 file")
    return footer.read(file) or separate.describe(file)


def _unreadable(path: Path, error: Exception) -> CacheError:
    if isinstance(error, OSError):  # not the file's fault
        return CacheError(f"cache: {path} cannot be read: {error.strerror or error}.", "See who may read it.")
    return BadFile(path, f"cannot be read as a feature file ({str(error).splitlines()[0]})")


def _busy(path: Path) -> CacheError:
    return CacheError(f"cache: other processes change {path} all the time.", "Try again when they are done.")
