"""The best k against plain sorting, whatever the blocks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import support.oracles_retrieval as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import DataError
from tbps_cli.retrieval import rank
from tbps_cli.retrieval.similarity import widened


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 60), st.integers(1, 3)),
    k=st.integers(1, 70),
    reach=st.integers(0, 3),
    blocks=st.tuples(st.integers(1, 5), st.sampled_from([1, 7, 32768])),
)
def test_topk_equals_plain_sorting_with_ties(seed, sizes, k, reach, blocks) -> None:
    queries, gallery, width = sizes
    rng = np.random.default_rng(seed)
    query = rng.integers(-reach, reach + 1, (queries, width)).astype(np.float32)
    items = rng.integers(-reach, reach + 1, (gallery, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "QUERIES", blocks[0])
        patch.setattr(rank, "ROWS", blocks[1])
        score, index = rank.topk(query, items, k)
    similarity = oracle.similarity(query, items)
    assert index.tolist() == [oracle.order(row)[:k] for row in similarity]
    assert score.tolist() == [[row[i] for i in oracle.order(row)[:k]] for row in similarity]


def test_equal_images_rank_in_gallery_order_for_a_single_query() -> None:
    rng = np.random.default_rng(2)
    image = rng.standard_normal((1, 512), dtype=np.float32)
    gallery = np.concatenate([rng.standard_normal((50, 512), dtype=np.float32) * 0.1, np.repeat(image, 43, axis=0)])
    assert rank.topk(image, gallery, 43)[1].tolist() == [list(range(50, 93))]


def test_half_precision_memory_maps_and_tensors_are_taken(tmp_path) -> None:
    rng = np.random.default_rng(3)
    gallery = rng.standard_normal((100, 8)).astype(np.float16)
    np.save(tmp_path / "gallery.npy", gallery)
    query = rng.standard_normal((2, 8)).astype(np.float32)
    expected = rank.topk(query, gallery.astype(np.float32), 5)
    for items in (np.load(tmp_path / "gallery.npy", mmap_mode="r"), torch.from_numpy(gallery)):
        score, index = rank.topk(torch.from_numpy(query), items, 5)
        assert isinstance(score, np.ndarray)
        assert index.tolist() == expected[1].tolist()
        assert score.tolist() == expected[0].tolist()


def test_nan_in_the_gallery_is_an_error_that_says_so() -> None:
    gallery = np.ones((3, 2), np.float32)
    gallery[1, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        rank.topk(np.ones((1, 2), np.float32), gallery, 1)


def test_an_empty_gallery_gives_no_hits() -> None:
    score, index = rank.topk(np.ones((2, 3), np.float32), np.ones((0, 3), np.float32), 4)
    assert score.shape == index.shape == (2, 0)


def test_retrieval_and_sheets_import_no_torch() -> None:
    modules = ["retrieval.rank", "features.store", "retrieval.rerank", "retrieval.evaluate", "searching.sheet"]
    code = f"import sys, {', '.join(f'tbps_cli.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_half_precision_is_widened_exactly_infinities_and_nan_too() -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = half[np.isfinite(half)]
    assert np.array_equal(widened(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))
    assert np.array_equal(widened(half), half.astype(np.float32), equal_nan=True)
    assert np.array_equal(widened(finite.astype(">f2")), finite.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_query_scores_the_same_bits_alone_as_among_a_few_in_any_blocks_and_threads(dtype, monkeypatch) -> None:
    rng = np.random.default_rng(4)
    query, gallery = rng.standard_normal((rank.FEW, 96)), rng.standard_normal((2000, 96)).astype(dtype)
    query = query.astype(np.float64 if dtype == np.float64 else np.float32)
    score, index = rank.topk(query, gallery, 20)
    monkeypatch.setattr(rank, "ROWS", 100)
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        for number in range(rank.FEW):
            alone = rank.topk(query[[number]], gallery, 20)
            assert np.array_equal(alone[0][0], score[number])
            assert np.array_equal(alone[1][0], index[number])


def test_many_queries_find_what_each_finds_alone() -> None:
    rng = np.random.default_rng(5)
    query, gallery = (rng.standard_normal((rows, 64), dtype=np.float32) for rows in (64, 500))
    _, together = rank.topk(query, gallery.astype(np.float16), 10)
    assert together.tolist() == [
        rank.topk(query[[n]], gallery.astype(np.float16), 10)[1][0].tolist() for n in range(64)
    ]


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_half_precision_that_is_not_finite_is_an_error(queries, wrong) -> None:
    gallery = np.ones((3, 2), np.float16)
    gallery[1, 0] = wrong
    with pytest.raises(DataError, match="NaN"):
        rank.topk(np.ones((queries, 2), np.float32), gallery, 1)
