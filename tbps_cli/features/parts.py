"""The folder of small files beside a feature file: their order, and who may write or merge at a time.

A part is written whole and never changed. Appending holds the lock of the folder shared, merging holds it
alone, and whoever only reads takes no lock (see `features.snapshot`).
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tbps_cli import files
from tbps_cli.errors import CacheError

try:
    import fcntl
except ImportError:  # Windows: processes that write one file at the same moment are not kept apart there
    fcntl = None  # type: ignore[assignment]

_TRIES = 1000
"""To make a folder that others remove; a place where no folder can be made (/proc) says the same of each."""
LOCK = "lock"
ROOM = "Free some space (tbps cache lists what can go), or set TBPS_CACHE_DIR to another folder."


def parts_folder(path: Path) -> Path:
    """Where the parts of a feature file lie."""
    return path.with_name(path.name + ".parts")


def codes_folder(path: Path) -> Path:
    """Where the 8-bit codes of a feature file's rows lie, if there are any (`retrieval.code_files`)."""
    return path.with_name(path.name + ".codes")


def remove_codes(path: Path) -> None:
    """Throw them away, as when rows go: nothing of what was removed is to be left."""
    with suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(codes_folder(path))


def part_paths(path: Path) -> list[Path]:
    """The parts of a feature file, in the order in which they were written."""
    folder = parts_folder(path)
    try:
        found = [part for part in folder.iterdir() if re.fullmatch(r"\d+-.*\.h5", part.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda part: (_number(part), part.name))


def new_part(path: Path, mark: str) -> Path:
    """A name behind those of the parts that are there; its number counts, since clocks may go back."""
    number = 1 + max((_number(part) for part in part_paths(path)), default=0)
    return parts_folder(path) / f"{number:06d}-{mark}.h5"


class NoLocks(Exception):
    """This system or this disk has no locks."""


def unfinished_paths(path: Path) -> list[Path]:
    """What merges write that go on in the background (`features.merging`), or that were killed."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.merge-*"))


@contextmanager
def unfinished(path: Path) -> Iterator[Path | None]:
    """A file for such a merge, locked as long as the block goes on, and removed at its end unless it was renamed.

    Its name is used once, so that nobody writes into the file of somebody else, whoever has removed it meanwhile.
    None where another process merges. Raises NoLocks, OSError.
    """
    place = path.with_name(f".{path.name}.merge-{uuid.uuid4().hex[:8]}")
    if fcntl is None:
        raise NoLocks
    handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _is_held(handle):
            raise NoLocks
        _remove_unfinished(path)
        yield place if unfinished_paths(path) == [place] else None
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)


def is_open_at(handle: int, path: Path) -> bool:
    """Whether the file that was opened still lies under its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _remove_unfinished(path: Path) -> None:
    """Remove what was left by processes that were killed while they merged; one that lives has its file locked."""
    for place in unfinished_paths(path):
        with suppress(OSError):
            handle = os.open(place, os.O_RDWR)
            try:
                if _is_held(handle):
                    place.unlink()
            finally:
                os.close(handle)


def _number(part: Path) -> int:
    return int(part.name.partition("-")[0])


@contextmanager
def locked(path: Path, *, alone: bool) -> Iterator[None]:
    """Hold the lock of a feature file's parts, shared with others who append, or alone.

    It is a file in the folder of the parts, which is made here. Who holds it alone removes the folder at the
    end; who waited for it meanwhile holds the lock of a file that is gone, and tries again. On disks without
    locks (and on Windows) processes are not kept apart: there one process alone may merge, others may append, and
    what killed ones left stays. Raises CacheError when nothing can be written there.
    """
    lock = parts_folder(path) / LOCK
    handle: int | None = None
    tries = _TRIES
    try:
        while handle is None:
            try:
                _make_folder(lock.parent)
                handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # the folder was removed between these two lines, or never can be made
                tries -= 1
                if not tries:
                    raise
            if handle is not None and not _acquired(handle, lock, alone):
                os.close(handle)
                handle = None
        yield
        if alone:
            _tidy(path, held=handle is not None and _is_held(handle))
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if handle is not None:
            os.close(handle)


def _make_folder(folder: Path) -> None:
    """`mkdir` with `exist_ok` fails where the folder is removed between its attempt and its look at what is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        if folder.is_file():
            raise


def _acquired(handle: int, lock: Path, alone: bool) -> bool:
    """Wait for a lock; whether it is still the one that others look for."""
    if fcntl is None:
        return True
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    return is_open_at(handle, lock)


def _is_held(handle: int) -> bool:
    """Whether this disk has locks, for who should hold one."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _tidy(path: Path, *, held: bool) -> None:
    """Remove what killed processes left half written, and the folder of the parts when it holds none.

    Only for who holds the lock alone: then nobody else is writing. held: whether that is sure.
    """
    folder = parts_folder(path)
    temporary = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    left = [place for place in path.parent.iterdir() if temporary.fullmatch(place.name)]
    for place in [*left, *folder.glob(".*.tmp")] if held else ():
        place.unlink(missing_ok=True)
    if held:
        _remove_unfinished(path)
    if not part_paths(path):
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # something of somebody else lies there
            folder.rmdir()


def unwritable(path: Path, error: BaseException) -> CacheError:
    """What is said when a feature file cannot be written."""
    reason = files.reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
    return CacheError(f"{path} cannot be written: {reason}.", ROOM)
