"""Rows come back from a feature file as they went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile


@pytest.mark.parametrize(
    "row",
    [
        Row("a.jpg", 1, -2, "c", "c1", "2026-01-05", 12),
        Row("a.jpg", seconds=0.0),
        Row("a.jpg", detection=0.5),
        Row("a.jpg", track="1"),
        Row("a.mp4#t=1", source="a.mp4", seconds=1.0, box=(0, 0, 4, 8), track="1", detection=0.5),
    ],
)
def test_all_that_is_known_of_a_row_is_kept(tmp_path: Path, row: Row) -> None:
    FeatureFile.open(tmp_path / "a.h5", "x").append([row], np.eye(1, 4))
    assert list(FeatureFile.open(tmp_path / "a.h5", "x").known()) == [row]
