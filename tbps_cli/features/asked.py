"""Rows as the columns that a filter asks: an index, a gallery and a database answer `--where` from the same ones."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.rows import Rows, encoded
from tbps_cli.filtering.columns import Columns, Numbers, Texts, times_alike

DIGITS = 6
"""Of a detector's score, which is stored in 32 bits: 0.9 is to be 0.9 in a filter."""


def columns_of(rows: Rows, split: str | None = None) -> Columns:
    """What a filter may ask of rows, but for their scores; split: the one that all of them are of."""
    column, count = rows.columns, len(rows)
    return Columns(
        count,
        {
            "path": lambda: Texts.of(column["path"]),
            "person": lambda: Texts.of(column["person"], _person),
            "camera": lambda: Texts.of(column["camera"]),
            "time": lambda: Texts.of(times_alike(column["time"])),
            "split": lambda: Texts.same(split, count) if split else None,
            "source": lambda: Texts.of(column["source"]),
            "seconds": lambda: Numbers(column["seconds"]),
            "track": lambda: Texts.of(column["track"]),
            "width": lambda: _pixels(column["box"][:, 2]),
            "height": lambda: _pixels(column["box"][:, 3]),
            "detection": lambda: Numbers(column["detection"].astype(np.float64).round(DIGITS)),
        },
    )


def _pixels(size_G: NDArray[np.int32]) -> Numbers:
    """A side of the boxes; 0 is no box."""
    return Numbers(np.where(size_G > 0, size_G, np.nan))


def _person(stored: bytes) -> bytes:
    """A person as a filter compares it: the column holds JSON, so that 12 and "12" can be told apart."""
    found = json.loads(stored or b"null")
    return b"" if found is None else encoded(str(found))
