"""What an index must not hold although the files are there: what was forgotten on request, and what is too old.

The list of what was forgotten lies in the cache folder and holds for every index made there, whatever the model; it is
kept beside an index file of one's own too. It has absolute paths, and hashes of what the files held, so that a copy
under another name stays out as well. The period after which images expire belongs to one index and lies beside it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features.lookup import Lookup, coded
from tbps_cli.features.rows import Rows, encoded, texts
from tbps_cli.features.store import FeatureFile
from tbps_cli.places import cache_dir
from tbps_cli.searching.gallery import Roots
from tbps_cli.searching.line_log import LineLog
from tbps_cli.searching.scan import FoundFiles
from tbps_cli.searching.sources import Items

logger = logging.getLogger("tbps")
_DATED = re.compile(rb"\d{4}-\d\d-\d\dT")
_FRAGMENT = re.compile(r"#(?:t=|xywh=)")


def list_in_cache() -> Path:
    """The list that holds for every index in the cache; `tbps cache --clean` leaves it."""
    return cache_dir() / "forgotten.jsonl"


def list_beside(index: Path) -> Path:
    """The list that goes with one index file."""
    return index.with_name(index.name + ".forgotten.jsonl")


def remember(entries: list[dict[str, Any]], path: Path) -> None:
    """Add to a list, on the disk before this returns. Raises TbpsError."""
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    LineLog(path, str(path)).append(entries)


@dataclass
class Forgotten:
    """What was forgotten: paths of files and folders, parts of files, and contents under whatever name."""

    paths: set[str] = field(default_factory=set)
    """Absolute; of a crop with its media fragment."""
    contents: set[str] = field(default_factory=set)

    @classmethod
    def of_index(cls, index: Path) -> Forgotten:
        """What the lists say that count for an index."""
        return cls.of_lists([list_in_cache(), list_beside(index)])

    @classmethod
    def of_lists(cls, paths: Iterable[Path]) -> Forgotten:
        """What these lists say."""
        made = cls()
        for entry in (entry for path in paths for entry in _lines(path)):
            made.add(entry)
        return made

    def __bool__(self) -> bool:
        return bool(self.paths or self.contents)

    def add(self, entry: dict[str, Any]) -> None:
        """Take up one line of a list."""
        if path := entry.get("path"):
            self.paths |= {str(path), os.path.realpath(str(path))} if not split(str(path))[1] else {str(path)}
        if content := entry.get("content"):
            self.contents.add(str(content))

    def covers_file(self, file: str) -> bool:
        """Whether a file, by its absolute path, or a folder above it was forgotten."""
        if not self.paths:
            return False
        return file in self.paths or any(str(folder) in self.paths for folder in Path(file).parents)

    def covers(self, rows: Rows, roots: Roots) -> NDArray[np.bool_]:
        """Which rows are of something that was forgotten."""
        columns, mask = rows.columns, np.zeros(len(rows), bool)
        if self.contents:
            mask[Lookup.of(columns["content"]).every(texts(list(self.contents)))] = True
        if self.paths:
            of_V, of_G = coded(columns["source"])
            itself_G = of_V[of_G] == b""
            mask[itself_G] |= self.covers_files(columns["path"][itself_G], roots)
            mask |= (self.covers_files(of_V, roots) & (of_V != b""))[of_G]
            for number, parts in self._parts_of(of_V, roots):
                for place in np.flatnonzero(of_G == number).tolist():
                    row = rows[place]
                    mask[place] |= row.path.removeprefix(row.source) in parts
        return mask

    def covers_files(self, name_N: NDArray[np.bytes_], roots: Roots) -> NDArray[np.bool_]:
        """Which files of a gallery were forgotten, under their own names or as what links lead to.

        Folder by folder: a million files lie in a thousand folders, and a folder is where it is for all its files.
        """
        mask = np.zeros(len(name_N), bool)
        if not self.paths or not len(name_N):
            return mask
        names_in: dict[str, set[bytes]] = {}
        for folder, name in map(os.path.split, self.paths):
            names_in.setdefault(folder, set()).add(encoded(name))
        folder_V, folder_N, start_N = _folders(name_N)
        order = np.argsort(folder_N, kind="stable")
        for number, place_M in enumerate(np.split(order, np.cumsum(np.bincount(folder_N))[:-1])):
            inside = folder_V[number].decode("utf-8", "surrogateescape")
            if not inside and roots.named:  # sources that are files, under names of their own
                for place in place_M.tolist():
                    name = name_N[place].decode("utf-8", "surrogateescape")
                    mask[place] = any(map(self.covers_file, _addresses(roots, name)))
                continue
            there = list(_addresses(roots, inside))
            if any(map(self.covers_file, there)):
                mask[place_M] = True
                continue
            start = int(start_N[place_M[0]])
            wanted = set().union(*(names_in.get(folder, set()) for folder in there))
            links = _links_in(roots.file_of(inside))
            if wanted or links:
                for place in place_M.tolist():
                    name = name_N[place][start:]
                    mask[place] = name in wanted or (name in links and self.covers_file(links[name]))
        return mask

    def _parts_of(self, of_V: NDArray[np.bytes_], roots: Roots) -> Iterator[tuple[int, set[str]]]:
        """(number of a source, the media fragments of its crops that were forgotten), where there are any."""
        parts = [path for path in self.paths if split(path)[1]]
        for number, of in enumerate(of_V.tolist() if parts else ()):
            name = of.decode("utf-8", "surrogateescape")
            there = _addresses(roots, name) if name else ()
            found = {path.removeprefix(file) for file in there for path in parts if path.startswith(f"{file}#")}
            if found:
                yield number, found


def _folders(name_N: NDArray[np.bytes_]) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """The different folders of paths, without a slash behind; which one each path has; where its file's name begins."""
    start_N = np.strings.rfind(name_N, b"/") + 1
    width = max(1, name_N.dtype.itemsize)
    byte_NW = np.ascontiguousarray(name_N).view(np.uint8).reshape(len(name_N), width)
    before_N = np.where(np.arange(width) < start_N[:, None] - 1, byte_NW, 0).astype(np.uint8)
    folder_V, folder_N = coded(before_N.view(f"S{width}").reshape(-1))
    return folder_V, folder_N, start_N


