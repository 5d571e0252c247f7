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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features import footer, separate
from tbps_cli.features.footer import VECTORS, Contents, DamagedFile, StoredBlock
from tbps_cli.features.lookup import Lookup
from tbps_cli.features.mapping import StoredVectors, one_array
from tbps_cli.features.parts import part_paths
from tbps_cli.features.rows import COLUMNS, CROP_COLUMNS, KINDS, Array, Rows
from tbps_cli.features.separate import SIGNATURE

FORMAT = "tbps-features-1"
FORMAT_GONE = "tbps-features-2"
"""Of parts that say which rows have gone: versions that do not know of these refuse them, and show no such row."""
LOOKUPS = "path", "content"
"""Columns by which rows are found. A file of many rows holds what finds them (`features.lookup`)."""
GONE = "path", "size", "mtime", "content"
"""What tells a row that has gone. One with other facts that has taken its place stays."""
BLOCK = 8192
"""Rows that are copied at a time."""
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
    lookups: dict[str, Lookup] = field(default_factory=dict)
    """By column: those that the file holds, and those that were made of its columns."""
    offset: int = 0
    """Where the vectors begin in the file."""
    gone: Mapping[str, Array] = field(default_factory=dict)
    """Rows of earlier files that count no longer, by the columns `GONE`; without columns there are none."""

    @property
    def changes(self) -> int:
        """How many rows of other files it replaces, follows or takes away."""
        return len(self.rows) + len(self.gone.get("path", ()))

    def lookup(self, column: str) -> Lookup:
        """What finds rows by a column; made of it where the file does not have it."""
        if column not in self.lookups:
            self.lookups[column] = Lookup.of(self.rows.columns[column])
        return self.lookups[column]


