"""Feature files: embeddings and what they belong to, kept so that no image is embedded twice.

One HDF5 file per (fingerprint, gallery). Contiguous datasets cannot grow, so rows are appended as small
parts beside the file, each written under a temporary name, synced and renamed. They are merged into the file when
they hold a good share of its rows, so that adding 1,000 to a million costs what 1,000 cost. Rows that have gone are
listed in such a part too, and leave the disk with the next merge, or at once where they must. Nothing is
compressed (embeddings do not shrink); vectors and columns are mapped, not read.

    file = FeatureFile.open(feature_path("features", folder, model.fingerprint), model.fingerprint)
    file.append([Row("a.jpg", size, mtime, content_hash(path))], vector_1E)
    file.drop(gone)                 # the rows of images that are not there any more
    file.keep(allowed)              # the others are gone from the disk as well when this returns
    file.settle()                   # what other processes have added is there; merged where that pays
    file.known(), file.matrix()     # rows and their vectors, in the same order

What always holds, whatever other processes do with the same file, and wherever one of them is killed:

* **A `FeatureFile` is one consistent snapshot.** Row and vector of one place come from the same open file, and
  all files from one generation: between opening the first and the last of them nobody merged. Mapped vectors
  stay as they are when others rename a new file over the old one. Only the object's own `append`, `drop`, `keep`,
  `settle` and `compact` move it on to a newer snapshot, all of it at once; those that read never do.
* **No row that `append` acknowledged is lost**, and what a killed process leaves behind opens: appending holds
  the lock of the parts shared, merging holds it alone (in the background while it puts its file in place, see
  `features.merging`). Merging drops only parts that its new file holds, `drop` and `keep` only rows that are still
  what they were when they were looked at.
* **Reading ends.** libhdf5 never sees a file that is not known to be whole (`features.footer`); files without
  a footer (older ones, foreign ones) are described by a process of its own, which is stopped if it does not end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features.hdf5 import fill
from tbps_cli.features.merging import BackgroundMerge
from tbps_cli.features.parts import ROOM, locked, new_part, part_paths, remove_codes, unfinished_paths, unwritable
from tbps_cli.features.rows import Array, Row, Rows, encoded, texts
from tbps_cli.features.snapshot import FORMAT, FORMAT_GONE, GONE, BadFile, Part, Snapshot, load, read
from tbps_cli.places import cache_dir

logger = logging.getLogger("tbps")

PARTS = 64
"""So many parts are joined even while more are being appended: each is one open file."""
SHARE = 8
"""The file is written again when its parts hold an eighth as many rows as it does; each row is then written nine times
at most, however many are added at a time, and a reader finds most of them mapped."""
FEW = 16_384
"""Up to so many rows writing them all again takes a moment."""
INDEXED = 4096
"""From so many rows on a file holds what finds them by path and content."""


def feature_path(kind: str, folder: Path, fingerprint: str, part: str = "", root: Path | None = None) -> Path:
    """Where the features of a folder lie in the cache: by its real path, then by what made them.

    kind: "features" or "indexes" (`places.KINDS`); part: a further word, such as "texts";
    root: another cache folder than the usual one.
    """
    real = folder.resolve()
    name = re.sub(r"[^\w.-]+", "_", real.name)[:40] or "root"
    place = hashlib.blake2b(encoded(str(real)), digest_size=6).hexdigest()
    return (root or cache_dir()) / kind / "-".join(filter(None, (name, place, part, f"{fingerprint}.h5")))


class FeatureFile:
    """Rows and vectors under one path; see the module's text. Made by `open`."""

    def __init__(self, path: Path, fingerprint: str, dtype: DTypeLike, about: Mapping[str, object]) -> None:
        self.path, self.fingerprint, self.dtype, self.about = path, fingerprint, np.dtype(dtype), dict(about)
        self.unwritten = False
        """Whether rows stay in memory from now on, see `in_memory` and `lenient`."""
        self.renewed = False
        """Whether `compact` writes the file again even when nothing is to be merged: its facts have changed."""
        self.appends_only = False
        """Whether merging is left to others: of what lies beside the file, only the own parts are joined."""
        self._own: set[Path] = set()
        """The parts that this object wrote."""
        self._appended = 0
        """Rows that this object wrote."""
        self._share: int | None = None
        """As `merge_meanwhile` was told; None: whoever finds a merge due does it at once."""
        self._merging: BackgroundMerge | None = None
        self._lenient = False
        self._parts: list[Part] = []
        self._snapshot: Snapshot | None = None
        self._lining_up = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        fingerprint: str,
        *,
        dtype: DTypeLike = np.float32,
        rebuild: bool = False,
        lenient: bool = False,
        about: Mapping[str, object] | None = None,
    ) -> FeatureFile:
        """The file at `path`, or an empty one: nothing is written before `append`.

        dtype: of new files; an existing one keeps its own.
        rebuild: throw away, with a warning, what other weights or another transform made, and damaged
        files; otherwise they raise CacheError.
        lenient: the file only saves time, so where it cannot be written, a warning says so once and rows
        stay in memory.
        about: facts for whoever finds the file; "run" names its maker in messages.
        """
        file = cls(path, fingerprint, dtype, about or {})
        file._lenient = lenient
        try:
            file._load()
        except BadFile as error:
            if not rebuild:
                raise
            logger.warning("%s Rebuilding it.", error.message)
            with file._or_in_memory():
                file._discard_bad()
        except CacheError as error:  # the system does not let us look
            if not lenient:
                raise
            logger.warning("%s Going on without it.", error.message)
            file.unwritten = True
        return file

    @classmethod
    def in_memory(cls) -> FeatureFile:
        """The same thing without a file."""
        file = cls(Path(), "", np.float32, {})
        file.unwritten = True
        return file

    def known(self) -> Rows:
        """What there are vectors of."""
        return self.snapshot.rows

    def __len__(self) -> int:
        return len(self.known())

    def matrix(self) -> Array:
        """The vectors of `known()`, [N, E]: mapped, but for those of parts."""
        return self.snapshot.matrix()

    def vectors(self, index_K: Array) -> Array:
        """The vectors of some rows of `known()`, in memory."""
        return self.snapshot.vectors(np.asarray(index_K, np.int64))

    def places(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """Where these paths stand in `known()`; -1 for those that are not there."""
        return self.snapshot.places(texts(paths))

    def select(self, paths: Sequence[str]) -> tuple[Rows, Array]:
        """The rows of these paths and their vectors, in this order. Raises CacheError when one is not there."""
        place_K = self.places(paths)
        if (place_K < 0).any():
            missing = paths[int(np.argmin(place_K))]
            raise CacheError(f"cache: {self.path} has lost {missing} meanwhile.", "Try again.")
        return self.known().take(place_K), self.vectors(place_K)

    def append(self, rows: Sequence[Row], vector_NE: Array) -> None:
        """Store rows; when this returns they survive a kill. A path that is known is replaced.

        Raises CacheError when nothing can be written (and nothing is changed then).
        """
        if len(rows) != len(vector_NE):
            raise ValueError(f"{len(rows)} rows, but {len(vector_NE)} vectors")
        if not len(rows):
            return
        if self._parts and vector_NE.shape[1] != self._parts[0].vectors.shape[1]:
            raise ValueError(f"{vector_NE.shape[1]} wide vectors for {self.path}, which differ in width")
        new = Part(Path(), rows if isinstance(rows, Rows) else Rows.of(rows), vector_NE.astype(self.dtype), {})
        with self._or_in_memory():
            if not self.unwritten:
                new = self._written(new)
        self._take([*self._parts, new])
        self._appended += len(new.rows)
        if not self.unwritten:
            self._tend()

    def drop(self, gone_N: Array) -> None:
        """Drop the rows of `known()` where the mask is true: nobody finds them any more.

        In a large file this is written down beside it, which costs what they are, and not what the file is; until the
        next merge the disk has them still. Raises CacheError when nothing can be written.
        """
        gone_N = np.asarray(gone_N, bool)
        if not gone_N.any():
            return
        if len(self) <= FEW or self.unwritten:
            self.keep(~gone_N)
            return
        dropped = {row.path: row for row in self.known().take(np.flatnonzero(gone_N))}
        with self._or_in_memory():
            self._note_gone(dropped)
        if self.unwritten:
            self.keep(~gone_N)

    def keep(self, mask_N: Array) -> None:
        """Keep the rows of `known()` where the mask is true; the others are gone from the disk when this returns.

        With them goes what is there still of rows that were dropped or replaced before.
        """
        rows = self.known()
        dropped = {row.path: row for row in rows.take(np.flatnonzero(~np.asarray(mask_N, bool)))}
        if not self.unwritten:
            if dropped or self.unused() or self._leftovers():
                self._merge(dropped, erase=True)
        elif dropped:
            kept = np.flatnonzero(mask_N)
            self._take([Part(Path(), rows.take(kept), self.vectors(kept), {})])

    def unused(self) -> Rows:
        """Rows that count no longer, since they were dropped or replaced, and that the disk has still."""
        return self.snapshot.unused()

    def still_holds(self, covers: Callable[[Rows], Array]) -> bool:
        """Whether the disk has rows that count no longer and of which this is true, or parts that nobody reads."""
        unused = self.unused()
        return bool(self._leftovers() or (len(unused) and covers(unused).any()))

    def merge_meanwhile(self, share: int = SHARE) -> None:
        """Merge in the background from now on, beginning at once where that pays; share: as in `settle`.

        `settle` waits for it. Rows that are appended or dropped meanwhile are kept as always.
        """
        self._share = share
        if not self.renewed and not self.unwritten:
            self._begin_merging()

    @property
    def merging(self) -> bool:
        """Whether a merge goes on in the background."""
        return self._merging is not None and self._merging.running

    def settle(self, *, share: int = SHARE) -> None:
        """Take the newest snapshot, with what other processes added, and merge its parts where that pays.

        share: which part of the file's rows they must hold; 1 puts it off for longer, where somebody waits. After
        `merge_meanwhile` what others and earlier runs have left is merged by the next one, while it does other things.
        """
        if self.unwritten:
            return
        self._end_merging()
        try:
            self._load()
            parts = [part for part in self._parts if part.path != self.path]
            self._own &= {part.path for part in parts}
            if self.appends_only:
                if len(self._own) >= PARTS:
                    self._join_parts()
            elif self.renewed or (parts and (len(self) <= FEW or (self._is_due(share) and self._is_worth(share)))):
                self._merge({})
            elif len(parts) >= PARTS:
                self._join_parts()
        except CacheError as error:
            logger.warning("%s", error.message)

    def compact(self) -> None:
        """Leave one file behind, and take it as the snapshot: rows that other processes added are in it.

        Where that cannot be written, a warning says so and the snapshot stays what it is.
        """
        if self.unwritten or (not self.renewed and all(part.path == self.path for part in self._parts)):
            return
        try:
            self._merge({})
        except CacheError as error:
            logger.warning("%s", error.message)

    # Inside -------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """Rows and vectors of one moment. Threads may ask."""
        with self._lining_up:
            if self._snapshot is None:
                self._snapshot = Snapshot(self._parts, self.dtype)
            return self._snapshot

    def _take(self, parts: list[Part]) -> None:
        self._parts, self._snapshot = parts, None

    @contextmanager
    def _or_in_memory(self) -> Iterator[None]:
        """A lenient file that cannot be written goes on in memory."""
        try:
            yield
        except CacheError as error:
            if not self._lenient:
                raise
            logger.warning("%s Going on without it.", error.message)
            self.unwritten = True

    def _tend(self) -> None:
        """After each `append`: go on from a merge that has ended, and see to it that parts stay few."""
        if self._merging is not None and not self._merging.running:
            self._end_merging()
            try:
                self._load()
            except CacheError as error:
                logger.warning("%s", error.message)
        many = len(self._own if self.appends_only else self._parts) >= PARTS
        if many and self._merging is None and not self._begin_merging():
            self.settle(share=self._share or SHARE)

    def _is_due(self, share: int) -> bool:
        """Whether the parts hold so many rows, or take so many away, that merging pays."""
        beside = sum(part.changes for part in self._parts if part.path != self.path)
        return beside > 0 and share * beside >= len(self) - beside

    def _is_worth(self, share: int) -> bool:
        """Whether a merge that is due is done at once: where none is done meanwhile, or beside what has just been done
        it is little."""
        return self._share is None or share * self._appended >= len(self) - self._appended

    def _begin_merging(self) -> bool:
        """Merge in the background, where that is wanted and pays; whether it has begun."""
        if self._share is None or self.appends_only or len(self) <= FEW or not self._is_due(self._share):
            return False
        self._merging = BackgroundMerge(self.path, self.fingerprint, partial(_write_merged, self._facts()))
        weakref.finalize(self, self._merging.stop)
        return True

    def _end_merging(self, *, stop: bool = False) -> None:
        """Wait for a merge in the background, or stop it."""
        merging, self._merging = self._merging, None
        if merging is None:
            return
        if stop:
            merging.stop()
        elif not merging.wait(1.0):
            logger.info(
                "%s: its parts are being merged; all rows are kept already, so this can be interrupted.", self.path
            )
            merging.wait()
        if merging.error is not None:
            logger.warning("%s", merging.error.message)
        if merging.impossible:
            self._share = None  # from now on it is done at once

    def _facts(self, merged: Sequence[str] = (), *, gone: bool = False) -> dict[str, str]:
        return {
            "format": FORMAT_GONE if gone else FORMAT,
            "fingerprint": self.fingerprint,
            "about": json.dumps(self.about),
            "merged": json.dumps(list(merged)),
        }

    def _written(self, part: Part) -> Part:
        """Write a part, and open it again: from now on it is mapped."""
        with locked(self.path, alone=False):
            path = new_part(self.path, uuid.uuid4().hex)
            shape = len(part.rows), part.vectors.shape[1]
            self._write(path, part.rows, [part.vectors], shape, self._facts())
            self._own.add(path)
            return read(path, self.fingerprint)

    def _note_gone(self, dropped: Mapping[str, Row]) -> None:
        """Write a part that says which rows have gone."""
        with locked(self.path, alone=True):
            self._load()  # other processes may have appended, dropped or merged since
            gone = self.known().take(np.array(sorted(self._still(dropped)), np.int64))
            if len(gone):
                columns = {name: gone.columns[name] for name in GONE}
                path, shape = new_part(self.path, uuid.uuid4().hex), (0, self._parts[0].vectors.shape[1])
                self._write(path, Rows.of([]), [], shape, self._facts(gone=True), gone=columns)
                self._own.add(path)
                self._load()

    def _still(self, dropped: Mapping[str, Row]) -> set[int]:
        """The places of rows that are to go: one that another process has replaced meanwhile is no longer that row."""
        rows, there = self.known(), self.places(list(dropped)).tolist()
        return {place for place, row in zip(there, dropped.values(), strict=True) if place >= 0 and rows[place] == row}

    def _leftovers(self) -> bool:
        """Whether parts lie there that a merge holds already, whose process was killed before it removed them."""
        held = {name for part in self._parts for name in part.merged}
        try:
            return any(part.name in held for part in part_paths(self.path))
        except PermissionError:
            return False  # a cache that may not be read was told when it was opened

    def _load(self) -> None:
        """Read the file and its parts as they are at one moment. Raises CacheError."""
        parts = load(self.path, self.fingerprint)
        if parts:
            self.dtype = parts[0].vectors.dtype
            self.about = self.about or parts[0].about
        self._take(parts)

    def _merge(self, dropped: Mapping[str, Row], *, erase: bool = False) -> None:
        """Write one file of everything but `dropped`, then remove the parts.

        erase: nothing is left of what goes, in codes and files that others are writing either.
        """
        self._end_merging(stop=True)
        with locked(self.path, alone=True):
            parts = part_paths(self.path)  # first: where a disk has no locks, what comes now is loaded, not removed
            self._load()  # other processes may have appended, dropped or merged since
            snapshot, gone = self.snapshot, self._still(dropped)
            if gone or erase or self.renewed or any(part.path != self.path for part in self._parts):
                index = np.delete(np.arange(len(snapshot.rows)), list(gone))
                if erase:  # first: whoever is killed now leaves rows without codes, not the reverse
                    remove_codes(self.path)
                    for place in unfinished_paths(self.path):
                        place.unlink(missing_ok=True)
                self._write_rows(self.path, snapshot, index, parts)
                self.renewed = False
                self._load()
            for part in parts:
                part.unlink(missing_ok=True)

    def _join_parts(self) -> None:
        """Write one part of all parts, or of the own ones: the main file is not touched."""
        with locked(self.path, alone=True):
            parts = [part for part in part_paths(self.path) if not self.appends_only or part in self._own]
            self._load()
            wanted = {*parts, *(part.path for part in self._parts if not self.appends_only)} - {self.path}
            joined = [part for part in self._parts if part.path in wanted]
            if len(joined) > 1:
                path = new_part(self.path, uuid.uuid4().hex)
                self._write_rows(path, self.snapshot, self.snapshot.lies_in(joined), parts, self._gone_of(joined))
                self._own = {path}
                for part in parts:
                    part.unlink(missing_ok=True)
                self._load()

    def _gone_of(self, joined: Sequence[Part]) -> dict[str, Array]:
        """What parts take away from the files before them, and what would be there again without them."""
        paths = [part.gone["path"] for part in joined if part.gone]
        if not paths:
            return {}
        path_K = np.unique(np.concatenate(paths))
        path_K = path_K[self.snapshot.places(path_K) < 0]
        others = Snapshot([part for part in self._parts if not any(part is one for one in joined)], self.dtype)
        place_K = others.places(path_K)
        gone = others.rows.take(place_K[place_K >= 0])
        return {name: gone.columns[name] for name in GONE} if len(gone) else {}

    def _write_rows(
        self,
        path: Path,
        snapshot: Snapshot,
        index: NDArray[np.int64],
        parts: Sequence[Path],
        gone: Mapping[str, Array] | None = None,
    ) -> None:
        """Write these rows of a snapshot as one file, which holds the parts from then on."""
        blocks, shape = snapshot.blocks(index), (len(index), self._parts[0].vectors.shape[1])
        # every part of the folder is named: also those that an earlier file holds, whose writer was killed
        facts = self._facts([part.name for part in parts], gone=bool(gone))
        rows = snapshot.rows if len(index) == len(snapshot.rows) else snapshot.rows.take(index)
        self._write(path, rows, blocks, shape, facts, gone=gone)

    def _write(
        self,
        path: Path,
        rows: Rows,
        blocks: Iterable[Array],
        shape: tuple[int, int],
        facts: Mapping[str, str],
        gone: Mapping[str, Array] | None = None,
    ) -> None:
        """Write a whole file under a temporary name, sync it, rename it. Raises CacheError."""
        indexed = path == self.path and shape[0] >= INDEXED
        try:
            with files.replacing(path, CacheError, then=ROOM) as temporary:
                fill(temporary, rows, blocks, shape, self.dtype, facts, indexed=indexed, gone=gone)
        except RuntimeError as error:  # of h5py
            raise unwritable(path, error) from error

    def _discard_bad(self) -> None:
        """Remove every file that cannot be used, and load the others."""
        with locked(self.path, alone=True):
            while True:
                try:
                    return self._load()  # perhaps another process has rebuilt it already
                except BadFile as error:
                    remove_codes(self.path)
                    error.file.unlink(missing_ok=True)


def _write_merged(
    facts: Mapping[str, str], path: Path, parts: Sequence[Part], held: Sequence[Path], check: Callable[[], None]
) -> None:
    """Write all rows of a feature file as one file, for `BackgroundMerge`, which says when to stop."""
    snapshot = Snapshot(parts, parts[0].vectors.dtype)
    shape, index = (len(snapshot.rows), parts[0].vectors.shape[1]), np.arange(len(snapshot.rows))

    def blocks() -> Iterator[Array]:
        for block in snapshot.blocks(index):
            check()
            yield block

    named = {**facts, "merged": json.dumps([part.name for part in held])}
    fill(path, snapshot.rows, blocks(), shape, snapshot.dtype, named, indexed=shape[0] >= INDEXED)
