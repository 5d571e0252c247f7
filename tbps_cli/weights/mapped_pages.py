"""Memory that holds what was read of mapped files, given back while the files stay mapped.

What was read of a mapped file counts as a process's memory for as long as it is mapped, though the system keeps the
same pages anyway. Weights that were read once (hashed, converted, rearranged by a runtime) are let go of here: nothing
is lost, and what is read again comes from the system's cache.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import sys
from pathlib import Path

logger = logging.getLogger("tbps")

AT_A_TIME = 1 << 25
"""Bytes of a file that are read before they are let go of."""
_DONTNEED = 4
"""Of Linux's `madvise`."""
_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(/.*)$")
_CHANGED = ("Anonymous", "Swap")
"""What `/proc/self/smaps` counts of pages that are no longer those of the file."""


def give_back() -> None:
    """Let go of what Python and the C library hold of freed memory."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


class ReadOnce:
    """A mapped file that is being read from its beginning to its end: what was read does not stay in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.bytes = path, 0

    def __call__(self, count: int) -> None:
        """So many bytes more were read."""
        self.bytes += count
        if self.bytes >= AT_A_TIME:
            self.done()

    def done(self) -> None:
        """Let go of what was read so far."""
        self.bytes = 0
        if self.path is not None:
            let_go(self.path)


def let_go(path: Path) -> int:
    """Give back the memory in which a mapped file's pages lie; returns the bytes of the mappings that this was done to.

    A mapping in which anything was written is left as it is. Does nothing on other systems than Linux.
    """
    if sys.platform != "linux":
        return 0
    try:
        real = os.fspath(path.resolve(strict=True))
        areas = _unchanged(real)
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, ValueError) as error:
        logger.debug("%s: its pages stay in memory: %s", path, error)
        return 0
    done = 0
    for start, end in areas:
        if library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED) == 0:
            done += end - start
    return done


def _unchanged(real: str) -> list[tuple[int, int]]:
    """Where a file is mapped, start and end of each part in which nothing was written."""
    found: list[tuple[int, int]] = []
    inside = False
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
        for line in lines:
            head = _HEAD.match(line)
            if head:
                inside = head[3].rstrip("\n") == real
                if inside:
                    found.append((int(head[1], 16), int(head[2], 16)))
            elif inside:
                if "-" in line.split(maxsplit=1)[0]:  # the next part, which is of no file
                    inside = False
                    continue
                name, _, amount = line.partition(":")
                if name in _CHANGED and amount.split()[0] != "0":
                    found.pop()
                    inside = False
    return found