class Snapshot:
    """The rows of several files, lined up: of those with the same path the latest counts, in the place of the first.

    Most rows lie in the main file, which no two rows of share a path. It is asked where it has the paths of the parts;
    nothing is done for each of its rows. Where a row has gone, the last one takes its place, so that rows and vectors
    have no holes and nearly all of them stay where they lie in the file.
    """

    def __init__(self, parts: Sequence[Part], dtype: np.dtype[Any]) -> None:
        self.parts, self.dtype = tuple(parts), dtype
        self._main = self.parts[0] if self.parts and self.parts[0].compacted else None
        self._start = 0 if self._main is None else len(self._main.rows)
        """Rows of the main file."""
        self._new: dict[bytes, int] = {}
        """Path -> its place among the rows, for those that the main file does not have."""
        self._place: Array | None = None
        """Where each row stands in the joined ones; None: all of them stand there, in this order."""
        self._left_K: Array = np.empty(0, np.int64)
        self._now_K: Array = self._left_K
        """Places of the main file and behind it that nothing stands at any more, ascending; what stood there is now at
        these, -1 where it has gone."""
        if len(self.parts) > (self._main is not None):
            self._line_up()
        self.rows = Rows.joined([part.rows for part in self.parts], self._place)

    def _line_up(self) -> None:
        latest, rows = self._latest(), sum(len(part.rows) for part in self.parts)
        path_L = np.array(list(latest) or [b""], "S")[: len(latest)]
        place_L, known_L = np.array(list(latest.values()), np.int64), self._known(path_L)
        there_L = place_L >= 0
        added_L = (known_L < 0) & there_L
        gone_H = np.sort(known_L[(known_L >= 0) & ~there_L])
        slot_A = np.arange(self._start, self._start + np.count_nonzero(added_L))
        if self._start + len(slot_A) < rows or len(gone_H):
            place = np.concatenate([np.arange(self._start), place_L[added_L]])
            replaced_L = (known_L >= 0) & there_L
            place[known_L[replaced_L]] = place_L[replaced_L]
            count = len(place) - len(gone_H)
            filled_H = gone_H[gone_H < count]
            moved_H = np.setdiff1d(np.arange(count, len(place)), gone_H)
            place[filled_H] = place[moved_H]
            self._place = place[:count]
            left_K = np.concatenate([gone_H, moved_H])
            order = np.argsort(left_K)
            self._left_K = left_K[order]
            self._now_K = np.concatenate([np.full(len(gone_H), -1), filled_H])[order]
        self._new = dict(zip(path_L[added_L].tolist(), self._stands(slot_A).tolist(), strict=True))

    def _latest(self) -> dict[bytes, int]:
        """Path -> where the row that counts stands in the joined ones, -1 where it has gone; of what parts speak of."""
        latest: dict[bytes, int] = {}
        first, joined = self._start, Rows.joined([part.rows for part in self.parts])
        for part in self.parts if self._main is None else self.parts[1:]:
            if part.gone:
                path_K = part.gone["path"]
                pairs = zip(path_K.tolist(), self._known(path_K).tolist(), strict=True)
                place_K = np.array([latest.get(path, place) for path, place in pairs], np.int64)
                there = np.flatnonzero(place_K >= 0)
                columns = joined.take(place_K[there]).columns
                same = [columns[name] == part.gone[name][there] for name in GONE]
                latest |= dict.fromkeys(path_K[there[np.logical_and.reduce(same)]].tolist(), -1)
            latest |= zip(part.rows.columns["path"].tolist(), range(first, first + len(part.rows)), strict=True)
            first += len(part.rows)
        return latest

    def _known(self, path_K: Array) -> Array:
        """Where the main file has these paths."""
        if self._main is None:
            return np.full(len(path_K), -1, np.int64)
        first_K = self._main.rows.columns["path"][: len(path_K)]
        if len(first_K) == len(path_K) and (first_K == path_K).all():  # a folder that is listed as it was before
            return np.arange(len(path_K))
        return self._main.lookup("path").find(path_K)

    def _stands(self, place_K: Array) -> Array:
        """Where what stood at a place of the main file or behind it stands among the rows; -1 where it has gone."""
        if not len(self._left_K):
            return place_K
        at_K = np.minimum(np.searchsorted(self._left_K, place_K), len(self._left_K) - 1)
        return np.where(self._left_K[at_K] == place_K, self._now_K[at_K], place_K)

    def places(self, path_K: Array) -> Array:
        """Where these paths (texts as columns hold them) stand among the rows; -1 where they do not."""
        place_K = self._stands(self._known(path_K))
        if self._new:
            missing = np.flatnonzero(place_K < 0)
            place_K[missing] = [self._new.get(path, -1) for path in path_K[missing].tolist()]
        return place_K

    def places_of_contents(self, content_K: Array) -> Array:
        """A row that has each content; -1 where none has it."""
        place_K = np.full(len(content_K), -1, np.int64)
        if self._main is not None:
            lookup = self._main.lookup("content")
            found_K = lookup.find(content_K)
            place_K = self._in_use(found_K)
            lost = np.flatnonzero((place_K < 0) & (found_K >= 0))
            if len(lost):  # another row of the file may have the same content
                others = lookup.every(content_K[lost])
                others = others[self._in_use(others) >= 0]
                contents = self._main.rows.columns["content"][others].tolist()
                place_of = dict(zip(contents, self._in_use(others).tolist(), strict=True))
                place_K[lost] = [place_of.get(content, -1) for content in content_K[lost].tolist()]
        if len(self.rows) > self._start or self._place is not None:
            behind = self._behind
            missing = np.flatnonzero(place_K < 0)
            place_K[missing] = [behind.get(content, -1) for content in content_K[missing].tolist()]
        return place_K

    def _in_use(self, place_K: Array) -> Array:
        """Where rows of the main file stand among the rows; -1 for those that count no longer, and for -1."""
        if self._place is None:
            return place_K
        now_K = self._stands(place_K).copy()
        there = now_K >= 0
        now_K[there] = np.where(self._place[now_K[there]] == place_K[there], now_K[there], -1)
        return now_K

    @cached_property
    def _behind(self) -> dict[bytes, int]:
        """Content -> a place among the rows, for those that lie in no main file."""
        place = np.arange(len(self.rows)) if self._place is None else self._place
        place_K = np.flatnonzero(place >= self._start)
        contents = self.rows.take(place_K).columns["content"].tolist()
        return dict(zip(contents, place_K.tolist(), strict=True))

    def unused(self) -> Rows:
        """Rows that still lie in the files although they count no longer: replaced, or gone."""
        unused = np.zeros(sum(len(part.rows) for part in self.parts), bool)
        if self._place is not None:
            unused[:] = True
            unused[self._place] = False
        return Rows.joined([part.rows for part in self.parts]).take(np.flatnonzero(unused))

    def lies_in(self, part_P: Sequence[Part]) -> Array:
        """The places of the rows that lie in some of the files, in the order in which they would stand without gaps."""
        place = np.arange(len(self.rows)) if self._place is None else self._place
        end = np.cumsum([len(part.rows) for part in self.parts])
        chosen = np.array([any(part is one for one in part_P) for part in self.parts], bool)
        slot_N = np.arange(len(place))
        filled = self._now_K >= 0
        slot_N[self._now_K[filled]] = self._left_K[filled]
        found_K = np.flatnonzero(chosen[np.searchsorted(end, place, "right")])
        return found_K[np.argsort(slot_N[found_K])]

    @property
    def identity(self) -> tuple[int, ...]:
        """Which files these are, one after another; empty where some rows lie in memory alone."""
        found = [part.identity for part in self.parts]
        return tuple(number for one in found for number in one) if all(found) else ()

    @cached_property
    def _matrix(self) -> Array:
        if not self.parts:
            return np.empty((0, 0), self.dtype)
        if len(self.parts) == 1 and self._place is None:
            return self.parts[0].vectors
        if self._main is None:
            return self.vectors(np.arange(len(self.rows)))
        place = np.arange(len(self.rows)) if self._place is None else self._place
        moved = np.flatnonzero(place != np.arange(len(place)))
        behind = np.union1d(moved, np.arange(self._start, len(place)))
        stored = StoredVectors(self._main.path, self._main.identity, self._main.offset, self._main.vectors)
        joined = one_array(stored, len(place), behind, self.vectors)
        return self.vectors(np.arange(len(self.rows))) if joined is None else joined

    def matrix(self) -> Array:
        """The vectors of all rows: those of the main file mapped, and only those of parts in memory."""
        return self._matrix

    def vectors(self, index_K: Array) -> Array:
        """The vectors of some rows, in memory."""
        if not self.parts:
            return np.empty((0, 0), self.dtype)
        return self._vectors_at(index_K if self._place is None else self._place[index_K])

    def _vectors_at(self, place_K: Array) -> Array:
        """Of some places in the files, one after another."""
        vectors = np.empty((len(place_K), self.parts[0].vectors.shape[1]), self.dtype)
        start = 0
        for part in self.parts:
            mine = (place_K >= start) & (place_K < start + len(part.rows))
            vectors[mine] = part.vectors[place_K[mine] - start]
            start += len(part.rows)
        return vectors

    def blocks(self, index_K: Array) -> Iterator[Array]:
        """The vectors of some rows, one block after another: mapped where they lie side by side in one file."""
        end = np.cumsum([len(part.rows) for part in self.parts])
        for start in range(0, len(index_K), BLOCK):
            place_K = index_K[start : start + BLOCK]
            place_K = place_K if self._place is None else self._place[place_K]
            part = int(np.searchsorted(end, place_K[0], "right"))
            if place_K[-1] < end[part] and (np.diff(place_K) == 1).all():
                first = place_K[0] - end[part] + len(self.parts[part].rows)
                yield self.parts[part].vectors[first : first + len(place_K)]
            else:
                yield self._vectors_at(place_K)


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
        parts = [read(path, fingerprint, compacted=True)] if files.identity(path) else []
        main = parts[0].identity if parts else ()
        # parts that a file holds already were left there by a process that was killed while it merged
        held = {name for part in parts for name in part.merged}
        beside: list[Part] = []
        for place in reversed(part_paths(path)):  # the latest first: parts may be merged into a later one
            if place.name not in held:
                beside.append(read(place, fingerprint))
                held.update(beside[-1].merged)
        return [*parts, *reversed(beside)] if files.identity(path) == main else None
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
            whole = np.memmap(file, np.uint8, "r")  # one handle of the file, however many columns it has
            crops = [name for name in CROP_COLUMNS if name in contents.datasets]
            rows = Rows({name: _column(whole, contents, name) for name in (*COLUMNS, *crops)})
            vectors = _vectors(whole, contents)
            if {len(column) for column in rows.columns.values()} != {len(vectors)}:
                raise DamagedFile("not every row has a vector")
            lookups = {name: found for name in LOOKUPS if (found := _lookup(whole, contents, rows, name))}
            identity = files.identity_of(os.fstat(file.fileno()))
            start = contents.datasets[VECTORS].offset
            gone = _gone(whole, contents)
            return Part(path, rows, vectors, about, merged, identity, compacted, lookups, start, gone)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _column(whole: Array, contents: Contents, name: str) -> Array:
    """A column, mapped."""
    there = contents.datasets.get(name)
    kind = KINDS.get(name.removeprefix("gone_"), "S")
    if there is None or there.shape[1:] != ((4,) if name == "box" else ()) or kind not in there.dtype:
        raise DamagedFile(f"it has no column {name}")
    return np.asarray(_block(whole, there))


