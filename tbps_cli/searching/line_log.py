"""A file of JSON objects, one a line, that several processes append to: whole lines, on the disk, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tbps_cli import files
from tbps_cli.escape import exact_bytes, json_text

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]


class LineLog:
    """Such a file, made where it is missing (readable by its owner alone).

    what: names it in messages, with its flag. hint: what to do when it cannot be written.
    """

    def __init__(self, path: Path, what: str, hint: str = "") -> None:
        self.path, self.what, self.hint = path, what, hint

    def check(self) -> None:
        """Raises TbpsError unless a line could be written now; nothing is written."""
        with self._opened():
            pass

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write a line for each entry, all or none, on the disk before this returns. Raises TbpsError."""
        text = "".join(json_text(entry, indent=None) + "\n" for entry in entries)
        with self._opened() as handle:
            append_lines(handle, exact_bytes(text))

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file for appending, locked."""
        with files.explained(self.what, then=self.hint):
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)


def append_lines(handle: int, data: bytes) -> int:
    """Add whole lines to a locked file, on the disk, or leave it as it was; returns by how many bytes it grew.

    A process that was killed may have left half a line: it is ended first.
    """
    size = os.fstat(handle).st_size
    torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
    append_bytes(handle, b"\n" * torn + data)
    return torn + len(data)


def append_bytes(handle: int, data: bytes) -> None:
    """Add bytes to a locked file, all on the disk or none."""
    before = os.fstat(handle).st_size
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, before)
        raise
