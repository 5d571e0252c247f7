"""What a watcher judges: tracks, and images of which no track is known, with the times at which they were seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.rows import Rows
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import Where
from tbps_cli.searching.gallery import Gallery


class JudgedUnits:
    """Those of the rows that pass the filter."""

    def __init__(self, gallery: Gallery, where: Where | None, moment_G: NDArray[np.float64]) -> None:
        row_R = np.arange(len(gallery)) if where is None else np.flatnonzero(mask(where.tree, gallery.columns))
        unit_R = np.arange(len(row_R))
        columns = gallery.rows.columns
        tracked_R = columns["track"][row_R] != b""
        if tracked_R.any():
            named = row_R[tracked_R]
            name = np.rec.fromarrays([columns[part][named] for part in ("source", "camera", "track")])
            unit_R[tracked_R] = len(row_R) + np.unique(name, return_inverse=True)[1]
        order = np.argsort(unit_R, kind="stable")
        self.row_R: NDArray[np.int64] = row_R[order]
        """The rows, those of a unit side by side."""
        self.start_U: NDArray[np.int64] = np.flatnonzero(np.diff(unit_R[order], prepend=-1))
        self.moment_U = self._by_unit(np.fmin, moment_G)
        """When each was seen first, in seconds since 1970; NaN where nobody knows."""

    def __len__(self) -> int:
        return len(self.start_U)

    def any_of(self, true_G: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether any row of each unit is true."""
        return self._by_unit(np.logical_or, true_G)

    def best_of(self, score_G: NDArray[Any]) -> NDArray[np.int64]:
        """The row of each unit with the highest score; of equal ones the first."""
        unit_R = np.repeat(np.arange(len(self)), np.diff(self.start_U, append=len(self.row_R)))
        order = np.lexsort((-score_G[self.row_R], unit_R))
        return self.row_R[order][self.start_U]

    def _by_unit(self, reduce: np.ufunc, value_G: NDArray[Any]) -> NDArray[Any]:
        value_R = value_G[self.row_R]
        return reduce.reduceat(value_R, self.start_U) if len(value_R) else value_R


def moments(rows: Rows) -> NDArray[np.float64]:
    """When each row was seen, in seconds since 1970; NaN where nobody knows."""
    texts = rows.columns["time"].tolist()
    known = {text: _moment(text) for text in set(texts)}
    return np.array([known[text] for text in texts], np.float64)


def _moment(text: bytes) -> float:
    try:
        return datetime.fromisoformat(text.decode("ascii")).timestamp()
    except (ValueError, OverflowError, OSError):
        return float("nan")
