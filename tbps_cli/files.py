"""Files and folders that tbps writes: whole or not at all, and one line when they cannot be written.

Everything is first written under a temporary name beside its place (`.NAME.0123abcd.tmp`), synced to the
disk, and then renamed, so at every moment the old file or the new one is whole, whatever is killed or full.
What a full disk, a read-only folder, a name that is too long or a file in the way say is decided here.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tbps_cli.errors import TbpsError, UsageError

try:
    import fcntl
except ImportError:  # Windows: what killed processes left there has to be deleted by hand
    fcntl = None  # type: ignore[assignment]

_ELSEWHERE = "Choose another folder."
_SPACE = "Free some space or choose another folder."

# What the system calls by a number -> what happened, and what to do.
_REASONS = {
    errno.ENOSPC: ("No space left on device", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EFBIG: ("File too large for this disk or for the limit of this process", "See: ulimit -f"),
    errno.EACCES: ("Permission denied", _ELSEWHERE),
    errno.EPERM: ("Operation not permitted", _ELSEWHERE),
    errno.EROFS: ("Read-only file system", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "Choose a shorter name."),
    errno.ENOENT: ("the folder does not exist", _ELSEWHERE),
    errno.ENOTDIR: ("a file is in the way", _ELSEWHERE),
    errno.EEXIST: ("a file is in the way", _ELSEWHERE),
    errno.EISDIR: ("it is a folder", "Choose another name."),
}
_SYSTEM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
}
_NAME_BYTES = 255
"""What most file systems allow for one name."""
ABANDONED_SECONDS = 3600
"""A temporary file that was not written to for so long belongs to no living process."""
_TEMPORARY_BYTES = len(".") + len(".01234567.tmp")


# What is said ---------------------------------------------------------------------------------


def reason(error: OSError) -> str:
    """Why something could not be written, without a full stop."""
    known = _REASONS.get(error.errno or 0)
    return known[0] if known else error.strerror or str(error) or type(error).__name__


def hint(error: OSError) -> str:
    """What the user can do about it."""
    known = _REASONS.get(error.errno or 0)
    return known[1] if known else _ELSEWHERE


def is_of_the_system(error: OSError) -> bool:
    """Whether an error that nobody caught tells of the machine (full, read-only, ...) and not of a defect of ours."""
    return error.errno in _SYSTEM


@contextmanager
def explained(what: object, kind: type[TbpsError] = TbpsError, *, then: str = "") -> Iterator[None]:
    """Turn the system's refusal to write into `kind`: one line that names `what`, and a hint.

    what: the path, with its flag where it has one (`--out x`). then: replaces the usual hint.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be written: {reason(error)}.", then or hint(error)) from error


# Writing --------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, kind: type[TbpsError] = TbpsError, *, then: str = "") -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends well and vanishes otherwise.

    The block fills it (and may raise OSError). Raises `kind` when it cannot be written; then the previous
    file is untouched. then: replaces the usual hint. What a killed process left for the same `path` is removed.
    """
    _remove_half_written(path)
    temporary = temporary_beside(path)
    try:
        with explained(path, kind, then=then):
            yield temporary
            with suppress(PermissionError):  # some disks have no modes
                temporary.chmod(_usual_mode())
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_half_written(path: Path) -> None:
    """Remove temporary files of `path` that nobody has written to for an hour: whoever made them was killed."""
    long_ago = time.time() - ABANDONED_SECONDS
    for file in path.parent.glob(_temporaries_of(path)):
        with suppress(OSError):
            state = file.lstat()
            if stat.S_ISREG(state.st_mode) and state.st_mtime < long_ago:
                file.unlink()


def write_bytes(path: Path, content: bytes, kind: type[TbpsError] = TbpsError) -> None:
    """Write a whole file, or leave what was there and raise `kind`."""
    with replacing(path, kind) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, kind: type[TbpsError] = TbpsError) -> None:
    """The same for text in UTF-8. Bytes of file names that are not UTF-8 are written as they are."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), kind)


