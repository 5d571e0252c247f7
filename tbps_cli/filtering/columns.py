"""What a gallery knows of its images, as arrays that a filter is asked of at once.

Numbers lie in float arrays, NaN where unknown. Texts are coded: every row holds the number of its text, and a test
runs over the different texts only, in numpy. Where nearly every text is different (paths) they are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.filtering.tree import FIELDS, number

Bytes = NDArray[np.bytes_]
SAMPLE = 65_536
"""Rows that show whether texts repeat."""

_SPELLING = np.zeros(256, bool)
_SPELLING[list(b"0123456789.+-eE\0")] = True


@dataclass(frozen=True)
class Numbers:
    """A number a row, NaN where unknown."""

    value_G: NDArray[np.floating[Any]]

    @cached_property
    def known(self) -> bool:
        """Whether any row has a value."""
        return not bool(np.isnan(self.value_G).all())


@dataclass(frozen=True)
class Texts:
    """A text a row: the text number `code_G[row]` of `text_V`, or `text_V[row]` where there are no codes.

    text_V holds UTF-8, the empty text where nothing is known.
    """

    text_V: Bytes
    code_G: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, text_G: Bytes, spell: Callable[[bytes], bytes] | None = None) -> Texts:
        """Coded, unless most are different; spell: makes a text of what is stored, called once for each of them."""
        some = text_G[:: max(1, len(text_G) // SAMPLE)].tolist()
        if spell is None and len(set(some)) > 0.9 * len(some):
            return cls(text_G)
        listed = text_G.tolist()
        code = {text: place for place, text in enumerate(dict.fromkeys(listed))}
        code_G = np.fromiter(map(code.__getitem__, listed), np.int32, len(listed))
        texts = list(code) if spell is None else [spell(text) for text in code]
        return cls(np.array(texts or [b""], "S"), code_G)

    @classmethod
    def same(cls, text: str, rows: int) -> Texts:
        """One text for all rows."""
        return cls(np.array([text.encode()]), np.zeros(rows, np.int32))

    @cached_property
    def known_V(self) -> NDArray[np.bool_]:
        """Which texts are some."""
        return np.asarray(self.text_V != b"")

    @cached_property
    def known(self) -> bool:
        """Whether any row has a value."""
        return bool(self.spread(self.known_V).any())

    @cached_property
    def number_V(self) -> NDArray[np.float64]:
        """The numbers that texts spell, NaN where they spell none."""
        found_V = np.full(len(self.text_V), np.nan)
        for place in np.flatnonzero(_SPELLING[_bytes(self.text_V)].all(axis=1) & self.known_V):
            spelt = number(self.text_V[place].decode("utf-8", "surrogateescape"))
            if spelt is not None:
                found_V[place] = spelt
        return found_V

    def spread(self, fits_V: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What holds for texts, for the rows that have them."""
        return fits_V if self.code_G is None else np.take(fits_V, self.code_G)


Column = Numbers | Texts


@dataclass(frozen=True)
class Columns:
    """The columns of a gallery. Each is made when a filter asks for it first, then kept."""

    rows: int
    makers: Mapping[str, Callable[[], Column | None]]
    """Field -> what makes its column; None or no maker: nothing is known of it. `clock` is read from `time`."""
    made: dict[str, Column | None] = field(default_factory=dict)

    def column(self, name: str) -> Column | None:
        """The column of a field; None where nothing is known of any row."""
        if name not in self.made:
            if name == "clock" and name not in self.makers:
                time = self.column("time")
                found: Column | None = clock_of(time) if isinstance(time, Texts) else None
            else:
                found = self.makers[name]() if name in self.makers else None
            self.made[name] = found if found is not None and found.known else None
        return self.made[name]

    def knows(self, name: str) -> bool:
        """Whether any row has a value of a field."""
        return self.column(name) is not None

    def known(self) -> tuple[str, ...]:
        """The fields that any row has a value of, and the score."""
        return tuple(name for name in FIELDS if name == "score" or self.knows(name))

    def scored(self, score_G: NDArray[np.floating[Any]]) -> Columns:
        """The same columns with the scores of a query."""
        return Columns(self.rows, self.makers, {**self.made, "score": Numbers(score_G)})


def clock_of(time: Texts) -> Texts:
    """The times of day of times like 2026-01-31T18:05:00; unknown where a time is written otherwise."""
    width = time.text_V.dtype.itemsize
    if width < len("2026-01-31T18:05"):
        return Texts(np.zeros(len(time.text_V), "S1"), time.code_G)
    byte_VW = _bytes(time.text_V)
    written_V = (byte_VW[:, [4, 7, 10, 13]] == np.frombuffer(b"--T:", np.uint8)).all(axis=1)
    clock_VW = np.where(written_V[:, None], byte_VW[:, 11:], 0).astype(np.uint8)
    return Texts(np.ascontiguousarray(clock_VW).view(f"S{width - 11}").reshape(-1), time.code_G)


def times_alike(text_G: Bytes) -> Bytes:
    """Times with a blank between day and hour, as some cameras and data sets write them, with a T."""
    if text_G.dtype.itemsize < len("2026-01-31 18"):
        return text_G
    byte_GW = _bytes(text_G)
    blank_G = (byte_GW[:, [4, 7, 10]] == np.frombuffer(b"-- ", np.uint8)).all(axis=1)
    if not blank_G.any():
        return text_G
    byte_GW = byte_GW.copy()
    byte_GW[blank_G, 10] = ord("T")
    return byte_GW.view(text_G.dtype).reshape(-1)


def _bytes(text_V: Bytes) -> NDArray[np.uint8]:
    """The bytes of texts, [V, width]; zeros behind the shorter ones."""
    return np.ascontiguousarray(text_V).view(np.uint8).reshape(len(text_V), -1)
