"""Products of 8-bit integers, by whatever does them quickest here.

numkong has kernels for the processor's integer dot products and costs a millisecond to import; `torch._int_mm` is
quicker still on some processors, but is taken only where torch is loaded anyway (importing it takes two seconds).
Both give exact integers, so it does not matter to an answer which of them made it. `torch._int_mm` is documented
nowhere: like the other it is compared with a plain product before it is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.halves import folded, library, multiplies_tiles
from tbps_cli.retrieval.similarity import threads_of_blas

Codes = NDArray[np.int8]
Product = Callable[[Codes, Codes], NDArray[np.int32]]
"""(query_QD, row_ND) -> [Q, N]."""

TRIED = 4096
"""Rows of a trial."""
FOLDED, FOLDED_TILES = 2, 16
"""Rows that numkong takes for one when there is one query, the second on processors that multiply tiles (AMX).

A million rows of 128 from memory: with VNNI 8.2 ms with two, one by one 10.2; four are quicker in the processor's cache
(0.27 ms for 65,536, two 0.39) and slower from memory (14 ms). With AMX 6.4 ms with sixteen, which is what reading them
takes, and 10.3 with two; in the cache both take as long, so a small trial would not tell.
"""
BLOCK = 65_536
"""Rows that a thread takes at a time: 8 MB of codes."""


def with_numkong(query_QD: Codes, row_ND: Codes) -> NDArray[np.int32]:
    """numkong's product; it lets other threads of Python run.

    One query takes as long for each row as a few queries do. So as many rows are taken for one that is so many times
    as wide, and the query stands in as many rows, at the place of one of them each, beside zeros.
    """
    numkong = library()
    assert numkong is not None
    joined = FOLDED_TILES if multiplies_tiles() else FOLDED
    if len(query_QD) > 1 or len(row_ND) < joined or not row_ND.flags.c_contiguous:
        return np.asarray(numkong.dots_packed(row_ND, numkong.dots_pack(query_QD))).T
    width, whole = query_QD.shape[1], len(row_ND) // joined * joined
    pack = numkong.dots_pack(folded(query_QD[0], joined))
    found = np.asarray(numkong.dots_packed(row_ND[:whole].reshape(-1, joined * width), pack)).reshape(1, -1)
    if whole == len(row_ND):
        return found
    rest = np.asarray(numkong.dots_packed(row_ND[whole:], numkong.dots_pack(query_QD))).T
    return np.concatenate([found, rest], axis=1)


def with_torch(query_QD: Codes, row_ND: Codes) -> NDArray[np.int32]:
    """torch's product, where torch is loaded. The rows must be writable, which `mmap`'s copy-on-write is."""
    torch = sys.modules["torch"]
    found: NDArray[np.int32] = torch._int_mm(torch.from_numpy(query_QD), torch.from_numpy(row_ND).t()).numpy()
    return found


def plain(query_QD: Codes, row_ND: Codes) -> NDArray[np.int32]:
    """What every other way is compared with."""
    return query_QD.astype(np.int32) @ row_ND.astype(np.int32).T


def quickest(width: int) -> tuple[Product, float]:
    """The quickest product that is right here, and how many rows of `width` it does in a second of one processor.

    Raises ArithmeticError where none is right, or there is none.
    """
    rng = np.random.default_rng(0)
    query_1D = rng.integers(-127, 128, (1, width), np.int8)
    row_ND = rng.integers(-127, 128, (TRIED, width), np.int8)
    truth = plain(query_1D, row_ND)
    ways = [with_torch] if hasattr(sys.modules.get("torch"), "_int_mm") else []
    if library() is not None:
        ways = [with_numkong, *ways]
    if not ways:
        raise ArithmeticError("numkong, which multiplies 8-bit integers, is not installed (pip install numkong)")
    seconds = {}
    for way in ways:
        try:
            right = bool(np.array_equal(way(query_1D, row_ND), truth))
        except (RuntimeError, TypeError, ValueError):
            right = False
        if right:
            seconds[way] = min(_processor_time(way, query_1D, row_ND) for _ in range(3))
    if not seconds:
        raise ArithmeticError("no product of 8-bit integers gives the right numbers on this processor")
    best = min(seconds, key=seconds.__getitem__)
    return best, TRIED / max(seconds[best], 1e-9)


def _processor_time(way: Product, query_1D: Codes, row_ND: Codes) -> float:
    start = time.process_time()
    way(query_1D, row_ND)
    return time.process_time() - start


def shared(product: Product) -> tuple[int, int]:
    """(how many calls of a product should run side by side, rows for each): torch shares its own out."""
    if product is with_torch:
        return 1, 1 << 20
    return threads_of_blas(), BLOCK
