"""The cascade finds what an exact scan finds, whatever the spectrum, and its error bar is what it says."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest
from benchmarks._spectra import SPECTRA, Drawn

from tbps_cli.retrieval import cascade, integers
from tbps_cli.retrieval.cascade import GROUP, Cascade, CodedQuery, CodeFrame, highest, reached
from tbps_cli.retrieval.rank import topk

ROWS, QUERIES = 12_000, 40


@pytest.fixture(scope="module", params=list(SPECTRA))
def drawn(request):
    """(queries, rows in half precision, places that a filter leaves, cascade)."""
    made = Drawn(SPECTRA[request.param], ROWS, QUERIES)
    vector_GE = np.concatenate(list(made.blocks())).astype(np.float16)
    return made.query_QE, vector_GE, made.filtered, coded(vector_GE)


def coded(vector_GE):
    frame = CodeFrame.fit(vector_GE)
    groups = [np.concatenate(blocks) for blocks in zip(*frame.encoded(vector_GE), strict=True)]
    return Cascade(frame, groups, integers.with_numkong)


def recall(found_QK, right_QK):
    return np.mean([len(set(found) & set(right)) / len(right) for found, right in zip(found_QK, right_QK, strict=True)])


@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_best_of_all_rows_are_found_with_their_exact_scores(drawn, k):
    query_QE, vector_GE, _, found = drawn
    score_QK, place_QK = found.best(query_QE, vector_GE, k)
    right_QK, right_place_QK = topk(query_QE, vector_GE, k)
    assert recall(place_QK, right_place_QK) >= 0.998
    assert (np.diff(score_QK, axis=1) <= 0).all()
    exact_QK = np.einsum("qke,qe->qk", vector_GE[place_QK].astype(np.float64), query_QE.astype(np.float64))
    assert np.abs(score_QK - exact_QK).max() < 1e-6
    assert np.abs(score_QK[:, 0] - right_QK[:, 0]).max() < 1e-3


def test_a_filter_leaves_its_own_rows_and_their_best_are_found(drawn):
    query_QE, vector_GE, place_K, found = drawn
    _, place_QK = found.best(query_QE, vector_GE, 10, place_K)
    assert np.isin(place_QK, place_K).all()
    assert recall(place_QK, place_K[topk(query_QE, vector_GE[place_K], 10)[1]]) >= 0.998


def test_images_as_queries_are_found_although_they_share_more_than_chance(drawn):
    _, vector_GE, _, found = drawn
    query_QE = vector_GE[:: ROWS // QUERIES].astype(np.float32)
    score_QK, place_QK = found.best(query_QE, vector_GE, 10)
    assert (place_QK[:, 0] == np.arange(0, ROWS, ROWS // QUERIES)).all()
    assert recall(place_QK, topk(query_QE, vector_GE, 10)[1]) >= 0.99
    assert score_QK[:, 0] == pytest.approx(1, abs=1e-3)


def test_what_is_missing_has_the_variance_that_the_bar_says(drawn):
    query_QE, vector_GE, _, found = drawn
    full_QG = query_QE @ (vector_GE.astype(np.float32) - found.frame.mean_E).T
    for query_E, full_G in zip(query_QE[:5], full_QG, strict=False):
        one, known_G = CodedQuery(query_E, found.frame), np.zeros(ROWS, np.float32)
        for scanned in range(found.frame.groups + 1):
            assert (full_G - known_G).std() == pytest.approx(one.sigma(scanned), rel=0.1)
            if scanned < found.frame.groups:
                ints = integers.plain(one.code_HD[[scanned]], found.groups[scanned])[0]
                known_G += ints * one.factor_H[scanned]


def test_a_flat_spectrum_takes_more_groups_than_a_steep_one(monkeypatch):
    """With a bar alone: a share of rows kept whatever it says would hide it in so small a gallery."""
    monkeypatch.setattr(cascade, "KEPT", 0)
    read = {}
    for name in ("steep", "flat"):
        made = Drawn(SPECTRA[name], ROWS, 10)
        vector_GE = np.concatenate(list(made.blocks())).astype(np.float16)
        found, rows = coded(vector_GE), []
        found.product = lambda query, codes, rows=rows: rows.append(len(codes)) or integers.plain(query, codes)
        for query_E in made.query_QE:
            found.best(query_E[None], vector_GE, 10)
        read[name] = sum(rows) / ROWS / 10
    assert 1 <= read["steep"] < read["flat"] - 0.1, read


@pytest.mark.parametrize("width", [8, GROUP, 200])
def test_any_width_of_vectors_is_coded(width):
    vector_GE = np.random.default_rng(0).standard_normal((3000, width)).astype(np.float32)
    found = coded(vector_GE)
    assert found.frame.groups == -(-width // GROUP)
    score_QK, place_QK = found.best(vector_GE[:9], vector_GE, 5)
    right_QK, right_place_QK = topk(vector_GE[:9], vector_GE, 5)
    assert np.array_equal(place_QK, right_place_QK) and score_QK == pytest.approx(right_QK, abs=1e-4)


def test_a_process_that_was_forked_off_has_threads_of_its_own():
    made = Drawn(SPECTRA["base"], 3000, 1)
    vector_GE = np.concatenate(list(made.blocks())).astype(np.float16)
    found = coded(vector_GE)
    found.workers, found.block = 2, 500
    _, expected_QK = found.best(made.query_QE, vector_GE, 10)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(found.best(made.query_QE, vector_GE, 10)[1]))
    child.start()
    child.join(60)
    try:
        assert child.exitcode == 0
        assert np.array_equal(answers.get(), expected_QK)
    finally:
        child.kill()


def test_equal_rows_rank_by_their_places():
    vector_GE = np.tile(np.random.default_rng(1).standard_normal((500, 32)).astype(np.float32), (6, 1))
    _, place_QK = coded(vector_GE).best(vector_GE[:3], vector_GE, 6)
    assert place_QK.tolist() == [[row + 500 * copy for copy in range(6)] for row in range(3)]


def test_of_more_equal_rows_than_are_scored_again_the_first_rank():
    rng = np.random.default_rng(2)
    vector_GE = rng.standard_normal((3000, 160)).astype(np.float32)
    places = np.sort(rng.choice(3000, 400, replace=False))
    vector_GE[places] = vector_GE[places[0]]
    found = coded(vector_GE).best(vector_GE[places[:1]], vector_GE, 10)[1]
    assert found.tolist() == [places[:10].tolist()]
    nothing = np.zeros((1, 160), np.float32)
    assert coded(vector_GE).best(nothing, vector_GE, 10)[1].tolist() == [list(range(10))]


def test_no_query_and_no_row_are_no_error():
    vector_GE = np.random.default_rng(1).standard_normal((100, 32)).astype(np.float32)
    found = coded(vector_GE)
    assert found.best(vector_GE[:0], vector_GE, 5)[1].shape == (0, 0)
    assert found.best(vector_GE[:2], vector_GE, 5, np.zeros(0, np.int64))[1].shape == (2, 0)
    assert found.best(vector_GE[:2], vector_GE, 200)[1].shape == (2, 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_not_coded(bad):
    vector_GE = np.ones((50, 16), np.float32)
    vector_GE[7, 3] = bad
    with pytest.raises(ValueError, match="cannot be coded"):
        CodeFrame.fit(vector_GE)
    with pytest.raises(ValueError, match="cannot be coded"):
        CodeFrame.fit(np.eye(16, dtype=np.float32)).encode(vector_GE)


def test_the_highest_scores_are_all_there():
    rng = np.random.default_rng(0)
    for size in (1, 7, 60, 1000, 30_011):
        score_K = rng.standard_normal(size).astype(np.float32)
        for count in (1, 10, 200):
            found, right = highest(score_K, count), np.argsort(-score_K)[: min(count, size)]
            assert set(right) <= set(found)
            assert len(found) <= 2 * len(right) + 8
        assert (score_K >= reached(score_K, size)).all()
        assert (score_K >= reached(score_K, 1)).sum() <= max(1, 4 * size // cascade.SCORES)


# Products -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 501, 4096])
@pytest.mark.parametrize("queries", [1, 2, 9])
@pytest.mark.parametrize("tiles", [False, True])
def test_products_are_those_of_plain_integers(rows, queries, tiles, monkeypatch):
    monkeypatch.setattr(integers, "multiplies_tiles", lambda: tiles)
    rng = np.random.default_rng(rows)
    query_QD = rng.integers(-127, 128, (queries, GROUP), np.int8)
    row_ND = rng.integers(-127, 128, (rows, GROUP), np.int8)
    right_QN = integers.plain(query_QD, row_ND)
    assert np.array_equal(integers.with_numkong(query_QD, row_ND), right_QN)
    if rows and hasattr(sys.modules.get("torch"), "_int_mm"):
        assert np.array_equal(integers.with_torch(query_QD, row_ND), right_QN)


def test_without_numkong_and_torch_there_is_no_product_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(integers, "library", lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ArithmeticError, match=r"numkong.*is not installed"):
        integers.quickest(GROUP)


def test_a_product_that_is_wrong_is_not_taken(monkeypatch):
    monkeypatch.setattr(integers, "with_numkong", lambda query, rows: integers.plain(query, rows) + 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ArithmeticError, match="right numbers"):
        integers.quickest(GROUP)
