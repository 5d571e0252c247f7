"""Archives and folders from strangers into a folder of ours: nothing leaves it, nothing stays half done.

Everything is written into a hidden temporary folder beside the target, and only a whole, checked tree is
renamed into place. Refused by name: paths that lead out, links, devices, encrypted members, and archives
that unpack to far more than they weigh.

Written by hand on purpose. `tarfile`'s filter "data" has been bypassed (CVE-2024-12718, CVE-2025-4517) and says nothing
of zip files, sizes or progress; here nothing but the bytes of plain files is taken from an archive, and every name is
made by us.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tbps_cli import files
from tbps_cli.errors import DataError

Progress = Callable[[int, int], None]
MOST_ENTRIES = 5_000_000
MOST_RATIO = 50
FREE_RIDE = 200_000_000
"""Bytes that may be unpacked whatever the ratio: annotations compress well."""
LONGEST_HEADER = 1 << 20
"""Bytes of one name or extended header in a tar archive."""
_PIECE = 1 << 20
_IGNORED = re.compile(r"(^|/)(__MACOSX(/|$)|\.DS_Store$|Thumbs\.db$|\._[^/]*$)")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, ValueError, OverflowError, struct.error, LookupError, RuntimeError),
)
"""What the libraries raise on damaged archives; a name that is not the UTF-8 that it claims to be is a ValueError."""


@dataclass
class Member:
    """One file of a source: where it goes, how many bytes it says it has, and how to read them."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(source: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write the files of an archive or folder below `folder`. Raises DataError; nothing is followed or run.

    progress: called with (bytes done, bytes in all).
    """
    if source.is_dir():
        return _write(_folder_members(source), folder, source, None, progress)
    name = source.name.lower()
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                return _write(_zip_members(archive, source), folder, source, source.stat().st_size, progress)
        if name.endswith(_TAR) or _is_tar(source):
            with tarfile.open(source, tarinfo=_Header) as archive:
                _write(_tar_members(archive, source), folder, source, source.stat().st_size, progress)
                return _read_to_the_end(archive)
    except _BROKEN as error:
        if isinstance(error, OSError) and files.is_of_the_system(error):
            raise DataError(f"{source} cannot be unpacked: {files.reason(error)}.", files.hint(error)) from None
        raise DataError(f"{source} is damaged or truncated: {_said(error)}.", "Download the archive again.") from None
    kind = " (RAR and 7z need their own programs)" if name.endswith((".rar", ".7z")) else ""
    raise DataError(
        f"{source} is neither a folder nor a zip or tar archive{kind}.", "Unpack it yourself, then: --source FOLDER"
    )


def _said(error: Exception) -> str:
    """What a library said, in one line: tarfile lists what each of its readers thinks."""
    lines = str(error).splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__


def safe_target(name: str, source: Path) -> str | None:
    """Where a member goes, relative to the target; None for a computer's own litter. Raises DataError."""
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts or "\0" in text or re.match(r"^[A-Za-z]:", text):
        raise DataError(f"{source}: {name!r} points outside the folder.", "Do not trust this archive.")
    path = "/".join(parts)
    return None if not path or _IGNORED.search(path) else str(PurePosixPath(path))


def _zip_members(archive: zipfile.ZipFile, source: Path) -> Iterator[Member]:
    for info in archive.infolist():
        path = safe_target(info.filename, source)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(source, info.filename)
        if path is None or info.is_dir():
            continue
        if info.flag_bits & 1:
            raise DataError(f"{source} is encrypted ({info.filename}).", "Unpack it yourself, then: --source FOLDER")
        yield Member(path, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


class _Header(tarfile.TarInfo):
    """A header of a tar archive. Long names and extended headers are taken into memory whole, so they have a limit.

    A damaged header in the middle is an error; `tarfile` takes it for the end, and the rest would be missing.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header is damaged ({error})") from None
        if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and header.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def _is_tar(source: Path) -> bool:
    """`tarfile.is_tarfile` with our headers."""
    try:
        tarfile.open(source, tarinfo=_Header).close()
    except tarfile.TarError:
        return False
    return True


def _tar_members(archive: tarfile.TarFile, source: Path) -> Iterator[Member]:
    for info in archive:
        path = safe_target(info.name, source)
        if not (info.isfile() or info.isdir()):
            raise _refused(source, info.name)
        if path is not None and info.isfile():
            yield Member(path, info.size, lambda info=info: _tar_file(archive, info))  # type: ignore[misc]


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """A compressed stream proves its checksum at its end, which lies behind the last member."""
    left = FREE_RIDE
    while archive.fileobj and left > 0 and (piece := archive.fileobj.read(_PIECE)):
        left -= len(piece)


def _tar_file(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # only regular files come here
    return file


def _folder_members(source: Path) -> Iterator[Member]:
    for where, folders, plain in os.walk(source):
        folders.sort()
        for name in sorted([*folders, *plain]):
            path = Path(where) / name
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _refused(source, path.relative_to(source).as_posix())
            target = safe_target(path.relative_to(source).as_posix(), source)
            if target is not None and stat.S_ISREG(mode):
                yield Member(target, path.stat().st_size, lambda path=path: path.open("rb"))  # type: ignore[misc]


def _refused(source: Path, name: str) -> DataError:
    return DataError(
        f"{source}: {name!r} is a link or a device, not a file.", "Replace links with the files that they point to."
    )


def _write(
    members: Iterator[Member], folder: Path, source: Path, packed: int | None, progress: Progress | None
) -> None:
    """Write all members; `packed` is the archive's own size, against which bombs are measured."""
    free = shutil.disk_usage(folder).free
    allowed = free - free // 50 if packed is None else min(free - free // 50, max(packed * MOST_RATIO, FREE_RIDE))
    done = 0
    for count, member in enumerate(members, start=1):
        if count > MOST_ENTRIES:
            raise DataError(f"{source} has more than {MOST_ENTRIES:,} files.", "No data set has that many.")
        if done + member.size > allowed:
            raise _too_big(source, done + member.size, free, packed)
        target = folder / member.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as read, target.open("xb") as write:
                done += _copy(read, write, allowed - done, lambda more: _too_big(source, more, free, packed))
        except (FileExistsError, NotADirectoryError):
            raise DataError(
                f"{source} contains {member.path!r} twice.", "Unpack it yourself, then: --source FOLDER"
            ) from None
        if progress:
            progress(done, max(done, packed or 0))


def _copy(read: IO[bytes], write: IO[bytes], allowed: int, too_big: Callable[[int], DataError]) -> int:
    """Copy bytes up to a limit: what a member says of its size is not trusted."""
    done = 0
    while piece := read.read(_PIECE):
        done += len(piece)
        if done > allowed:
            raise too_big(done)
        write.write(piece)
    return done


def _too_big(source: Path, needed: int, free: int, packed: int | None) -> DataError:
    if needed > free * 0.98:
        return DataError(
            f"{source} needs more than the {free / 1e9:.1f} GB that are free.", "Free some space or use --data-root."
        )
    return DataError(
        f"{source} unpacks to more than {MOST_RATIO} times its size ({(packed or 0) / 1e6:.1f} MB): refused as a "
        "decompression bomb.",
        "If you trust it, unpack it yourself, then: --source FOLDER",
    )