def write_once(path: Path, text: str, kind: type[TbpsError] = TbpsError) -> None:
    """Write a file unless it is there: of several writers the first one's text stays. Raises `kind`."""
    with explained(path, kind):
        temporary = temporary_beside(path)
        try:
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            with suppress(FileExistsError):
                try:
                    os.link(temporary, path)  # appears whole, and only where nothing is
                except FileExistsError:
                    raise
                except OSError:  # a disk without hard links: for a moment it is empty
                    with path.open("x", encoding="utf-8") as file:
                        file.write(text)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, what: object, kind: type[TbpsError] = TbpsError, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends well and vanishes otherwise.

    what: names it in messages, see `explained`. replace: `path` may hold something, which goes when the
    new folder is whole; otherwise it must be new or empty. Raises `kind` when it cannot be written.
    """
    with explained(what, kind), staging(path) as folder:
        yield folder
        for place in (*(file for file in folder.iterdir() if file.is_file()), folder):
            sync(place)
        before = temporary_beside(path)
        if replace and path.exists():
            path.rename(before)
        elif path.is_dir():
            path.rmdir()
        folder.rename(path)
        sync(path.parent)
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed at the end unless the block renamed it.

    It is locked as long as its process lives, so that the next one can remove what a killed one left.
    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    folder, lock = _locked(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(path: Path) -> tuple[Path, int | None]:
    """A new temporary folder and the handle that keeps it locked (None where there are no locks)."""
    while True:
        folder = temporary_beside(path)
        folder.mkdir()
        if fcntl is None:
            return folder, None
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a leftover before it was locked
            continue
        with suppress(OSError):  # a disk without locks: leftovers stay there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary folders of `path` that no living process holds locked."""
    if fcntl is None:
        return
    for folder in path.parent.glob(_temporaries_of(path)):
        if folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _temporaries_of(path: Path) -> str:
    """A pattern of the names that `temporary_beside` gives."""
    return f".{glob.escape(_start_of(path.name))}.????????.tmp"


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nobody uses; its middle is shorter where `path` is as long as names may be."""
    return path.with_name(f".{_start_of(path.name)}.{uuid.uuid4().hex[:8]}.tmp")


def _start_of(name: str) -> str:
    return shortened(name, _NAME_BYTES - _TEMPORARY_BYTES) if len(os.fsencode(name)) <= _NAME_BYTES else name


def shortened(name: str, most: int = _NAME_BYTES) -> str:
    """A file's name cut in the middle to at most `most` bytes; its ending stays."""
    ending = Path(name).suffix if len(os.fsencode(Path(name).suffix)) < most else ""
    start = name.removesuffix(ending)
    while len(os.fsencode(start + ending)) > most:
        start = start[:-1]
    return start + ending


def identity(path: Path) -> tuple[int, ...]:
    """Which file lies at a path, and in which state; () when there is none. Raises OSError where nobody can know."""
    try:
        return identity_of(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ()


def identity_of(state: os.stat_result) -> tuple[int, ...]:
    """The same of a file that is open."""
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    if path.is_dir() and os.name == "nt":
        return  # there a folder cannot be opened
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def _usual_mode() -> int:
    """The mode of a new file here; some writers make theirs readable by their owner alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


# Checks before anything is computed -----------------------------------------------------------


def check_new_folder(flag: str, folder: Path, *, inside: bool = False) -> None:
    """Raises TbpsError unless `folder` is an empty folder or can be made. inside: see `check_place`."""
    check_place(flag, folder, inside=inside)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{flag} {folder}: exists already.", "Choose a new folder.")


def check_new_file(flag: str, path: Path | None, endings: tuple[str, ...]) -> None:
    """Raises TbpsError for a file that could not be written, or whose name ends in something else."""
    if path is None:
        return
    if path.suffix.lower() not in endings:
        raise UsageError(f"{flag} {path}: the name must end in {' or '.join(endings)}.")
    check_place(flag, path)
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"{flag} {path}: {what}.", "Name a file in a folder that exists.")


def check_place(flag: str, path: Path, *, inside: bool = False) -> None:
    """Raises TbpsError when nothing could be written at `path`: names too long, no permission, a file in the way.

    inside: a folder that is there is filled, not replaced, so the one above it does not matter.
    Permission is found out by making and removing a file, since what the system says of it is not always true.
    """
    with explained(f"{flag} {path}"):
        if any(len(os.fsencode(part)) > _NAME_BYTES for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, "")
        full = path.absolute()
        above = next((folder for folder in full.parents if folder.exists()), full)
        standing = full if inside and full.is_dir() else above
        if not standing.is_dir():
            raise OSError(errno.ENOTDIR, "")
        probe = temporary_beside(standing / "probe")
        probe.touch()
        probe.unlink()


# Paths that a user gives ----------------------------------------------------------------------


def expanded(path: Path) -> Path:
    """The same with the home folder for `~`, which a shell leaves as it is in `--out=~/x`."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: there is no home folder of that name.", "Write the path out.") from None
