"""Memory that a step frees stays with the process, for the next step.

glibc gives large blocks back to the system as soon as they are freed. Every step of a training frees all activations
and gradients and asks for as much again, and the system clears each page anew: with ViT-B/16 in float32 on a CPU that
is a tenth of the processor time of a step. The most that is held does not change, since steps are alike.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`."""
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}


@contextmanager
def freed_memory_kept(wanted: bool) -> Iterator[None]:
    """While open, the C library keeps what is freed; afterwards it gives back what nobody holds. Elsewhere nothing.

    wanted: false on a GPU, whose tensors PyTorch keeps by itself.
    """
    if not wanted or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, -1)  # never
    library.mallopt(_MMAP_MAX, 0)  # no block apart from the heap
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