def _links_in(folder: Path) -> dict[bytes, str]:
    """The links of a folder, by name, and what each leads to in the end."""
    try:
        with os.scandir(folder) as listing:
            return {encoded(entry.name): os.path.realpath(entry.path) for entry in listing if entry.is_symlink()}
    except OSError:
        return {}


def split(path: str) -> tuple[str, str]:
    """A path and the media fragment behind it, `#t=12.480&xywh=120,80,40,96`; empty where the path has none."""
    found = None if os.path.lexists(path) else _FRAGMENT.search(path)
    return (path[: found.start()], path[found.start() :]) if found else (path, "")


def _addresses(roots: Roots, name: str) -> Iterable[str]:
    """The absolute paths of a file of a gallery: as its folder is named, and where that really lies."""
    file = str(roots.file_of(name).absolute())
    return dict.fromkeys((os.path.normpath(file), os.path.realpath(file)))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a list; one that cannot be read is said, since what it named may come back."""
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if not os.access(path.parent, os.X_OK):  # then no index can be kept there either
            logger.warning("%s cannot be read: what was forgotten may be among the hits.", path)
            return
        raise CacheError(f"{path} cannot be read: {error.strerror}.", "It lists what must not be indexed.") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError
            yield entry
        except ValueError:
            logger.warning("%s: line %s is damaged; what it named may be indexed again.", path, number)


class Expiry:
    """The file `INDEX.expired.json`: after how long images go, and which have gone, so that none is embedded again."""

    def __init__(self, index: Path) -> None:
        self.path = index.with_name(index.name + ".expired.json")
        self.seconds: float | None = None
        self.gone: dict[str, tuple[int, int]] = {}
        """Path -> size and mtime of an image that is not to be embedded again."""
        try:
            text = json.loads(self.path.read_text("utf-8"))
            self.seconds = None if text["seconds"] is None else float(text["seconds"])
            self.gone = {str(path): (int(size), int(mtime)) for path, (size, mtime) in text["gone"].items()}
            texts(list(self.gone))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, PermissionError) and not os.access(self.path.parent, os.X_OK):
                return  # said of the list of what was forgotten
            raise CacheError(
                f"{self.path} cannot be read ({error}); it says which images are too old.",
                "Delete it, and say the period again: tbps index SOURCE --expire 30d",
            ) from None

    def after(self, seconds: float) -> None:
        """Change the period; infinity ends it. What a longer one lets in again is embedded again."""
        if seconds != self.seconds:
            if seconds > (self.seconds or 0):
                self.gone = {}
            self.seconds = None if math.isinf(seconds) else seconds
            self._write()

    def knows(self, found: FoundFiles) -> NDArray[np.bool_]:
        """Which images went before, and have not changed since."""
        return found.in_state(self.gone)

    def covers(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are older than the period: by when they were taken, else by their file's last change."""
        if self.seconds is None:
            return np.zeros(len(rows), bool)
        now = datetime.now()
        oldest = (now - timedelta(seconds=self.seconds)).isoformat(timespec="seconds").encode()
        changed = rows.columns["mtime"] < int((now.timestamp() - self.seconds) * 1e9)
        time_V, time_G = coded(rows.columns["time"])
        times = time_V.tolist()
        taken_V = np.array([bool(_DATED.match(time)) for time in times], bool)
        old_V = np.array([time < oldest for time in times], bool)
        return np.where(taken_V[time_G], old_V[time_G], changed)

    def note(self, rows: Rows) -> None:
        """Remember these rows as gone; crops come back with their video alone, which is not looked at again."""
        new = {row.path: (row.size, row.mtime) for row in rows if row.source is None}
        if new.keys() - self.gone.keys():
            self.gone |= new
            self._write()

    def _write(self) -> None:
        with files.explained(self.path, CacheError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(self.path, json.dumps({"seconds": self.seconds, "gone": self.gone}) + "\n", CacheError)


class Withheld:
    """Both for one index."""

    def __init__(self, index: Path, roots: Roots) -> None:
        self.index, self.roots = index, roots
        self.forgotten = Forgotten.of_index(index)

    @cached_property
    def expiry(self) -> Expiry:
        return Expiry(self.index)

    def knows(self, items: Items) -> NDArray[np.bool_]:
        """Which files are not even to be looked at."""
        return self.forgotten.covers_files(items.found.name_N, self.roots) | self.expiry.knows(items.found)

    def covers(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows must not be shown."""
        return self.forgotten.covers(rows, self.roots) | self.expiry.covers(rows)

    def remove(self, file: FeatureFile) -> int:
        """Drop such rows from the index; returns how many. Raises CacheError.

        They are gone from the disk as well when this returns, and so are those that vanished before and were kept
        there until the next merge.
        """
        rows = file.known()
        mask = self.covers(rows)
        if mask.any():
            self.expiry.note(rows.take(np.flatnonzero(mask)))
        if mask.any() or file.still_holds(self.covers):
            file.keep(~mask)
        return int(mask.sum())
