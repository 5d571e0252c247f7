"""A filter that leaves out the lesser part: the best are found among the best of all, and no rows are copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbps_cli.features.rows import Row, Rows
from tbps_cli.retrieval.rank import topk
from tbps_cli.searching import gallery as galleries
from tbps_cli.searching.gallery import Gallery, Roots

SIZE = 20_000


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    vector_GE = np.random.default_rng(0).normal(size=(SIZE, 32)).astype(np.float32)
    vector_GE[::7] = vector_GE[0]  # equal scores stand in the order of the rows
    vector_GE /= np.linalg.norm(vector_GE, axis=1, keepdims=True)
    rows = Rows.of([Row(f"{number}.jpg") for number in range(SIZE)])
    return Gallery("made", Roots(Path("made")), rows, vector_GE.astype(np.float16))


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each ranking had to copy."""
    counts: list[int] = []

    def spied(query_QE: Any, gallery_GE: Any, k: int, place_K: Any = None) -> Any:
        counts.append(0 if place_K is None else len(place_K))
        return topk(query_QE, gallery_GE, k, place_K)

    monkeypatch.setattr(galleries, "topk", spied)
    return counts


def queries(count: int) -> np.ndarray[Any, Any]:
    query_QE = np.random.default_rng(1).normal(size=(count, 32)).astype(np.float32)
    return query_QE / np.linalg.norm(query_QE, axis=1, keepdims=True)


def same(found: Any, wanted: Any) -> None:
    assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("every", [2, 3, 10])
def test_the_best_of_most_rows_are_found_without_a_copy(
    gallery: Gallery, copied: list[int], k: int, every: int
) -> None:
    place_K = np.flatnonzero(np.arange(SIZE) % every != 1) if every > 2 else np.arange(SIZE - SIZE // 3)
    for query_1E in np.split(queries(8), 8):
        same(gallery.best(query_1E, k, place_K), topk(query_1E, gallery.vector_GE, k, place_K))
    same(gallery.best(queries(3), k, place_K), topk(queries(3), gallery.vector_GE, k, place_K))
    assert set(copied) == {0}


def test_rows_are_copied_where_few_pass_or_the_best_of_all_do_not(gallery: Gallery, copied: list[int]) -> None:
    query_1E = queries(1)
    few_K = np.arange(3000)
    same(gallery.best(query_1E, 10, few_K), topk(query_1E, gallery.vector_GE, 10, few_K))
    worse_K = np.sort(np.argsort((gallery.vector_GE.astype(np.float32) @ query_1E[0]), kind="stable")[: SIZE - 2000])
    same(gallery.best(query_1E, 10, worse_K), topk(query_1E, gallery.vector_GE, 10, worse_K))
    assert copied == [3000, 0, SIZE - 2000]


def test_a_damaged_row_that_the_filter_leaves_out_harms_nothing(gallery: Gallery) -> None:
    vector_GE = gallery.vector_GE.copy()
    vector_GE[5] = np.nan
    damaged = Gallery("made", gallery.roots, gallery.rows, vector_GE)
    place_K = np.arange(6, SIZE)
    same(damaged.best(queries(1), 10, place_K), topk(queries(1), vector_GE, 10, place_K))
