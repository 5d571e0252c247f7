"""What lies in a folder: its images and videos with size and time of change, found by listing alone.

Hidden files and folders, the system's own folders and files that are neither by their name are
passed over; links are followed, but no folder is entered twice; a folder that may not be read is
named and the rest goes on. What is found are columns: of a million files nearly all are as an index knows them, which
arrays tell at once, and only the others become objects.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.image_files import HEIF
from tbps_cli.data.image_files import SUFFIXES as COMMON
from tbps_cli.errors import DataError
from tbps_cli.features.lookup import Lookup
from tbps_cli.features.rows import change_time, encoded, texts
from tbps_cli.footage.video import SUFFIXES as VIDEOS
from tbps_cli.footage.video import is_video

SUFFIXES = frozenset((*COMMON, ".jfif", ".pgm", ".jp2", ".avif", *HEIF))
_ENDINGS = {suffix[1:]: suffix in VIDEOS for suffix in SUFFIXES | VIDEOS}
"""Ending -> whether a file with it is a video."""
SYSTEM = frozenset(
    ("$recycle.bin", "system volume information", "lost+found", "__macosx", "@eadir", "thumbs.db", "node_modules")
)
"""Folders that systems and programs leave behind, in lower case."""
BLOCK = 1 << 16
"""Files whose names are held as objects at a time."""
TOLD_SECONDS = 0.2
Looked: TypeAlias = Callable[[int], None]
"""Called now and then with the number of files found so far."""


@dataclass(frozen=True)
class Found:
    """An image or video by its name; `path` is relative to the folder, with forward slashes."""

    path: str
    size: int
    mtime: int
    """Time of its last change, as `features.rows.change_time` gives it."""

    @property
    def state(self) -> tuple[int, int]:
        """What changes when the file does."""
        return self.size, self.mtime


@dataclass(frozen=True, eq=False)
class FoundFiles(Sequence[Found]):
    """Many files as columns; indexing gives a `Found`."""

    name_N: NDArray[np.bytes_]
    """Paths in UTF-8, as `features.rows` has them."""
    size_N: NDArray[np.int64]
    mtime_N: NDArray[np.int64]
    video_N: NDArray[np.bool_]
    """Which are videos, by their names; the others are images."""

    @classmethod
    def of(cls, files: Iterable[Found]) -> FoundFiles:
        """Columns of the given files."""
        listed = list(files)
        video_N = np.array([is_video(found.path) for found in listed], bool)
        state_N2 = np.array([found.state for found in listed], np.int64).reshape(-1, 2)
        return cls(texts([found.path for found in listed]), state_N2[:, 0], state_N2[:, 1], video_N)

    @classmethod
    def joined(cls, parts: Sequence[FoundFiles]) -> FoundFiles:
        """The files of all parts, one after another."""
        parts = [part for part in parts if len(part)] or [cls.of([])]
        columns = zip(*((part.name_N, part.size_N, part.mtime_N, part.video_N) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def renamed(self, name_N: NDArray[np.bytes_]) -> FoundFiles:
        """The same files under other names."""
        return FoundFiles(name_N, self.size_N, self.mtime_N, self.video_N)

    def take(self, index: NDArray[Any]) -> FoundFiles:
        """The files at these places, or where this mask is true."""
        return FoundFiles(self.name_N[index], self.size_N[index], self.mtime_N[index], self.video_N[index])

    def same_as(self, other: FoundFiles) -> bool:
        """Whether these are the same files, as they were."""
        columns = (self.name_N, other.name_N), (self.size_N, other.size_N), (self.mtime_N, other.mtime_N)
        return all(np.array_equal(one, two) for one, two in columns)

    @property
    def paths(self) -> list[str]:
        """Every path, decoded."""
        return [name.decode("utf-8", "surrogateescape") for name in self.name_N.tolist()]

    @cached_property
    def lookup(self) -> Lookup:
        """What finds files by their paths."""
        return Lookup.of(self.name_N)

    def in_state(self, states: Mapping[str, tuple[int, int]]) -> NDArray[np.bool_]:
        """Which files are among those of a table, with size and time of change as it has them."""
        same_N = np.zeros(len(self), bool)
        if states and len(self):
            place_K = self.lookup.find(texts(list(states)))
            there = zip(self.size_N[place_K].tolist(), self.mtime_N[place_K].tolist(), strict=True)
            same_K = np.array([state == is_now for state, is_now in zip(states.values(), there, strict=True)], bool)
            same_N[place_K[same_K & (place_K >= 0)]] = True
        return same_N

    def __len__(self) -> int:
        return len(self.name_N)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        path = self.name_N[index].decode("utf-8", "surrogateescape")
        return Found(path, int(self.size_N[index]), int(self.mtime_N[index]))


@dataclass
class Scan:
    """All images and videos below a folder, in sorted order, and what could not be looked at."""

    folder: Path
    files: FoundFiles
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folder, relative -> reason."""


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return _ending(name) in SUFFIXES


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file of a folder


