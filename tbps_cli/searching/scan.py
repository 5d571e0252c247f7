"""What lies in a folder: its images and videos with size and time of change, found by listing alone.

Hidden files and folders, the system's own folders and files that are neither by their name are
passed over; links are followed, but no folder is entered twice; a folder that may not be read is
named and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tbps_cli.data.images import HEIF
from tbps_cli.data.layouts.folder import SUFFIXES as COMMON
from tbps_cli.errors import DataError
from tbps_cli.features.rows import change_time
from tbps_cli.footage.video import SUFFIXES as VIDEOS

SUFFIXES = frozenset((*COMMON, ".jfif", ".pgm", ".jp2", ".avif", *HEIF))
_SOUGHT = SUFFIXES | VIDEOS
SYSTEM = frozenset(
    ("$recycle.bin", "system volume information", "lost+found", "__macosx", "@eadir", "thumbs.db", "node_modules")
)
"""Folders that systems and programs leave behind, in lower case."""


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


@dataclass
class Scan:
    """All images and videos below a folder, in sorted order, and what could not be looked at."""

    folder: Path
    files: list[Found] = field(default_factory=list)
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


def scan(folder: Path) -> Scan:
    """List a folder and all below it. Raises DataError when the folder itself cannot be read."""
    check_folder(folder)
    found = Scan(folder)
    entered: set[tuple[int, int]] = set()
    found.files.extend(_below(found, "", entered))
    if "" in found.unreadable:
        raise DataError(f"{folder} cannot be read ({found.unreadable['']}).")
    return found


def _below(scan: Scan, inside: str, entered: set[tuple[int, int]]) -> Iterator[Found]:
    """Files of one folder and then of those in it; a stack of its own, so depth has no limit."""
    waiting = [inside]
    while waiting:
        inside = waiting.pop()
        where = scan.folder / inside
        try:
            own = where.stat()
            if (own.st_dev, own.st_ino) in entered:
                continue
            entered.add((own.st_dev, own.st_ino))
            with os.scandir(where) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            scan.unreadable[inside] = error.strerror or str(error)
            continue
        folders = [_join(inside, entry.name) for entry in entries if _is_folder(entry)]
        waiting.extend(reversed(folders))
        yield from filter(None, (_file(entry, inside) for entry in entries))


def _join(inside: str, name: str) -> str:
    return f"{inside}/{name}" if inside else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
        return False
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file(entry: os.DirEntry[str], inside: str) -> Found | None:
    if entry.name.startswith(".") or _ending(entry.name) not in _SOUGHT:
        return None
    try:
        if not entry.is_file():
            return None
        state = entry.stat()
    except OSError:  # a link to nothing, or a file that vanished meanwhile
        return None
    return Found(_join(inside, entry.name), state.st_size, change_time(state))