def _vectors(whole: Array, contents: Contents) -> Array:
    there = contents.datasets.get(VECTORS)
    if there is None or len(there.shape) != 2 or "f" not in there.dtype:
        raise DamagedFile("it has no vectors")
    return _block(whole, there)


def _lookup(whole: Array, contents: Contents, rows: Rows, column: str) -> Lookup | None:
    """What finds rows by a column, where the file has it."""
    blocks = [contents.datasets.get(name) for name in lookup_names(column)]
    if any(block is None or block.shape != (len(rows),) or "i" not in block.dtype for block in blocks):
        return None
    hash_N, order_N = (np.asarray(_block(whole, block)) for block in blocks if block is not None)
    return Lookup(rows.columns[column], hash_N, order_N)


def _gone(whole: Array, contents: Contents) -> dict[str, Array]:
    """The rows that have gone, as a part says."""
    if contents.facts.get("format") != FORMAT_GONE:
        return {}
    columns = {name: _column(whole, contents, gone_name(name)) for name in GONE}
    if len({len(column) for column in columns.values()}) != 1:
        raise DamagedFile("its list of what has gone is not whole")
    return columns


def gone_name(column: str) -> str:
    """The dataset of a column of rows that have gone."""
    return f"gone_{column}"


def lookup_names(column: str) -> tuple[str, str]:
    """The datasets that a lookup lies in: its hashes, and the order of the rows."""
    return f"{column}_hash", f"{column}_order"


