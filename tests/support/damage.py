"""Ways in which disks, transfers and bugs damage a file; each takes the same place for the same seed."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np


def flip(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= 1 << int(rng.integers(8))


def fill(content: bytearray, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 65))
    value = [b"\0", b"\xff", rng.bytes(1)][int(rng.integers(3))]
    content[start : start + length] = value * len(content[start : start + length])


def scramble(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(content)))
    length = len(content[start : start + int(rng.integers(1, 513))])
    content[start : start + length] = rng.bytes(length)


def number(content: bytearray, rng: np.random.Generator) -> None:
    """A length, an offset or a count becomes another one."""
    start = int(rng.integers(0, len(content) - 8)) & ~7
    value = [0, 1, 2**31, 2**63, 2**64 - 1, len(content), int(rng.integers(2**40))][int(rng.integers(7))]
    struct.pack_into("<Q", content, start, value)


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(len(content))) :]


def move(content: bytearray, rng: np.random.Generator) -> None:
    """Bytes are inserted or missing somewhere, as after a bad transfer."""
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 65))
    if rng.integers(2):
        del content[start : start + length]
    else:
        content[start:start] = rng.bytes(length)


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [flip, fill, scramble, number, cut, move]


def damaged(content: bytes, seed: int) -> bytes:
    """Always another content than before."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    while bytes(changed) == content:
        DAMAGES[seed % len(DAMAGES)](changed, rng)
    return bytes(changed)
