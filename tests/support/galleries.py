"""Galleries for tests of databases: rows with everything that a filter may ask, and what an exact search says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Row, Rows, encoded
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.tree import Tree

ODD_PATHS = (
    "a.jpg",
    "Ähre/写真 1.jpg",
    'b/it\'s "quoted"\\back.jpg',
    "b/100%_sure{x}[1]*?.jpg",
    "c/\udcff\udcfe.jpg",
    "c/line\nbreak\ttab.jpg",
    "d/😀.jpg",
    "12",
    "ab",
    "a/b1-é",
    "e/' or path != '",
    'e/" or path != "',
)
CAMERAS = None, "c1", "c2", "12", "012", "写"
TIMES = (
    None,
    "2026-01-05T17:05:00",
    "2026-01-05T17:05:30.250",
    "2026-01-05 18:00:00",
    "2026-01-06T00:00:00",
    "2026-02-01T08:09:10",
    "2025-12-31",
    "2026-01",
    "dusk",
    "7",
    "12",
)
PERSONS = None, 12, "12", "1e1", -3, "nan", "a", "é"
SECONDS = None, 0.0, 0.5, 1.5, 10.0, -3.0
TRACKS = None, "1", "a1"
DETECTIONS = None, 0.9, 0.25
WIDTHS = 0, 10, 12


def odd_rows(count: int, seed: int = 0) -> Rows:
    """Rows with every mixture of values, the first of them under paths that are hard to spell."""
    rng = np.random.default_rng(seed)

    def row(place: int) -> Row:
        path = ODD_PATHS[place] if place < len(ODD_PATHS) else f"f{place % 3}/ab{place:05d}-1.jpg"
        camera, time, person, seconds, track, detection, width = (
            values[int(rng.integers(len(values)))]
            for values in (CAMERAS, TIMES, PERSONS, SECONDS, TRACKS, DETECTIONS, WIDTHS)
        )
        box = (1, 2, width, 30) if width else None
        source = None if box is None else "clip a.mp4" if place % 2 else "b/é.mp4"
        return Row(path, place, -place, f"{place:032x}", camera, time, person, source, seconds, box, track, detection)

    return Rows.of([row(place) for place in range(count)])


def plain_rows(count: int) -> Rows:
    """Rows of twelve cameras, a second apart."""
    start = np.datetime64("2026-01-05T00:00:00")
    return Rows.of(
        [
            Row(f"cam{place % 12}/{place:06d}.jpg", 1, 2, f"{place:032x}", f"c{place % 12}", str(start + place))
            for place in range(count)
        ]
    )


def unit_rows(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors with a spectrum like that of embeddings: few directions have most of the variance."""
    rng = np.random.default_rng(seed)
    vector_NE = (
        rng.standard_normal((count, width)).astype(np.float32) * np.arange(1, width + 1, dtype=np.float32) ** -0.5
    )
    return vector_NE / np.linalg.norm(vector_NE, axis=1, keepdims=True)


def exact(
    rows: Rows, vector_NE: NDArray[np.float32], query_E: NDArray[np.float32], k: int, where: Tree | None = None
) -> list[str]:
    """The paths of the k best rows that a filter lets through, by a plain search in float64."""
    passing = np.ones(len(rows), bool) if where is None else mask(where, columns_of(rows))
    score_N = np.where(passing, vector_NE.astype(np.float64) @ query_E.astype(np.float64), -np.inf)
    best = np.argsort(-score_N, kind="stable")[: min(k, int(passing.sum()))]
    return [rows.paths[place] for place in best]


def by_bytes(paths: list[str]) -> list[str]:
    """Paths in the order in which databases turn their pages."""
    return sorted(paths, key=encoded)