def _block(whole: Array, there: StoredBlock) -> Array:
    if not there.nbytes:
        return np.empty(there.shape, there.dtype)
    return whole[there.offset : there.offset + there.nbytes].view(there.dtype).reshape(there.shape)


def _about(path: Path, contents: Contents) -> dict[str, object]:
    """What the file was told of itself. Raises BadFile for a foreign one."""
    if contents.facts.get("format") not in (FORMAT, FORMAT_GONE):
        raise BadFile(path, "is not a feature file of this version of tbps")
    about = json.loads(contents.facts.get("about", ""))
    if not isinstance(about, dict):
        raise DamagedFile("its description is not a table")
    return about


# What is in a file ----------------------------------------------------------------------------


_LARGE = 16 << 20
_checked: dict[tuple[int, ...], Contents] = {}
"""Of large files that this process has checked: a checksum reads all columns. They are replaced, never changed."""


def _contents(file: BinaryIO) -> Contents:
    """As the footer says, else as a process of its own finds out. Raises DamagedFile."""
    identity = files.identity_of(os.fstat(file.fileno()))
    if identity in _checked:
        return _checked[identity]
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DamagedFile("it is not an HDF5 file")
    contents = footer.read(file) or separate.describe(file)
    if identity[-1] >= _LARGE:
        _checked[identity] = contents
    return contents


def _unreadable(path: Path, error: Exception) -> CacheError:
    if isinstance(error, OSError):  # not the file's fault
        return CacheError(f"cache: {path} cannot be read: {error.strerror or error}.", "See who may read it.")
    return BadFile(path, f"cannot be read as a feature file ({str(error).splitlines()[0]})")


def _busy(path: Path) -> CacheError:
    return CacheError(f"cache: other processes change {path} all the time.", "Try again when they are done.")
