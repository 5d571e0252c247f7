"""`tbps index SOURCE... --gallery URL`: a gallery in a database is brought up to date with the sources of this machine.

The sources are indexed here first, as always; the index in the cache is this machine's copy, and what makes it cheap to
go on. Then the database gets what differs: rows that are new or have changed, and it loses those whose files are gone
from these sources. Rows of other machines and folders stay as they are, since their paths begin with other names.

What the database was given is written down in the cache (`GivenRows`), so that a run costs what is new, and not what is
there. Where the journal is missing, the database has another number of rows than it says, or was restored from a backup
since (`Database.history`), the database itself is asked, page by page.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.databases.base import Database
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.lookup import Lookup, Texts, hashes
from tbps_cli.features.rows import Rows, encoded
from tbps_cli.filtering.tree import Like, Or, Tree
from tbps_cli.models.checkpoint import Checkpoint, opened
from tbps_cli.places import cache_dir
from tbps_cli.searching.database_gallery import place_here, refuse_other_model
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.withheld import Forgotten, list_in_cache, split

logger = logging.getLogger("tbps")
BATCH = 2000
"""Rows that are added, read or deleted at a time."""
NOTED = 50_000
"""Rows after which the journal is written, so that a killed run does not begin anew."""
Progress = Callable[[int, int], None]
Watch = Callable[[str, str], AbstractContextManager[Progress]]


@dataclass
class Filled:
    """What a database has of these sources now."""

    title: str
    size: int = 0
    """Rows in the whole gallery."""
    names: list[str] = field(default_factory=list)
    """What the paths of these sources begin with."""
    added: int = 0
    removed: int = 0
    settled: bool = True
    """Whether searches find the new rows as surely as all others."""

    def document(self) -> dict[str, Any]:
        """As `tbps index --json` prints it."""
        return {
            "gallery": self.title,
            "size": self.size,
            "names": self.names,
            "added": self.added,
            "removed": self.removed,
            "settled": self.settled,
        }


def fill(
    urls: Sequence[str],
    checkpoint: Encoder | Checkpoint | str | Path | None,
    embed: Callable[[Encoder], Gallery],
    *,
    complete: bool,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    watch: Watch | None = None,
) -> tuple[Gallery, Filled]:
    """Index sources on this machine, then bring the gallery of a database up to date with them.

    urls: of the database, or of its shards. checkpoint, device, ...: as `index.index` takes them. embed: indexes the
    sources with the opened model. complete: as in `bring_up_to_date`. watch: gives the progress callback of what
    follows, called with its title and unit. Raises DatabaseError where the database cannot be used, before anything is
    embedded.
    """
    with closing(open_database(urls, create=True)) as database:
        title, made_by, about = database.title, database.fingerprint, database.about
    model = opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root)
    refuse_other_model(title, made_by, about, model)
    gallery = embed(model)
    told = {"run": str(model.path)}
    with closing(open_database(urls, create=True, fingerprint=made_by or model.fingerprint, about=told)) as database:
        with watch(f"Writing to {title}", "rows") if watch else nullcontext() as progress:
            filled = bring_up_to_date(database, gallery, complete=complete, watch=progress)
        with watch(f"Waiting for the index of {title}", "rows") if watch else nullcontext() as progress:
            filled.settled = settled(database, progress)
        return gallery, filled


def settled(database: Database, watch: Progress | None = None) -> bool:
    """Wait until what was added is found as surely as all else; says so where a server gets no further with it.

    watch: told how many rows are ready, of how many; without it one line says that it is waited for.
    """
    told = False

    def say(ready: int, total: int) -> None:
        nonlocal told
        if ready < total and not told:
            logger.info(
                "%s: waiting until the server has built the index of its %s rows.", database.title, f"{total:,}"
            )
            told = True

    done = database.settle(watch or say)
    if not done:
        logger.warning(
            "%s: all rows are kept, but the server gets no further with the index of the newest ones: searches miss "
            "some of them until it is built. See the server's log.",
            database.title,
        )
    return done


def bring_up_to_date(
    database: Database, gallery: Gallery, *, complete: bool = True, watch: Progress | None = None
) -> Filled:
    """Give a database the rows of a gallery that it lacks, and take those whose files are gone.

    complete: the gallery has all files below its roots; otherwise only rows of files that are not there any more,
    were forgotten or are too old go.
    """
    names = names_in(database, gallery.roots)
    rows = renamed(gallery.rows, names)
    journal = GivenRows.of(database, sorted(names.values()))
    path_N, sign_N = rows.columns["path"], _signs(rows)
    new = journal.differs(path_N, sign_N)
    gone = journal.others(path_N)
    if not complete:
        forgotten = Forgotten.of_lists([list_in_cache()])
        there = _file_of({name: gallery.roots.named.get(own, gallery.roots.folder) for own, name in names.items()})
        expired = {str(gallery.roots.file_of(path)): state for path, state in gallery.update.expired.items()}
        gone = [path for path in gone if _is_gone(there(path), forgotten, expired)]
    filled = Filled(database.title, names=sorted(names.values()), added=len(new), removed=len(gone))
    total, done = len(new) + len(gone), 0
    try:
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            database.add(rows.take(part), np.asarray(gallery.vector_GE[part]))
            journal.added(path_N[part], sign_N[part])
            done += len(part)
            if watch is not None:
                watch(done, total)
            if start // NOTED != (start + BATCH) // NOTED:
                journal.write()
        for start in range(0, len(gone), BATCH):
            part_gone = gone[start : start + BATCH]
            database.delete(part_gone)
            journal.removed(part_gone)
            done += len(part_gone)
            if watch is not None:
                watch(done, total)
    finally:
        if done:
            journal.write()
    filled.size = database.count()
    return filled


def _is_gone(place: Path, forgotten: Forgotten, expired: Mapping[str, tuple[int, int]]) -> bool:
    """Whether an image or crop is not to be shown any more: its file is not there, was forgotten, or is too old."""
    file, fragment = split(str(place))
    try:
        state = Path(file).stat()
    except OSError:
        return True
    real = os.path.realpath(file)
    if (
        forgotten.covers_file(file)
        or forgotten.covers_file(real)
        or {file + fragment, real + fragment} & forgotten.paths
    ):
        return True
    return expired.get(file) == (state.st_size, state.st_mtime_ns)


def forget_in(urls: Sequence[str], paths: Sequence[str]) -> tuple[str, int]:
    """Delete files, folders and crops of this machine from a database; returns its title and how many rows went."""
    with closing(open_database(urls)) as database:
        return database.title, sum(_forget(database, path) for path in paths)


def _forget(database: Database, path: str) -> int:
    file, fragment = split(path)
    absolute = Path(file).expanduser().resolve()
    count = 0
    for name, place in database.roots().items():
        host_folder = Path(place.partition(":")[2])
        if place != place_here(host_folder) or not absolute.is_relative_to(host_folder):
            continue
        inside = absolute.relative_to(host_folder).as_posix()
        key = (name if inside == "." else f"{name}/{inside}") + fragment
        count += database.delete([key])
        for begin in () if fragment else (f"{key}#", f"{key}/"):  # crops of a file, all that is in a folder
            count += _delete_below(database, key, begin)
    return count


def _delete_below(database: Database, key: str, begin: str) -> int:
    """Delete the rows of a file or folder among those whose paths begin like this.

    They are read in the order of paths, since a filter would take * for any text. A name may hold # itself, so not all
    that begins like a crop is one of this file.
    """
    count, after = 0, begin
    while len(rows := database.page(after, BATCH)[0]):
        there = [path for path in rows.paths if path.startswith(begin)]
        wanted = [path for path in there if path.startswith(f"{key}/") or split(path)[0] == key]
        count += database.delete(wanted) if wanted else 0
        if len(there) < len(rows):
            break
        after = rows.paths[-1]
    return count


def names_in(database: Database, roots: Roots) -> dict[str, str]:
    """What paths of a gallery begin with -> what they begin with in the database; "" is the folder itself."""
    own = roots.named or {"": roots.folder}
    return {
        name: database.add_root((name or place.resolve().name or "root").translate(_NO_PATTERN), place_here(place))
        for name, place in own.items()
    }


_NO_PATTERN = str.maketrans("*?/#", "____")
"""So that a filter for all rows of a folder is exact."""


def renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    """Rows with their paths and sources as they are in the database."""
    if all(name == other for name, other in names.items()):
        return rows
    texts = {column: _renamed_texts(rows.columns[column], names) for column in ("path", "source")}
    return Rows({**rows.columns, **texts})


def _renamed_texts(text_N: NDArray[np.bytes_], names: Mapping[str, str]) -> NDArray[np.bytes_]:
    if "" in names:
        prefix = encoded(names[""] + "/")
        return np.where(text_N == b"", b"", np.strings.add(prefix, text_N))

    def other(text: bytes) -> bytes:
        name, slash, inside = text.partition(b"/")
        return known.get(name, name) + slash + inside

    known = {encoded(name): encoded(other) for name, other in names.items()}
    return np.array([other(text) for text in text_N.tolist()], "S")


def _file_of(places: Mapping[str, Path]) -> Callable[[str], Path]:
    """Where a path of the database lies on this machine."""
    return Roots(Path(), places).file_of


def _signs(rows: Rows) -> NDArray[np.int64]:
    """64 bits over everything that is known of each row: they differ when anything does."""
    total_N = np.zeros(len(rows), np.int64)
    for name in sorted(rows.columns):
        column = np.ascontiguousarray(rows.columns[name])
        if column.dtype.kind != "S":
            column = column.reshape(len(rows), int(np.prod(column.shape[1:])))
            column = column.view(f"S{column.itemsize * column.shape[1]}").reshape(len(rows))
        with np.errstate(over="ignore"):
            total_N = total_N * np.int64(1_000_003) + hashes(column)
    return total_N


class GivenRows:
    """What a database was given of some sources: the path of each row, and 64 bits over what is known of it."""

    def __init__(self, file: Path, database: Database, path_M: Texts, sign_M: NDArray[np.int64]) -> None:
        self.file, self.database, self.path_M, self.sign_M = file, database, path_M, sign_M
        self._lookup = Lookup.of(path_M)
        self._valid_M = np.ones(len(path_M), bool)
        self._more: list[tuple[Texts, NDArray[np.int64]]] = []

    @classmethod
    def of(cls, database: Database, names: Sequence[str]) -> GivenRows:
        """What the cache says, if the database has as many rows; else what the database itself has."""
        with database.moment():
            return cls._of(database, names)

    @classmethod
    def _of(cls, database: Database, names: Sequence[str]) -> GivenRows:
        mark = hashlib.blake2b("\0".join([database.title, *names]).encode("utf-8", "replace"), digest_size=8)
        file = cache_dir() / "given" / f"{mark.hexdigest()}.npz"
        known = _read(file)
        count = database.count(_any_of(names))
        if known is not None and len(known[0]) == count and _goes_on(known[2], database.history()):
            return cls(file, database, *known[:2])
        if known is not None:
            logger.info("%s has other rows of this machine than it was given: they are read.", database.title)
        return cls(file, database, *_rows_of(database, names if count else ()))

    def differs(self, path_N: Texts, sign_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which rows the database does not have, or has otherwise."""
        place_N = self._lookup.find(path_N)
        if not len(self.sign_M):
            return np.arange(len(path_N))
        return np.flatnonzero((place_N < 0) | (self.sign_M[place_N] != sign_N))

    def others(self, path_N: Texts) -> list[str]:
        """The paths of rows that the database has beside these."""
        other_M = self.path_M[Lookup.of(path_N).find(self.path_M) < 0]
        return [path.decode("utf-8", "surrogateescape") for path in other_M.tolist()]

    def added(self, path_K: Texts, sign_K: NDArray[np.int64]) -> None:
        self._drop(path_K)
        self._more.append((path_K, sign_K))

    def removed(self, paths: Sequence[str]) -> None:
        self._drop(np.array([encoded(path) for path in paths], "S"))

    def _drop(self, path_K: Texts) -> None:
        place_K = self._lookup.find(path_K)
        self._valid_M[place_K[place_K >= 0]] = False

    def write(self) -> None:
        """Keep it; best effort, since without it the database is asked."""
        parts = [(self.path_M[self._valid_M], self.sign_M[self._valid_M]), *self._more]
        content = io.BytesIO()
        np.savez(
            content,
            path=np.concatenate([path_N for path_N, _ in parts]),
            sign=np.concatenate([sign_N for _, sign_N in parts]),
            history=np.array(json.dumps(list(self.database.history()))),
        )
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(self.file, content.getvalue())
        except (OSError, TbpsError) as error:
            logger.debug("%s cannot be written: %s", self.file, error)


