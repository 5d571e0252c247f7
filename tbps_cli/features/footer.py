"""The end of a feature file: where its datasets lie, and a checksum of everything but the vectors.

libhdf5 believes what a file says of itself. One wrong length sends it round a loop that no signal ends, and
worse is known of it. So our files say once more, behind the HDF5 data and in a form that is checked before it
is used, what a reader needs: the attributes, and the place, type and shape of each dataset. Readers of HDF5 do
not see it. The vectors are left out of the checksum, since a million of them are mapped and not read; a wrong
bit there can change a score and nothing else.

    [HDF5 data][the contents as JSON][length of the JSON, 8 bytes][checksum, 16 bytes][MAGIC]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"tbps-footer-1\r\n\x1a"
DIGEST = 16
END = 8 + DIGEST + len(MAGIC)
BLOCK = 1 << 20
LONGEST = 1 << 20
"""Bytes of JSON; a longer one is none of ours."""
TYPES = re.compile(r"[<>|][fSi][1-9]\d{0,8}")
"""Numbers and byte strings of a fixed length: nothing that numpy would have to interpret."""
VECTORS = "vectors"


class DamagedFile(ValueError):
    """Why a file cannot be what it seems to be."""


@dataclass(frozen=True)
class StoredBlock:
    """A block of numbers or fixed-width texts in a file."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Contents:
    """What is in a feature file: its attributes, and where its datasets lie."""

    facts: dict[str, str]
    datasets: dict[str, StoredBlock]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes, size: int) -> Contents:
        """The inverse of `to_json`. Raises DamagedFile unless every dataset lies within the file's `size` bytes."""
        try:
            values = json.loads(text)
            facts, datasets = values["facts"], values["datasets"]
            if not all(isinstance(name, str) and isinstance(value, str) for name, value in facts.items()):
                raise DamagedFile("an attribute is not a text")
            return cls(facts, {name: _dataset(value, size) for name, value in datasets.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = str(error) if isinstance(error, DamagedFile) else "its contents are not described"
            raise DamagedFile(reason) from None


def _dataset(value: Mapping[str, Any], size: int) -> StoredBlock:
    offset, dtype, shape = value["offset"], value["dtype"], value["shape"]
    whole = [offset, *shape]
    if not all(isinstance(number, int) and 0 <= number <= size for number in whole) or len(shape) > 2:
        raise DamagedFile("a dataset has an impossible place or shape")
    if not isinstance(dtype, str) or not TYPES.fullmatch(dtype):
        raise DamagedFile("a dataset has an unknown type")
    dataset = StoredBlock(offset, np.dtype(dtype).str, tuple(shape))
    if dataset.offset + dataset.nbytes > size:
        raise DamagedFile("a dataset ends behind the end of the file")
    return dataset


def write(file: BinaryIO, contents: Contents) -> None:
    """Add the footer to a finished HDF5 file that is open for reading and writing."""
    size = file.seek(0, os.SEEK_END)
    text = contents.to_json()
    end = text + len(text).to_bytes(8, "little")
    file.write(end)
    digest = _checksum(file, contents, size + len(end))
    file.seek(0, os.SEEK_END)
    file.write(digest + MAGIC)


def read(file: BinaryIO) -> Contents | None:
    """What the footer of an open file says; None when it has none. Raises DamagedFile when it does not fit the file."""
    size = file.seek(0, os.SEEK_END)
    if size < END:
        return None
    file.seek(size - END)
    end = file.read(END)
    if not end.endswith(MAGIC):
        return None
    length = int.from_bytes(end[:8], "little")
    start = size - END - length
    if length > LONGEST or start < 0:
        raise DamagedFile("its footer is damaged")
    file.seek(start)
    contents = Contents.from_json(file.read(length), size)
    if _checksum(file, contents, size - END + 8) != end[8 : 8 + DIGEST]:
        raise DamagedFile("its checksum is wrong")
    return contents


def _checksum(file: BinaryIO, contents: Contents, end: int) -> bytes:
    """Of the first `end` bytes without the vectors."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for start, stop in _around(contents.datasets.get(VECTORS), end):
        file.seek(start)
        while start < stop and (block := file.read(min(BLOCK, stop - start))):
            digest.update(block)
            start += len(block)
    return digest.digest()


def _around(vectors: StoredBlock | None, end: int) -> Iterable[tuple[int, int]]:
    if vectors is None or not vectors.nbytes:
        return [(0, end)]
    return [(0, vectors.offset), (vectors.offset + vectors.nbytes, end)]
