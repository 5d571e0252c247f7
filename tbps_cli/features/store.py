"""Feature files: embeddings and what they belong to, kept so that no image is embedded twice.

One HDF5 file per (fingerprint, gallery). Contiguous datasets cannot grow, so rows are appended as small
parts beside the file, each written under a temporary name, synced and renamed. They are merged into the file when
they hold a good share of its rows, so that adding 1,000 to a million costs what 1,000 cost. Nothing is compressed
(embeddings do not shrink); vectors and columns are mapped, not read.

    file = FeatureFile.open(feature_path("features", folder, model.fingerprint), model.fingerprint)
    file.append([Row("a.jpg", size, mtime, content_hash(path))], vector_1E)
    file.keep(still_there)          # drop the rows of images that are gone
    file.settle()                   # what other processes have added is there; merged where that pays
    file.known(), file.matrix()     # rows and their vectors, in the same order

What always holds, whatever other processes do with the same file, and wherever one of them is killed:

* **A `FeatureFile` is one consistent snapshot.** Row and vector of one place come from the same open file, and
  all files from one generation: between opening the first and the last of them nobody merged. Mapped vectors
  stay as they are when others rename a new file over the old one. Only the object's own `append`, `keep`,
  `settle` and `compact` move it on to a newer snapshot, all of it at once; those that read never do.
* **No row that `append` acknowledged is lost**, and what a killed process leaves behind opens: appending holds
  the lock of the parts shared, merging holds it alone. Merging drops only parts that its new file holds, and
  `keep` only rows that are still what they were when they were looked at.
* **Reading ends.** libhdf5 never sees a file that is not known to be whole (`features.footer`); files without
  a footer (older ones, foreign ones) are described by a process of its own, which is stopped if it does not end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features import footer
from tbps_cli.features.footer import VECTORS, Contents, DamagedFile
from tbps_cli.features.lookup import Lookup
from tbps_cli.features.parts import ROOM, locked, new_part, part_paths, remove_codes, unwritable
from tbps_cli.features.rows import COLUMNS, CROP_COLUMNS, Array, Row, Rows, encoded, texts
from tbps_cli.features.snapshot import FORMAT, LOOKUPS, BadFile, Part, Snapshot, load, lookup_names, read
from tbps_cli.places import cache_dir

if TYPE_CHECKING:
    import h5py

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
        if len(self._own if self.appends_only else self._parts) >= PARTS and not self.unwritten:
            self.settle()

    def keep(self, mask_N: Array) -> None:
        """Keep the rows of `known()` where the mask is true, drop the others."""
        rows = self.known()
        dropped = {row.path: row for row in rows.take(np.flatnonzero(~np.asarray(mask_N, bool)))}
        if dropped and not self.unwritten:
            self._merge(dropped)
        elif dropped:
            kept = np.flatnonzero(mask_N)
            self._take([Part(Path(), rows.take(kept), self.vectors(kept), {})])

    def settle(self, *, share: int = SHARE) -> None:
        """Take the newest snapshot, with what other processes added, and merge its parts where that pays.

        share: which part of the file's rows they must hold; 1 puts it off for longer, where somebody waits.
        """
        if self.unwritten:
            return
        try:
            self._load()
            parts = [part for part in self._parts if part.path != self.path]
            self._own &= {part.path for part in parts}
            if self.appends_only:
                if len(self._own) >= PARTS:
                    self._join_parts()
                return
            beside = sum(len(part.rows) for part in parts)
            if self.renewed or (parts and (len(self) <= FEW or share * beside >= len(self) - beside)):
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

    def _facts(self, merged: Sequence[str] = ()) -> dict[str, str]:
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "about": json.dumps(self.about),
            "merged": json.dumps(list(merged)),
        }

    def _written(self, part: Part) -> Part:
        """Write a part, and open it again: from now on it is mapped."""
        with locked(self.path, alone=False):
            path = new_part(self.path, uuid.uuid4().hex)
            _write(path, part.rows, [part.vectors], part.vectors.shape, self._facts())
            self._own.add(path)
            return read(path, self.fingerprint)

    def _load(self) -> None:
        """Read the file and its parts as they are at one moment. Raises CacheError."""
        parts = load(self.path, self.fingerprint)
        if parts:
            self.dtype = parts[0].vectors.dtype
            self.about = self.about or parts[0].about
        self._take(parts)

    def _merge(self, dropped: Mapping[str, Row]) -> None:
        """Write one file of everything but `dropped`, then remove the parts."""
        with locked(self.path, alone=True):
            parts = part_paths(self.path)  # first: where a disk has no locks, what comes now is loaded, not removed
            self._load()  # other processes may have appended, dropped or merged since
            snapshot = self.snapshot
            # a row that another process has replaced meanwhile is no longer the one that was to go
            gone = {place for place in self.places(list(dropped)).tolist() if place >= 0}
            gone = {place for place in gone if snapshot.rows[place] == dropped[snapshot.rows.paths[place]]}
            if gone or self.renewed or any(part.path != self.path for part in self._parts):
                index = np.delete(np.arange(len(snapshot.rows)), list(gone))
                if len(index) < sum(len(part.rows) for part in self._parts):
                    remove_codes(self.path)  # first: whoever is killed now leaves rows without codes, not the reverse
                self._write_all(self.path, snapshot, index, parts)
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
                snapshot, path = Snapshot(joined, self.dtype), new_part(self.path, uuid.uuid4().hex)
                self._write_all(path, snapshot, np.arange(len(snapshot.rows)), parts)
                self._own = {path}
                for part in parts:
                    part.unlink(missing_ok=True)
                self._load()

    def _write_all(self, path: Path, snapshot: Snapshot, index: NDArray[np.int64], parts: Sequence[Path]) -> None:
        """Write these rows of a snapshot as one file, which holds the parts from then on."""
        blocks = (snapshot.vectors(index[start : start + 8192]) for start in range(0, len(index), 8192))
        shape = len(index), self._parts[0].vectors.shape[1]
        # every part of the folder is named: also those that an earlier file holds, whose writer was killed
        facts = self._facts([part.name for part in parts])
        rows = snapshot.rows if len(index) == len(snapshot.rows) else snapshot.rows.take(index)
        _write(path, rows, blocks, shape, facts, self.dtype, indexed=path == self.path)

    def _discard_bad(self) -> None:
        """Remove every file that cannot be used, and load the others."""
        with locked(self.path, alone=True):
            while True:
                try:
                    return self._load()  # perhaps another process has rebuilt it already
                except BadFile as error:
                    remove_codes(self.path)
                    error.file.unlink(missing_ok=True)


FACTS = "format", "fingerprint", "about", "merged"
CPU_SECONDS = 0.25
"""More than enough to find the datasets of a file that is whole, however large they are."""
MEMORY = 8 << 30


def serve() -> None:
    """Describe every file that `features.separate.Server` sends, each in a fork, until it closes the socket."""
    import h5py  # noqa: F401  (once, for all forks)

    with socket.socket(fileno=os.dup(0)) as asked:
        while True:
            _, handles, _, _ = socket.recv_fds(asked, 1, 1)
            if not handles:
                return
            answer, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(handles[0], 0)
                os.dup2(theirs, 1)
                os.dup2(theirs, 2)
                os.closerange(3, 64)
                describe_stdin()
                os._exit(0)
            os.close(theirs)
            os.close(handles[0])
            with os.fdopen(answer, "rb") as pipe:
                text = pipe.read().decode("utf-8", "replace")
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            asked.sendall(json.dumps([status, text]).encode() + b"\n")


def describe_stdin() -> None:
    """Print what the HDF5 file on standard input holds; ends soon, well or badly."""
    import h5py  # before the limits

    with suppress(ImportError, ValueError, OSError, AttributeError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with os.fdopen(0, "rb", buffering=0, closefd=False) as raw, h5py.File(raw, "r") as file:
            found = _contents_of(file).to_json()
    except BaseException as error:  # h5py raises whatever libhdf5's message makes it think of
        os.write(2, (str(error).splitlines()[0] if str(error) else type(error).__name__).encode())
        os._exit(1)
    os.write(1, found)


def _contents_of(file: h5py.File) -> Contents:
    """The attributes of a file that we know, and where its datasets lie."""
    import h5py

    facts = {name: str(file.attrs[name]) for name in FACTS if name in file.attrs}
    datasets = {}
    for name in (VECTORS, *COLUMNS, *CROP_COLUMNS, *(name for column in LOOKUPS for name in lookup_names(column))):
        # other kinds of links lead out of the file
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset):
            datasets[name] = _place_of(file[name])
    return Contents(facts, datasets)


def _place_of(dataset: h5py.Dataset) -> footer.StoredBlock:
    offset = dataset.id.get_offset()
    if offset is None and dataset.size:
        raise DamagedFile(f"{dataset.name} does not lie in one piece")
    return footer.StoredBlock(offset or 0, dataset.dtype.str, dataset.shape)


def _write(
    path: Path,
    rows: Rows,
    blocks: Iterable[Array],
    shape: tuple[int, ...],
    facts: Mapping[str, str],
    dtype: DTypeLike | None = None,
    *,
    indexed: bool = False,
) -> None:
    """Write a whole file under a temporary name, sync it, rename it. Raises CacheError.

    indexed: with what finds its rows, where there are many.
    """
    import h5py  # of no use to those who only read: a tenth of a second

    blocks = iter(blocks)
    first = next(blocks, np.empty(shape, dtype))
    columns = {name: rows.columns[name] for name in rows.stored}
    for column in LOOKUPS if indexed and shape[0] >= INDEXED else ():
        lookup = Lookup.of(columns[column])
        columns.update(zip(lookup_names(column), (lookup.hash_N, lookup.order_N), strict=True))
    size = shape[0] * shape[1] * first.dtype.itemsize + sum(column.nbytes for column in columns.values())
    try:
        with files.replacing(path, CacheError, then=ROOM) as temporary:
            _reserve(temporary, size + 65536)
            with h5py.File(temporary, "w") as file:
                file.attrs.update(facts)
                vectors = file.create_dataset(VECTORS, shape, first.dtype)
                start = 0
                for block in chain((first,), blocks):
                    vectors[start : start + len(block)] = block
                    start += len(block)
                for name, content in columns.items():
                    file.create_dataset(name, data=content)
                file.flush()
                contents = _contents_of(file)
            with temporary.open("r+b") as finished:
                footer.write(finished, contents)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error


def _reserve(path: Path, size: int) -> None:
    """Fail now rather than in the middle: HDF5 does not recover well from a full disk."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
