"""The best k against plain sorting, whatever the blocks."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import support.oracles_retrieval as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import DataError
from tbps_cli.retrieval import halves, near, rank
from tbps_cli.retrieval.similarity import dots, pairs, widened


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
        patch.setattr(rank, "AT_ONCE", blocks[1])
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
    monkeypatch.setattr(rank, "AT_ONCE", 100)
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


def likeness(rows: int, queries: int, *, width: int = 128, seed: int = 6):
    """(query_QE, gallery_GE), unit rows around a common mean with a few strong directions, as embeddings have them."""
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((rows, width), dtype=np.float32) * np.arange(1, width + 1, dtype=np.float32) ** -0.5
    gallery += 0.3 * rng.standard_normal(width, dtype=np.float32)
    query = gallery[rng.choice(rows, queries)] + 0.1 * rng.standard_normal((queries, width), dtype=np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery))


def without_numkong(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "numkong", None)
    forget()


def forget() -> None:
    """What is known of numkong."""
    for known in (halves.library, halves._widens, halves._right, halves._quick_with_halves, halves._multiplies_brain):
        known.cache_clear()


@pytest.fixture
def no_numkong(monkeypatch):
    """As where numkong has no wheel."""
    without_numkong(monkeypatch)
    yield
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 3, 8, 64, 200])
def test_the_ten_best_are_those_of_float64_in_their_order(dtype, queries) -> None:
    query, gallery = likeness(20_000, queries)
    gallery = gallery.astype(dtype)
    score, index = rank.topk(query, gallery, 10)
    exact = query.astype(np.float64) @ gallery.astype(np.float64).T
    assert np.allclose(score, np.take_along_axis(exact, index, 1), atol=1e-6)
    for mine, right, all_scores in zip(index, np.argsort(-exact, axis=1, kind="stable")[:, :10], exact, strict=True):
        assert set(mine) == set(right)
        assert (mine == right).all() or np.abs(np.diff(all_scores[right])).min() < 1e-7  # nearer than float32 can tell


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_answer_is_the_same_to_the_bit_whatever_way_the_gallery_is_gone_through(dtype, monkeypatch) -> None:
    query, gallery = likeness(5000, 120)
    gallery = gallery.astype(dtype)
    exact = dots(query, gallery)
    index = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    together = rank.topk(query, gallery, 10)
    assert np.array_equal(together[1], index)
    assert np.array_equal(together[0], np.take_along_axis(exact, index, 1))
    for few in (1, 3, 7, 40):
        some = rank.topk(query[:few], gallery, 10)
        assert np.array_equal(some[0], together[0][:few])
        assert np.array_equal(some[1], together[1][:few])
    widened_once = rank.topk(query, gallery.astype(np.float32), 10)
    assert np.array_equal(widened_once[0], together[0])
    monkeypatch.setattr(near, "BYTES", 0)
    assert np.array_equal(rank.topk(query, gallery, 10)[0], together[0])
    monkeypatch.setattr(rank, "ROWS", 700)
    monkeypatch.setattr(rank, "PRODUCT_ROWS", 100)
    monkeypatch.setattr(rank, "BLOCK", 1 << 14)
    assert np.array_equal(rank.topk(query, gallery, 10)[0], together[0])
    monkeypatch.setattr(rank, "ALL", 1 << 20)  # every score exactly
    assert np.array_equal(rank.topk(query, gallery, 10)[0], together[0])


@pytest.mark.parametrize("queries", [1, 3, 8, 120])
def test_without_numkong_the_answer_is_the_same(queries, no_numkong) -> None:
    query, gallery = likeness(5000, queries)
    half = gallery.astype(np.float16)
    assert not halves.fit("float16", 128)
    without = rank.topk(query, half, 10)
    assert np.array_equal(widened(half), half.astype(np.float32))
    assert np.array_equal(without[1], np.argsort(-dots(query, half), axis=1, kind="stable")[:, :10])


def test_numkong_is_used_where_it_is_there() -> None:
    assert halves.library() is not None


@pytest.fixture
def fits(monkeypatch):
    """As where both types are quick, in a large gallery; says which ways were gone."""
    monkeypatch.setattr(near, "BYTES", 0)
    monkeypatch.setattr(halves, "_multiplies_brain", lambda: True)
    monkeypatch.setattr(halves, "_quick_with_halves", lambda width: True)
    ways: list[str] = []
    scores = halves.RoundedQueries.scores

    def noted(self, *args, **kwargs):
        ways.append(self.kind)
        return scores(self, *args, **kwargs)

    monkeypatch.setattr(halves.RoundedQueries, "scores", noted)
    return ways


@pytest.mark.parametrize(
    ("dtype", "queries", "way"),
    [("float16", 1, "float16"), ("float16", 8, "float16"), ("float16", 64, "bfloat16"), ("float32", 130, "bfloat16")],
)
def test_every_way_in_16_bits_gives_the_exact_answer(dtype, queries, way, fits) -> None:
    query, gallery = likeness(20_000, queries)
    gallery = gallery.astype(dtype)
    halves.fit(way, 128)
    fits.clear()
    score, index = rank.topk(query, gallery, 10)
    assert set(fits) == {way}
    exact = dots(query, gallery)
    assert np.array_equal(index, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert np.array_equal(score, np.take_along_axis(exact, index, 1))


def test_one_long_row_far_back_is_found_though_bfloat16_allows_only_for_short_ones(fits) -> None:
    query, gallery = likeness(9000, 20)
    gallery[7000] = 50 * (query.mean(axis=0) + gallery[7000])
    exact = dots(query, gallery)
    assert np.array_equal(rank.topk(query, gallery, 10)[1], np.argsort(-exact, axis=1, kind="stable")[:, :10])


def test_rows_too_alike_for_bfloat16_are_ranked_in_other_ways(fits, monkeypatch) -> None:
    monkeypatch.setattr(rank, "CROWD", 1000)
    monkeypatch.setattr(rank, "CROWD_OF_QUERY", 0)
    query, gallery = likeness(9000, 20)
    gallery = gallery[:1] + 1e-3 * gallery
    exact = dots(query, gallery)
    assert np.array_equal(rank.topk(query, gallery, 10)[1], np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert "bfloat16" in fits


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("queries", [1, 8])
def test_kernels_whose_scores_are_off_are_not_used(queries, tiles, monkeypatch) -> None:
    numkong = halves.library()

    def off(score):
        return np.asarray(score).astype(np.float16).astype(np.float32)  # as if added in half precision

    def packed(row_GE, pack, out=None):
        if out is None:
            return off(numkong.dots_packed(row_GE, pack))
        numkong.dots_packed(row_GE, pack, out=out)
        np.asarray(out)[:] = off(out)
        return out

    changed = {"dots_packed": packed} if tiles else {"cdist": lambda *given: off(numkong.cdist(*given))}
    monkeypatch.setattr(halves, "library", lambda: SimpleNamespace(**{**vars(numkong), **changed}))
    monkeypatch.setattr(halves, "multiplies_tiles", lambda: tiles)
    halves._right.cache_clear()
    assert not halves.fit("float16", 128)
    query, gallery = likeness(3000, queries)
    half = gallery.astype(np.float16)
    assert np.array_equal(rank.topk(query, half, 5)[1], np.argsort(-dots(query, half), axis=1, kind="stable")[:, :5])
    monkeypatch.undo()
    halves._right.cache_clear()


@pytest.mark.parametrize("rows", [1, 3, 4, 2999, 20_003])
@pytest.mark.parametrize("tiles", [False, True])
def test_rows_that_are_taken_several_for_one_score_what_each_does(rows, tiles, monkeypatch) -> None:
    monkeypatch.setattr(halves, "multiplies_tiles", lambda: tiles)
    query, gallery = likeness(rows, 1)
    half = gallery.astype(np.float16)
    queries = halves.RoundedQueries(query, "float16")
    exact_QG = queries.rounded_QE @ half.astype(np.float64).T
    assert np.allclose(queries.scores_of(half), exact_QG, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [400, 9000])
@pytest.mark.parametrize("queries", [1, 3, 40, 120])
def test_how_the_rows_lie_in_memory_does_not_matter(queries, rows, dtype) -> None:
    query, gallery = likeness(rows, queries)
    row_GE = gallery.astype(dtype)
    score_QK, index_QK = rank.topk(query, row_GE, 5)
    spread = np.repeat(row_GE, 2, axis=0)
    wider = np.concatenate([row_GE, row_GE], axis=1)
    for layout in (np.asfortranarray(row_GE), spread[::2], wider[:, : row_GE.shape[1]], row_GE[::-1].copy()[::-1]):
        found_QK, place_QK = rank.topk(query, layout, 5)
        assert np.array_equal(place_QK, index_QK)
        assert np.array_equal(found_QK, score_QK)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("queries", [1, 3, 40, 120])
def test_how_the_queries_lie_in_memory_does_not_matter(queries, dtype) -> None:
    query, gallery = likeness(900, queries)
    gallery = gallery.astype(dtype)
    score_QK, index_QK = rank.topk(query, gallery, 200)
    wider = np.repeat(query, 3, axis=1)
    layouts = np.asfortranarray(query), wider[:, 1::3], query[:, ::-1].copy()[:, ::-1], query.astype(">f4")
    for layout in layouts:
        found_QK, place_QK = rank.topk(layout, gallery, 200)
        assert np.array_equal(found_QK, score_QK)
        assert np.array_equal(place_QK, index_QK)


@pytest.mark.parametrize("queries", [1, 20])
def test_the_order_of_bytes_takes_nothing_from_double_precision(queries) -> None:
    query, gallery = (rows.astype(np.float64) for rows in likeness(500, queries))
    query += 1e-12
    score_QK, index_QK = rank.topk(query, gallery, 10)
    for swapped in (rank.topk(query, gallery.astype(">f8"), 10), rank.topk(query.astype(">f8"), gallery, 10)):
        assert np.array_equal(swapped[0], score_QK)
        assert np.array_equal(swapped[1], index_QK)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_whose_scores_are_too_small_for_float32_rank_by_place(dtype) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.uniform(0.5, 1, (20, 4)) * 1e-30, rng.uniform(0.5, 1, (300, 4)) * 1e-30
    score, index = rank.topk(query.astype(np.float32), gallery.astype(dtype), 10)
    assert not score.any()
    assert index.tolist() == [list(range(10))] * 20


def test_rows_that_are_not_finite_are_one_error_and_no_warning(recwarn) -> None:
    gallery = np.ones((600, 4), np.float32)
    gallery[3, 1] = np.inf
    with pytest.raises(DataError, match="infinity"):
        rank.topk(np.zeros((20, 4), np.float32), gallery, 3)
    with pytest.raises(DataError, match="infinity"):
        rank.topk(np.full((1, 4), 1e30, np.float32), np.full((600, 4), 1e30, np.float32), 100)
    with pytest.raises(DataError, match="infinity"):
        rank.topk(np.full((3, 4), 1e30, np.float32), np.full((600, 4), 1e30), 3)
    assert not recwarn.list


def test_rows_that_a_query_in_half_precision_would_rank_wrongly_are_ranked_rightly() -> None:
    rng = np.random.default_rng(8)
    query = rng.standard_normal((1, 256), dtype=np.float32)
    query /= np.linalg.norm(query)
    half = query.astype(np.float16).astype(np.float32)
    lost = query - half  # what rounding the query takes away; across what is left, so that quick scores do not see it
    lost -= (lost @ half.T) / (half @ half.T) * half
    lost /= np.linalg.norm(lost)
    along = rng.uniform(-1, 1, (4000, 1)).astype(np.float32)
    gallery = (0.5 * half + along * lost).astype(np.float16)
    quick = half.astype(np.float64) @ gallery.astype(np.float64).T
    right = np.argsort(-dots(query, gallery)[0], kind="stable")[:10]
    assert set(np.argsort(-quick[0])[:10]) != set(right)
    assert rank.topk(query, gallery, 10)[1][0].tolist() == right.tolist()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 300),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    queries=st.sampled_from([1, 2, 5, 70]),
    kind=st.sampled_from(["float16", "bfloat16"]),
)
def test_quick_scores_are_never_further_off_than_the_bound(seed, width, size, queries, kind) -> None:
    rng = np.random.default_rng(seed)
    query = (size * rng.standard_normal((queries, width))).astype(np.float32)
    row = (rng.standard_normal((600, width)) * rng.uniform(0, 3, (600, 1))).astype(np.float16)
    quick = halves.RoundedQueries(query, kind)
    assert halves.longest(row) >= np.linalg.norm(row.astype(np.float64), axis=1).max()
    bound = quick.error(query, halves.longest(row))[:, None]
    assert (np.abs(quick.scores_of(row) - dots(query, row)) <= bound).all()
    seen: list[float] = []
    if kind == "bfloat16":
        wide = row.astype(np.float32)
        off = np.abs(quick.scores(lambda start, stop: wide[start:stop], 0, 600, seen) - dots(query, wide))
        assert (off <= bound).all()
        assert max(seen) >= np.linalg.norm(wide, axis=1).max()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 8, 120])
def test_of_more_equal_rows_than_are_wanted_the_first_rank(dtype, queries, monkeypatch) -> None:
    query, gallery = likeness(3000, queries)
    gallery = gallery.astype(dtype)
    places = np.sort(np.random.default_rng(9).choice(3000, 500, replace=False))
    gallery[places] = query.mean(axis=0) * 3
    expected = np.broadcast_to(places[:10], (queries, 10)).tolist()
    assert rank.topk(query, gallery, 10)[1].tolist() == expected
    monkeypatch.setattr(rank, "CROWD", 100)  # too many to be scored again
    assert rank.topk(query, gallery, 10)[1].tolist() == expected


def test_rows_far_longer_than_the_first_are_ranked_by_place_when_equal() -> None:
    query, gallery = likeness(3000, 20)
    gallery[1000::100] = 1e6 * query.mean(axis=0)
    assert rank.topk(query, gallery, 10)[1].tolist() == [list(range(1000, 2000, 100))] * 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 8, 120])
def test_only_the_rows_that_count_are_ranked(dtype, queries) -> None:
    query, gallery = likeness(5000, queries)
    gallery = gallery.astype(dtype)
    counts = np.flatnonzero(np.random.default_rng(3).random(5000) < 0.3)
    score, index = rank.topk(query, gallery, 10, counts)
    copied = rank.topk(query, gallery[counts], 10)
    assert np.array_equal(score, copied[0])
    assert np.array_equal(index, counts[copied[1]])
    assert rank.topk(query, gallery, 10, counts[:0])[1].shape == (queries, 0)
    gallery[counts[40]] = np.nan
    with pytest.raises(DataError, match=f"in rows {counts[0]} to "):
        rank.topk(query, gallery, 10, counts)
    assert np.isfinite(rank.topk(query, gallery, 10, np.delete(counts, 40))[0]).all()


def test_queries_beyond_half_precision_are_ranked_too() -> None:
    query, gallery = likeness(3000, 2)
    found = rank.topk(1e6 * query, gallery.astype(np.float16), 10)
    assert np.array_equal(
        found[1], np.argsort(-dots(1e6 * query, gallery.astype(np.float16)), 1, kind="stable")[:, :10]
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pairs_have_the_bits_of_dots(dtype) -> None:
    query, gallery = likeness(300, 20)
    gallery = gallery.astype(dtype)
    owner, place = np.divmod(np.random.default_rng(0).permutation(20 * 300), 300)
    assert np.array_equal(pairs(query, owner, gallery[place]), dots(query, gallery)[owner, place])


@pytest.mark.parametrize("queries", [1, 8, 120])
def test_a_map_in_half_precision_is_never_widened_as_a_whole(queries, tmp_path) -> None:
    query, gallery = likeness(60_000, queries, width=256)
    np.save(tmp_path / "gallery.npy", gallery.astype(np.float16))
    half = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    rank.topk(query, half, 10)
    tracemalloc.start()
    rank.topk(query, half, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert half.nbytes / peak > 2.5  # widened it would take twice what it takes itself


def test_what_is_known_of_arrays_that_cannot_change_is_kept_while_they_live() -> None:
    rows = np.ones((4, 2), np.float16)
    halves.remember(rows, "longest", 2.0)
    assert halves.known(rows, "longest") is None
    view = rows[:]
    view.flags.writeable = False  # but what it shows can change
    halves.remember(view, "longest", 2.0)
    assert halves.known(view, "longest") is None
    rows.flags.writeable = False
    halves.remember(rows, "longest", 2.0)
    assert halves.known(rows, "longest") == 2.0
    before = len(halves._known)
    del rows, view
    assert len(halves._known) == before - 1


def lasting(rows):
    """As a map of an index file: nobody can write to it."""
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


@pytest.fixture
def copied(monkeypatch):
    """As where bfloat16 is quick; has the numbers of queries that were multiplied with a copy of a small gallery."""
    monkeypatch.setattr(halves, "_multiplies_brain", lambda: True)
    asked: list[int] = []
    best_near = rank.best_near

    def noted(query_BE, *rest):
        asked.append(len(query_BE))
        return best_near(query_BE, *rest)

    monkeypatch.setattr(rank, "best_near", noted)
    return asked


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 400), st.integers(1, 40)),
    k=st.integers(1, 50),
    reach=st.integers(0, 3),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_a_small_gallery_that_lasts_is_ranked_like_plain_sorting_with_ties(seed, sizes, k, reach, dtype) -> None:
    queries, gallery, width = sizes
    rng = np.random.default_rng(seed)
    query = rng.integers(-reach, reach + 1, (queries, width)).astype(np.float32)
    items = rng.integers(-reach, reach + 1, (gallery, width)).astype(dtype)
    score, index = rank.topk(query, lasting(items), k)
    similarity = query @ items.astype(np.float32).T
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    assert np.array_equal(index, expected)
    assert np.array_equal(score, np.take_along_axis(similarity, expected, axis=1))


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_a_small_gallery_that_lasts_has_the_answers_of_any_other(dtype, threads, k, copied, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(near, "WORK", 1 << 18)
    query, gallery = likeness(3001, 150)
    gallery = lasting(gallery.astype(dtype))
    exact = dots(query, gallery)
    right = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    for queries in (1, 2, 3, 8, 150):
        copied.clear()
        score, index = rank.topk(query[:queries], gallery, k)
        assert sum(copied) == queries and max(copied) <= near.PACK
        assert np.array_equal(index, right[:queries])
        assert np.array_equal(score, np.take_along_axis(exact, right, 1)[:queries])


def test_a_small_gallery_that_changes_between_searches_gives_the_new_answer(copied) -> None:
    query, gallery = likeness(2000, 20)
    before = rank.topk(query, gallery, 5)[1]
    gallery[:] = gallery[::-1].copy()
    assert rank.topk(query, gallery, 5)[1].tolist() == (1999 - before).tolist()
    assert copied


@pytest.mark.parametrize("size", [0.0, 1e-37, 1e-25, 1e25, 1e33])
def test_queries_that_small_products_lose_or_large_ones_overflow_are_ranked_as_ever(size) -> None:
    query, gallery = likeness(2000, 3)
    query = (query * np.float32(size)).astype(np.float32)
    exact = dots(query, gallery)
    score, index = rank.topk(query, lasting(gallery), 5)
    assert np.array_equal(index, np.argsort(-exact, axis=1, kind="stable")[:, :5])
    assert np.isfinite(score).all()


def test_a_small_gallery_of_rows_too_alike_for_bfloat16_is_ranked_in_other_ways(copied) -> None:
    query, gallery = likeness(4000, 4)
    gallery = lasting(gallery[:1] + 1e-4 * gallery)
    exact = dots(query, gallery)
    assert np.array_equal(rank.topk(query, gallery, 10)[1], np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert copied


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [1, 20])
def test_nan_in_a_small_gallery_that_lasts_is_an_error(wrong, queries, copied) -> None:
    query, gallery = likeness(1000, queries)
    gallery[500, 3] = wrong
    for _ in range(2):
        with pytest.raises(DataError, match="NaN"):
            rank.topk(query, lasting(gallery), 10)


@pytest.mark.parametrize("wrong", [0, 21, 98])
def test_a_block_that_fails_fails_the_whole(wrong) -> None:
    def work(start: int, stop: int) -> int:
        if start == wrong:
            raise ArithmeticError(start)
        return start

    with pytest.raises(ArithmeticError, match=str(wrong)):
        list(rank._mapped(work, 100, 7, 2))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_the_longest_row_is_not_finite_where_a_number_is_not(kind, wrong) -> None:
    rows = np.ones((10, 64), np.float32)
    rows[4, 7] = wrong
    assert not np.isfinite(halves.longest(halves.library().astype(rows, kind)))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 300),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
    kept=st.booleans(),
)
def test_scores_of_a_copy_are_never_further_off_than_its_bound(seed, width, size, dtype, kept) -> None:
    rng = np.random.default_rng(seed)
    query = (size * rng.standard_normal((near.UNKEPT, width))).astype(np.float32)
    rows = (rng.standard_normal((600, width)) * rng.uniform(0, 3, (600, 1))).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halves, "_multiplies_brain", lambda: True)
        found = near.near_rows(lasting(rows) if kept else rows, len(query))
    assert found is not None and (found.packed is not None) == kept
    numkong = halves.library()
    rounded = numkong.astype(query, "bfloat16")
    quick = np.asarray(numkong.dots_packed(found.row_GE, numkong.dots_pack(rounded, dtype=numkong.bfloat16))).T
    bound = found.apart(*near._measured(query))[:, None] / 2
    assert (np.abs(quick - dots(query, rows)) <= bound).all()
    if kept:
        length = halves.lengths(query)[:, None]
        assert (found.apart(length, near.BRAIN_ERROR * length) / 2 >= bound).all()  # what one query takes
        assert (np.abs(np.asarray(numkong.dots_packed(rounded, found.packed)) - dots(query, rows)) <= bound).all()
