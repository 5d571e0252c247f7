"""Feature files: vectors and what they belong to, kept so that no image is embedded twice.

One HDF5 file per (fingerprint, gallery). Contiguous datasets cannot grow, so rows are appended as
small parts beside the file, each written under a temporary name, synced and renamed; they are merged
into the file when the matrix is asked for. A process killed at any moment therefore loses no row
that `append` acknowledged, and what it leaves always opens. Nothing is compressed (features do not
shrink) and the matrix is mapped from the file, not read.

    file = FeatureFile.open(feature_path("features", folder, model.fingerprint), model.fingerprint)
    file.append([Row("a.jpg", size, mtime, content_hash(path))], vector_1E)
    file.keep(still_there)          # drop the rows of images that are gone
    file.known(), file.matrix()     # rows and their vectors, in the same order
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features.rows import COLUMNS, Array, Row, Rows, encoded
from tbps_cli.places import cache_dir

try:
    import fcntl
except ImportError:  # Windows: two processes merging one file at the same moment are not kept apart there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")

FORMAT = "tbps-features-1"
_DELETE = "Delete it: it is made again when needed."
_ROOM = "Free some space (tbps cache lists what can go), or set TBPS_CACHE_DIR to another folder."


def feature_path(kind: str, folder: Path, fingerprint: str, part: str = "", root: Path | None = None) -> Path:
    """Where the features of a folder lie in the cache: by its real path, then by what made them.

    kind: "features" or "indexes" (`caches.KINDS`); part: a further word, such as "texts";
    root: another cache folder than the usual one.
    """
    real = folder.resolve()
    name = re.sub(r"[^\w.-]+", "_", real.name)[:40] or "root"
    place = hashlib.blake2b(encoded(str(real)), digest_size=6).hexdigest()
    return (root or cache_dir()) / kind / "-".join(filter(None, (name, place, part, f"{fingerprint}.h5")))


def read_about(path: Path) -> dict[str, object]:
    """What a feature file was told of itself (`about` of `FeatureFile.open`). Raises CacheError."""
    parts = sorted(path.with_name(path.name + ".parts").glob("*.h5"))
    there = path if path.exists() or not parts else parts[-1]
    try:
        with h5py.File(there, "r", locking=False) as file:
            if file.attrs.get("format") == FORMAT:
                return dict(json.loads(file.attrs["about"]))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CacheError(f"cache: {path} cannot be read ({str(error).splitlines()[0]}).") from error
    raise CacheError(f"cache: {path} is not a feature file of this version of tbps.")


class FeatureFile:
    """Rows and vectors under one path; see the module's text. Made by `open`."""

    def __init__(self, path: Path, fingerprint: str, dtype: DTypeLike, about: Mapping[str, object]) -> None:
        self.path, self.fingerprint, self.dtype, self.about = path, fingerprint, np.dtype(dtype), dict(about)
        self.unwritten = False
        """Whether rows stay in memory from now on, see `in_memory` and `lenient`."""
        self._lenient = False
        self._parts: list[_Stored] = []
        self._rows = Rows.of([])
        self._place: Array = np.empty(0, np.int64)

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
        except CacheError as error:
            if not rebuild:
                raise
            logger.warning("%s Rebuilding it.", error.message)
            file._discard()
        except OSError as error:  # its folder may not even be looked into
            if not lenient:
                raise _unreadable(path, error) from error
            logger.warning("%s Going on without it.", _unwritable(path, error).message)
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
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

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
        new = _Stored(Path(), Rows.of(rows), vector_NE.astype(self.dtype), {}, [])
        try:
            self._parts.append(new if self.unwritten else self._written(new))
        except CacheError as error:
            if not self._lenient:
                raise
            logger.warning("%s Going on without it.", error.message)
            self.unwritten = True
            self._parts.append(new)
        self._index()

    def places(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """Where these paths stand in `known()`; -1 for those that are not there."""
        place = {path: number for number, path in enumerate(self._rows.paths)}
        return np.array([place.get(path, -1) for path in paths], np.int64)

    def keep(self, mask_N: Array) -> None:
        """Keep the rows of `known()` where the mask is true, drop the others."""
        gone = {path for path, kept in zip(self._rows.paths, mask_N, strict=True) if not kept}
        if gone and not self.unwritten:
            self._merge(gone)
        elif gone:
            kept = np.flatnonzero(mask_N)
            self._parts = [_Stored(Path(), self._rows.take(kept), self._gathered(kept), {}, [])]
            self._index()

    def matrix(self) -> Array:
        """The vectors of `known()`, [N, E], mapped from the file; in memory where it cannot be written."""
        if self.unwritten:
            return self._gathered(np.arange(len(self)))
        if any(part.path != self.path for part in self._parts):
            try:
                self._merge(set())
            except CacheError as error:
                logger.warning("%s", error.message)
                return self._gathered(np.arange(len(self)))
        return self._parts[0].vectors if self._parts else np.empty((0, 0), self.dtype)

    def vectors(self, index_K: Array) -> Array:
        """The vectors of some rows of `known()`, in memory, without merging anything."""
        return self._gathered(np.asarray(index_K, np.int64))

    # Inside -------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self.path.with_name(self.path.name + ".parts")

    def _facts(self, merged: list[str]) -> dict[str, str]:
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "about": json.dumps(self.about),
            "merged": json.dumps(merged),
        }

    def _written(self, part: _Stored) -> _Stored:
        path = self._folder / f"{len(self._parts):06d}-{uuid.uuid4().hex}.h5"
        _write(path, part.rows, [part.vectors], part.vectors.shape, self._facts([]))
        return _read(path, self.fingerprint)

    def _load(self) -> None:
        """Read the file and its parts; a part that the file already holds (killed while merging) is skipped."""
        merged: set[str] = set()
        parts = []
        if self.path.exists():
            parts.append(_read(self.path, self.fingerprint))
            self.dtype = parts[0].vectors.dtype
            merged = set(parts[0].merged)
        if self._folder.is_dir():
            for path in sorted(self._folder.glob("*.h5"), key=lambda found: (found.stat().st_mtime_ns, found.name)):
                if path.name not in merged:
                    parts.append(_read(path, self.fingerprint))
        self._parts = parts
        self.about = self.about or (parts[0].about if parts else {})
        self._index()

    def _index(self) -> None:
        """Line up the rows of all parts; of several with the same path the latest counts."""
        rows = Rows.joined([part.rows for part in self._parts]) if self._parts else Rows.of([])
        latest = {path: place for place, path in enumerate(rows.paths)}
        self._place = np.fromiter(latest.values(), np.int64, len(latest))
        self._rows = rows if len(latest) == len(rows) else rows.take(self._place)

    def _gathered(self, index_K: Array) -> Array:
        if not self._parts:
            return np.empty((0, 0), self.dtype)
        place_K = self._place[index_K]
        vectors = np.empty((len(place_K), self._parts[0].vectors.shape[1]), self.dtype)
        start = 0
        for part in self._parts:
            mine = (place_K >= start) & (place_K < start + len(part.rows))
            vectors[mine] = part.vectors[place_K[mine] - start]
            start += len(part.rows)
        return vectors

    def _merge(self, gone: set[str]) -> None:
        """Write one file of everything but `gone`, then remove the parts."""
        with _alone(self.path):
            self._load()  # another process may have appended or merged meanwhile
            kept = np.array([path not in gone for path in self._rows.paths], bool)
            index = np.flatnonzero(kept)
            blocks = (self._gathered(index[start : start + 8192]) for start in range(0, len(index), 8192))
            width = self._parts[0].vectors.shape[1] if self._parts else 0
            names = [part.path.name for part in self._parts if part.path != self.path]
            facts = self._facts(names)
            _write(self.path, self._rows.take(index), blocks, (len(index), width), facts, self.dtype)
            for name in names:
                (self._folder / name).unlink(missing_ok=True)
            for leftover in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
            _remove_folder(self._folder)
            self._load()

    def _discard(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            for part in self._folder.glob("*.h5") if self._folder.is_dir() else ():
                part.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._parts = []
        self._index()


@dataclass
class _Stored:
    """One HDF5 file, the main one or a part, its vectors mapped; or rows in memory, with an empty path."""

    path: Path
    rows: Rows
    vectors: Array
    about: dict[str, object]
    merged: list[str]
    """Names of the parts that the file has swallowed."""


def _read(path: Path, fingerprint: str) -> _Stored:
    """One HDF5 file. Raises CacheError when it is damaged, or made by something else."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT:
                raise CacheError(f"cache: {path} is not a feature file of this version of tbps.", _DELETE)
            about, merged = json.loads(file.attrs["about"]), json.loads(file.attrs["merged"])
            if file.attrs["fingerprint"] != fingerprint:
                made = about.get("run", "other weights, another transform or method settings")
                raise CacheError(f"cache: {path} was made by {made}, so its vectors cannot be compared.", _DELETE)
            rows = Rows({name: file[name][:] for name in COLUMNS})
            vectors = file["vectors"]
            place, shape, dtype = vectors.id.get_offset(), vectors.shape, vectors.dtype
        if len(rows) != shape[0]:
            raise CacheError(f"cache: {path} is damaged ({len(rows)} rows, {shape[0]} vectors).", _DELETE)
        mapped = np.memmap(path, dtype, "r", place, shape) if 0 not in shape else np.empty(shape, dtype)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    return _Stored(path, rows, mapped, about, merged)


def _write(
    path: Path,
    rows: Rows,
    blocks: Iterable[Array],
    shape: tuple[int, ...],
    facts: Mapping[str, str],
    dtype: DTypeLike | None = None,
) -> None:
    """Write a whole file under a temporary name, sync it, rename it. Raises CacheError."""
    blocks = iter(blocks)
    first = next(blocks, np.empty(shape, dtype))
    size = shape[0] * shape[1] * first.dtype.itemsize + sum(column.nbytes for column in rows.columns.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path, CacheError, then=_ROOM) as temporary:
            _reserve(temporary, size + 65536)
            with h5py.File(temporary, "w") as file:
                file.attrs.update(facts)
                vectors = file.create_dataset("vectors", shape, first.dtype)
                start = 0
                for block in (first, *blocks):
                    vectors[start : start + len(block)] = block
                    start += len(block)
                for name, column in rows.columns.items():
                    file.create_dataset(name, data=column)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from error


def _reserve(path: Path, size: int) -> None:
    """Fail now rather than in the middle: HDF5 does not recover well from a full disk."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _remove_folder(folder: Path) -> None:
    """Remove an empty folder of parts, with what a killed process left under a temporary name."""
    for leftover in folder.glob(".*.tmp") if folder.is_dir() else ():
        leftover.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process merges at a time; the folder serves as the lock, so no lock file is left behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unreadable(path: Path, error: BaseException) -> CacheError:
    return CacheError(f"cache: {path} cannot be read as a feature file ({str(error).splitlines()[0]}).", _DELETE)


def _unwritable(path: Path, error: BaseException) -> CacheError:
    reason = files.reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
    return CacheError(f"{path} cannot be written: {reason}.", _ROOM)
