"""A gallery copied into another place without embedding anything again: `tbps index --move FROM TO`.

Both are an index file, a gallery with a name or a database: a gallery grows from a file into a server, or comes back.
Rows are copied page by page in the order of their paths, and a page counts when TO says that it is kept. TO is asked
what it has, row by row in the same order: what is there is not sent again, what has changed is replaced. So a copy that
was killed is done by the next one, and doing it again costs a look. FROM stays as it is.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.base import Database
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.databases.opening import open_database
from tbps_cli.databases.urls import is_url, shown_place
from tbps_cli.errors import CacheError, DatabaseError, DataError, UsageError
from tbps_cli.features.pipeline import Progress
from tbps_cli.features.rows import Row, Rows, encoded
from tbps_cli.features.snapshot import read_fingerprint
from tbps_cli.features.store import feature_path
from tbps_cli.files import expanded
from tbps_cli.filtering.tree import Compare, In, Like
from tbps_cli.searching.filling import names_in, renamed, settled
from tbps_cli.searching.galleries import is_gallery, sources_of
from tbps_cli.searching.gallery import Roots
from tbps_cli.searching.index_state import IndexState
from tbps_cli.searching.skipped import SkippedList
from tbps_cli.searching.sources import find_sources
from tbps_cli.searching.withheld import Expiry, Forgotten, Withheld, list_beside, list_in_cache

logger = logging.getLogger("tbps")
PAGE = 2048
"""Rows that are copied at a time; a kill costs at most so many."""
_NAMES = "path", "source"
"""Columns that begin with the name of a folder."""


@dataclass(frozen=True)
class Transfer:
    """What was copied."""

    origin: str
    target: str
    run: str
    size: int
    """Rows of FROM that TO has now."""
    copied: int
    """Of these, what was sent this time; the others were there."""
    replaced: int
    """Of what was sent: rows that TO had otherwise."""
    withheld: int
    """Rows of FROM that were forgotten or are too old, so that they stay out."""
    in_target: int
    """All rows of TO."""

    def document(self) -> dict[str, Any]:
        """What `tbps index --move --json` prints."""
        return {
            "from": self.origin,
            "to": self.target,
            "run": self.run,
            "size": self.size,
            "copied": self.copied,
            "replaced": self.replaced,
            "left_out": self.withheld,
            "size_of_target": self.in_target,
        }


def move(origin: str | Path, target: str | Path, *, progress: Progress | None = None) -> Transfer:
    """Copy a gallery. Places are an index file, the name of a gallery, a URL, or several URLs (shards) with blanks.

    Raises DataError, DatabaseError or CacheError where FROM is not there, TO was made by another model, or rows of FROM
    are not in TO at the end; UsageError where both are the same place.
    """
    with ExitStack() as opened:
        source = opened.enter_context(closing(_opened(origin)))
        if source.fingerprint is None or not source.count():
            raise UsageError(f"--move {source.title}: there are no rows in it.", "Nothing was copied.")
        about = {"folder": str(Path.cwd()), **source.about}
        about.pop("sources", None)  # an index file keeps there what `add_root` says
        if (only := _only_folder(source)) is not None:
            about["folder"] = only[1]
        dtype = source.dtype if isinstance(source, LocalDatabase) else np.dtype(np.float16)
        sink = opened.enter_context(closing(_opened(target, dtype, fingerprint=source.fingerprint, about=about)))
        if isinstance(sink, LocalDatabase) and sink.dtype.itemsize < dtype.itemsize:
            logger.warning(
                "%s keeps its vectors in half precision, so those of %s are rounded.", sink.title, source.title
            )
        if _same(source, sink):
            raise UsageError(f"--move: {source.title} cannot be copied into itself.", "Name another place.")
        moved = _Copy(source, sink, _naming(source, sink), progress).run()
        of_one_folder = source.about.get("folder") == sink.about.get("folder")
        if isinstance(source, LocalDatabase) and isinstance(sink, LocalDatabase) and of_one_folder:
            _copy_notes(source.path, sink.path)
    return moved


def _same(source: Database, sink: Database) -> bool:
    if isinstance(source, LocalDatabase) and isinstance(sink, LocalDatabase):
        return source.path.resolve() == sink.path.resolve()
    return source.title == sink.title


def _opened(place: str | Path, dtype: np.dtype[Any] | None = None, **made: Any) -> Database:
    """FROM, or TO where it is told what to be made of, and of which type the vectors of a new index file are."""
    urls = str(place).split()
    if urls and all(map(is_url, urls)):
        return open_database(urls, create=bool(made), **made)
    path = _index_of(str(place), made.get("fingerprint"))
    if path.is_dir():
        raise UsageError(f"--move {path} is a folder.", "Name its index file: tbps index FOLDER --index FILE")
    if not made and read_fingerprint(path) is None:
        hint = "Give an index file, the name of a gallery (tbps index --gallery NAME), or the URL of a database."
        raise CacheError(f"--move {shown_place(str(place))}: there is no index of this name.", hint)
    try:
        return LocalDatabase.open(path, create=bool(made), dtype=np.float16 if dtype is None else dtype, **made)
    except CacheError as error:  # a gallery is no cache, to be deleted
        hint = "Name another file." if made else "Restore it from a backup, or index its images again."
        raise CacheError(error.message, hint) from None


def _index_of(place: str, fingerprint: str | None) -> Path:
    """An index file, or that of a gallery with this name; fingerprint: of the model, None where there is to be one."""
    path = expanded(Path(place))
    if path.exists() or not is_gallery(place):
        return path
    given = find_sources(sources_of(place), gallery=place)

    def named(mark: str) -> Path:
        return feature_path("indexes", given.roots.folder, mark, given.part)

    if fingerprint is not None:
        return named(fingerprint)
    pattern = named("*")
    found = [file for file in pattern.parent.glob(pattern.name) if file == named(read_fingerprint(file) or "")]
    if len(found) != 1:
        what = "no index yet" if not found else "indexes of several models"
        hint = f"Make one: tbps index --gallery {place}" if not found else f"Name one of: {', '.join(map(str, found))}"
        raise UsageError(f"--move {place}: the gallery has {what}.", hint)
    return found[0]


# Names ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Naming:
    """How paths are called in TO."""

    names: Mapping[str, str] = field(default_factory=dict)
    """What a path begins with -> what it begins with there; "" is the folder that paths are relative to."""
    without: str = ""
    """The name of a folder that goes from the front."""

    @property
    def in_order(self) -> bool:
        """Whether rows stand in the same order in TO."""
        return "" in self.names or all(name == other for name, other in self.names.items())

    def of(self, rows: Rows) -> Rows:
        """The rows as they are called there."""
        if not self.without:
            return renamed(rows, self.names)
        front = encoded(f"{self.without}/")
        texts = {name: [text.removeprefix(front) for text in rows.columns[name].tolist()] for name in _NAMES}
        return Rows({**rows.columns, **{name: np.array(texts[name] or [b""], "S")[: len(rows)] for name in _NAMES}})


def _naming(source: Database, sink: Database) -> _Naming:
    """In a database all paths begin with the name of a folder, as `tbps index --gallery URL` writes them.

    In an index file those of one folder do not, unless there are rows of another folder.
    """
    folder, named = Path(str(source.about.get("folder", "."))), source.roots()
    if not isinstance(sink, LocalDatabase):
        if isinstance(source, LocalDatabase):
            return _Naming(names_in(sink, Roots(folder, {name: Path(place) for name, place in named.items()})))
        return _Naming({name: sink.add_root(name, place) for name, place in named.items()})
    only = _only_folder(source)
    if only is not None and only[1] == sink.about.get("folder") and not sink.roots():
        return _Naming(without=only[0])
    if not named and sink.count() and sink.about.get("folder") != str(folder):
        return _Naming({"": sink.add_root(folder.name or "root", str(folder))})
    return _Naming({name: sink.add_root(name, _folder(place)) for name, place in named.items()})


def _only_folder(source: Database) -> tuple[str, str] | None:
    """The name of the one folder that all rows of a database are of, and where it lies."""
    named = dict(source.roots())
    if isinstance(source, LocalDatabase) or len(named) != 1:
        return None
    ((name, place),) = named.items()
    inside = {row: source.count(Like(row, f"{name}/*")) for row in _NAMES}
    whole = inside["path"] == source.count() and inside["source"] == source.count(Compare("source", "!=", None))
    return (name, _folder(place)) if whole else None


def _folder(place: str) -> str:
    """A folder as an index file keeps it, without the machine that databases write before it."""
    return re.sub(r"^[^/]*:(?=/)", "", place)


# Copying ----------------------------------------------------------------------------------------


class _There:
    """What TO has, read in the order of paths beside FROM."""

    def __init__(self, sink: Database) -> None:
        self.sink = sink
        self.rows: dict[str, Row] = {}
        self.last: str | None = None
        self.ended = not sink.count()

    def upto(self, last: str) -> dict[str, Row]:
        """The rows behind those that were asked for before, up to this path."""
        while not self.ended and (self.last is None or encoded(self.last) < encoded(last)):
            rows, _ = self.sink.page(self.last, PAGE)
            self.rows.update(zip(rows.paths, rows, strict=True))
            self.ended = not len(rows)
            self.last = rows.paths[-1] if len(rows) else self.last
        found = {path: row for path, row in self.rows.items() if encoded(path) <= encoded(last)}
        self.rows = {path: row for path, row in self.rows.items() if path not in found}
        return found


class _Copy:
    """One copy on its way."""

    def __init__(self, source: Database, sink: Database, naming: _Naming, progress: Progress | None) -> None:
        self.source, self.sink, self.naming, self.progress = source, sink, naming, progress
        self.before = sink.count()
        self.size = self.copied = self.known = self.replaced = self.withheld = 0

    def run(self) -> Transfer:
        """Copy every page, then count."""
        total, done = self.source.count(), 0
        there = _There(self.sink)
        for rows, vector_NE, read in self._pages():
            done += read
            if len(rows):
                self._copy(rows, vector_NE, there)
            if self.progress is not None:
                self.progress(done, max(total, done))
        found, right = self.sink.count(), self.before + self.size - self.known
        if found < right:
            raise DatabaseError(
                f"--move: {self.sink.title} has {found:,} rows, {right - found:,} fewer than it should have.",
                "Somebody removes rows at the same time, or it is damaged. Run the same command again.",
            )
        run, size = str(self.source.about.get("run", "")), self.size
        titles = self.source.title, self.sink.title
        settled(self.sink)
        return Transfer(*titles, run, size, self.copied, self.replaced, self.withheld, found)

    def _pages(self) -> Iterator[tuple[Rows, NDArray[Any], int]]:
        """The rows of FROM that may be shown, under their names in TO, their vectors, and how many were read."""
        hidden = _withheld(self.source)
        after: str | None = None
        while True:
            rows, vector_NE = self.source.page(after, PAGE)
            if not len(rows):
                return
            after = rows.paths[-1]
            kept_K = np.flatnonzero(~hidden(rows))
            _refuse_damaged(self.source.title, rows, vector_NE)
            self.withheld += len(rows) - len(kept_K)
            yield self.naming.of(rows.take(kept_K)), vector_NE[kept_K], len(rows)

    def _copy(self, rows: Rows, vector_NE: NDArray[Any], there: _There) -> None:
        """One page: what TO has not, or has otherwise."""
        # where folders have other names, rows are sent again rather than compared
        known = there.upto(rows.paths[-1]) if self.naming.in_order else {}
        self.size += len(rows)
        self.known += len(known.keys() & set(rows.paths)) if self.naming.in_order else self._count(rows.paths)
        new = [place for place, row in enumerate(rows) if known.get(row.path) != row]
        if not new:
            return
        self.sink.add(rows.take(np.array(new)), vector_NE[new])
        self.copied += len(new)
        self.replaced += sum(rows.paths[place] in known for place in new)
        kept = self._count([rows.paths[place] for place in new])
        if kept < len(new):
            raise DatabaseError(
                f"--move: {self.sink.title} has kept {kept:,} of {len(new):,} rows.", "Run the same command again."
            )

    def _count(self, paths: Sequence[str]) -> int:
        """How many of these TO has."""
        return self.sink.count(In("path", tuple(paths)))


def _refuse_damaged(title: str, rows: Rows, vector_NE: NDArray[Any]) -> None:
    """Raises DataError for a vector that no model has made, so that it is not spread further."""
    finite_N = np.isfinite(vector_NE).all(1)
    if not finite_N.all():
        raise DataError(
            f"--move {title}: it is damaged: the vector of {rows.paths[int(np.argmin(finite_N))]} has values"
            " that are no numbers.",
            "Restore it from a backup, or index its images again: tbps index SOURCE",
        )


def _withheld(source: Database) -> Callable[[Rows], NDArray[np.bool_]]:
    """Which rows must not be copied: what was forgotten, and what an index lets expire."""
    roots = Roots(
        Path(str(source.about.get("folder", "."))),
        {name: Path(_folder(folder)) for name, folder in source.roots().items()},
    )
    if isinstance(source, LocalDatabase):
        return Withheld(source.path, roots).covers
    forgotten = Forgotten.of_index(list_in_cache())  # that list holds for galleries anywhere
    return lambda rows: forgotten.covers(rows, roots)


def _copy_notes(origin: Path, target: Path) -> None:
    """What lies beside an index: which videos are done, what is left out, forgotten, or goes after a time."""
    for note in (list_beside, lambda path: Expiry(path).path, lambda path: IndexState(path).path, _left_out):
        if note(origin).is_file() and not note(target).exists():
            shutil.copyfile(note(origin), note(target))


def _left_out(path: Path) -> Path:
    return SkippedList(path).path