def check_folder(folder: Path) -> None:
    """Raises DataError unless there is such a folder."""
    if not os.path.isdir(folder):  # noqa: PTH112 - False for a name that no file system allows, where Path raises
        raise DataError(f"{folder} is not a folder.", "Give a folder of images.")


def scan(folder: Path, looked: Looked | None = None) -> Scan:
    """List a folder and all below it. Raises DataError when the folder itself cannot be read."""
    check_folder(folder)
    walk = _FolderWalk(folder, looked)
    walk.go()
    if "" in walk.unreadable:
        raise DataError(f"{folder} cannot be read ({walk.unreadable['']}).")
    return Scan(folder, FoundFiles.joined(walk.blocks), walk.unreadable)


class _FolderWalk:
    """Files of one folder and then of those in it; a stack of its own, so depth has no limit."""

    def __init__(self, folder: Path, looked: Looked | None) -> None:
        self.folder, self.looked = folder, looked
        self.blocks: list[FoundFiles] = []
        self.unreadable: dict[str, str] = {}
        self._names: list[bytes] = []
        self._states: list[int] = []
        """Size, time of change and whether it is a video, of one file after another."""
        self._count, self._told = 0, time.monotonic()

    def go(self) -> None:
        waiting = [""]
        entered: set[tuple[int, int]] = set()
        while waiting:
            inside = waiting.pop()
            where = self.folder / inside
            try:
                own = where.stat()
                if (own.st_dev, own.st_ino) in entered:
                    continue
                entered.add((own.st_dev, own.st_ino))
                with os.scandir(where) as listing:
                    entries = sorted(listing, key=attrgetter("name"))
            except OSError as error:
                self.unreadable[inside] = error.strerror or str(error)
                continue
            waiting.extend(reversed(self._take(entries, f"{inside}/" if inside else "")))
            if len(self._names) >= BLOCK:
                self._block()
        self._block()

    def _take(self, entries: Sequence[os.DirEntry[str]], inside: str) -> list[str]:
        """Note the files of a folder; returns the folders in it."""
        folders = []
        names, states = self._names, self._states
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            try:
                if entry.is_dir():
                    if name.lower() not in SYSTEM:
                        folders.append(inside + name)
                    continue
                _, dot, ending = name.rpartition(".")
                video = _ENDINGS.get(ending.lower()) if dot else None
                if video is None or not entry.is_file():
                    continue
                state = entry.stat()
            except OSError:  # a link to nothing, or a file that vanished meanwhile
                continue
            names.append(encoded(inside + name))
            states += state.st_size, change_time(state), video
            self._count += 1
            if not self._count % 1024:
                self._tell()
        return folders

    def _tell(self) -> None:
        now = time.monotonic()
        if self.looked is not None and now - self._told > TOLD_SECONDS:
            self._told = now
            self.looked(self._count)

    def _block(self) -> None:
        """Make columns of the names that are held."""
        if self._names:
            state_N3 = np.array(self._states, np.int64).reshape(-1, 3)
            self.blocks.append(FoundFiles(np.array(self._names), state_N3[:, 0], state_N3[:, 1], state_N3[:, 2] > 0))
            self._names, self._states = [], []
