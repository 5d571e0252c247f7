"""The words in which the unpickler speaks: where a tensor lies, and names that are only names.

Nothing here holds a value of the file except numpy's arrays; tensors are notes (which storage, which
strides), checked to lie inside their storage, that `weights.archives` fills.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

ITEM_BYTES: Final = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class DamagedPickle(Exception):
    """The opcodes do not fit together; the caller names the file."""


class Refused(Exception):
    """The file asks for something that is not data; the text names it."""


@dataclass(frozen=True)
class Storage:
    """A stretch of values elsewhere in the file. `first` and `count` are in values of `dtype`."""

    key: str
    dtype: str
    count: int
    first: int = 0


@dataclass(frozen=True)
class Stored:
    """A tensor not yet read: sizes and strides over a storage, checked to lie inside it."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """What a GLOBAL opcode leaves on the stack: a name, never the thing itself."""

    text: str


@dataclass(eq=False)
class Dtype:
    """A numpy number type, completed by the state that follows it."""

    code: str
    order: str = "<"

    def numpy(self) -> np.dtype[Any]:
        # numbers, and texts of a length that is written down; objects (O) would be pickles within the pickle
        if not re.fullmatch(r"[biufc](1|2|4|8|16)|[SU][0-9]{1,6}", self.code):
            raise DamagedPickle(f"numpy type {self.code!r}")
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class Array:
    """A numpy array, completed by the state that follows it."""

    value: np.ndarray[Any, Any] | None = None
