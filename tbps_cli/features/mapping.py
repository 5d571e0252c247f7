"""The vectors of a feature file and its parts as one array, without reading the file.

Whatever ranks wants one array. Joining a million mapped vectors with a thousand new ones would copy all of them. But
a process may lay a file over memory of its own: the vectors of the main file at the front, mapped, and behind them, in
ordinary memory, those that parts add. What a part replaces is written over the mapped ones, which copies the page of
4 KB that is written to, and changes nothing in the file. So 1,000 new vectors take the memory of 1,000. Where rows have
gone, the last ones are written over them in the same way, and fewer are mapped.

Python's `mmap` cannot put a mapping at a given place; the system's own call can. Where it is missing or refuses
(Windows, 32 bits), the caller joins by copying.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files

Array = NDArray[Any]
_MAP_FIXED = 0x10
"""The same number on Linux and macOS."""


@dataclass(frozen=True)
class StoredVectors:
    """Vectors in a file."""

    path: Path
    identity: tuple[int, ...]
    """Device, inode, time of change and size of the file that was opened; another one may lie there by now."""
    offset: int
    vector_NE: Array


def one_array(stored: StoredVectors, rows: int, behind_K: Array, vectors: Callable[[Array], Array]) -> Array | None:
    """[rows, E]: the stored vectors, mapped, in and behind which the rows `behind_K` are `vectors` of them.

    None where that cannot be made.
    """
    if sys.platform == "win32" or sys.maxsize < 2**32 or not len(stored.vector_NE) or not rows:
        return None
    width, kind = stored.vector_NE.shape[1], stored.vector_NE.dtype
    start = stored.offset % mmap.ALLOCATIONGRANULARITY
    try:
        with stored.path.open("rb") as file:
            if files.identity_of(os.fstat(file.fileno())) != stored.identity:
                return None
            memory = mmap.mmap(-1, start + rows * width * kind.itemsize, flags=mmap.MAP_PRIVATE)
            kept = min(rows, len(stored.vector_NE)) * width * kind.itemsize
            _lay_over(memory, file.fileno(), stored.offset - start, start + kept)
    except (OSError, AttributeError, ValueError):
        return None
    flat = np.frombuffer(memory, kind, rows * width, start)
    joined = flat.reshape(rows, width)
    for first in range(0, len(behind_K), 8192):
        some = behind_K[first : first + 8192]
        joined[some] = vectors(some)
    joined.flags.writeable = flat.flags.writeable = False
    return joined


def _lay_over(memory: mmap.mmap, handle: int, offset: int, length: int) -> None:
    """Map a part of a file over the beginning of some memory, for this process alone; closing the memory unmaps it."""
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    system = ctypes.CDLL(None, use_errno=True).mmap
    system.restype = ctypes.c_void_p
    system.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    if system(place, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, handle, offset) != place:
        raise OSError(ctypes.get_errno(), "a file cannot be mapped")