def _goes_on(before: Sequence[tuple[str, int]], now: Sequence[tuple[str, int]]) -> bool:
    """Whether a database still has what it had before."""
    if len(before) != len(now):
        return False
    return all(old == new and far <= further for (old, far), (new, further) in zip(before, now, strict=True))


def _read(file: Path) -> tuple[Texts, NDArray[np.int64], list[tuple[str, int]]] | None:
    """What a journal says, and the history of the database then; None where there is none that can be read."""
    try:
        with np.load(file, allow_pickle=False) as found:
            path_M, sign_M = found["path"], found["sign"]
            history = [(str(which), int(far)) for which, far in json.loads(str(found["history"]))]
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    usable = path_M.dtype.kind == "S" and sign_M.dtype == np.int64 and path_M.shape == sign_M.shape == (len(path_M),)
    return (path_M, sign_M, history) if usable else None


def _any_of(names: Sequence[str]) -> Tree:
    return Or(tuple(Like("path", pattern) for name in names for pattern in (name, f"{name}#*", f"{name}/*")))


def _rows_of(database: Database, names: Sequence[str]) -> tuple[Texts, NDArray[np.int64]]:
    """The rows under these names that a database has, read in the order of their paths."""
    found = [(np.zeros(0, "S1"), np.zeros(0, np.int64))]
    for name in names:
        query_1E = np.eye(1, database.sample(1).shape[1], dtype=np.float32)
        rows = database.search(query_1E, 1, Like("path", name))[0].rows
        found.append((rows.columns["path"], _signs(rows)))
        for inside in (f"{name}#", f"{name}/"):  # persons in a video that is a source itself; files of a folder
            after = inside
            while len(rows := database.page(after, BATCH)[0]):
                wanted = np.flatnonzero(np.strings.startswith(rows.columns["path"], encoded(inside)))
                found.append((rows.columns["path"][wanted], _signs(rows)[wanted]))
                if len(wanted) < len(rows):
                    break
                after = rows.paths[-1]
    return np.concatenate([path_N for path_N, _ in found]), np.concatenate([sign_N for _, sign_N in found])
