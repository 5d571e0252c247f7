"""R@k, mAP and mINP against plain loops, golden figures and the corner cases of the definitions."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import support.oracles_retrieval as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import DataError
from tbps_cli.retrieval import metrics

GOLDEN = Path(__file__).parents[1] / "golden"


def near(scores: object, expected: dict[str, float], tolerance: float = 1e-9) -> None:
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value, abs=tolerance), name


@st.composite
def small_problem(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Whole-number features (products are exact, ties common) and few identities."""
    queries, gallery, width = draw(st.integers(1, 7)), draw(st.integers(1, 90)), draw(st.integers(1, 3))
    seed, reach = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 4))
    rng = np.random.default_rng(seed)
    persons = draw(st.integers(1, 6))
    return (
        rng.integers(-reach, reach + 1, (queries, width)).astype(np.float32),
        rng.integers(-reach, reach + 1, (gallery, width)).astype(np.float32),
        rng.integers(0, persons + 1, queries).tolist(),
        rng.integers(0, persons, gallery).tolist(),
    )


@pytest.mark.parametrize("few", [0, 1000], ids=["by looking values up", "by comparing"])
@settings(deadline=None, max_examples=60)
@given(problem=small_problem(), block=st.sampled_from([1, 300, 1 << 22]))
def test_scores_equal_the_plain_loops_with_ties_and_duplicates(few, problem, block) -> None:
    query, gallery, person_q, person_g = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "FEW", few)
        patch.setattr(metrics, "BLOCK", block)
        patch.setattr(metrics, "CHUNK", 200)
        got = metrics.scores(query, gallery, person_q, person_g)
    near(got, oracle.scores(oracle.similarity(query, gallery), person_q, person_g))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_golden_similarity_gives_the_golden_scores_and_curve(direction) -> None:
    golden = json.loads((GOLDEN / "irra/metrics.json").read_text())
    similarity = np.array(golden["similarity"], np.float32)
    sides = (golden["query_pids"], golden["gallery_pids"])
    if direction == "i2t":
        similarity, sides = similarity.T, sides[::-1]
    expected = golden["expected"][direction]
    details = metrics.details_of_similarity(similarity, *sides)
    near(details.scores(), {name: expected[name] for name in ("R1", "R5", "R10", "mAP", "mINP")}, 1e-4)
    np.testing.assert_allclose(details.cmc(10), expected["cmc"], atol=1e-4)


def test_duplicated_gallery_rows_tie_exactly_at_any_size() -> None:
    rng = np.random.default_rng(5)
    for queries, width in [(1, 64), (3, 17), (31, 64), (70, 513)]:
        query = rng.standard_normal((queries, width), dtype=np.float32)
        gallery = np.repeat(rng.standard_normal((1, width), dtype=np.float32), 37, axis=0)
        details = metrics.details(query, gallery, ["x"] * queries, ["y"] * 20 + ["x"] + ["y"] * 16)
        assert details.first_Q.tolist() == [21] * queries


def test_map_is_100_when_every_gallery_item_is_relevant() -> None:
    rng = np.random.default_rng(0)
    got = metrics.scores(rng.standard_normal((9, 4)), rng.standard_normal((80, 4)), [7] * 9, [7] * 80)
    near(got, {"R1": 100, "R5": 100, "R10": 100, "mAP": 100, "mINP": 100})


def test_a_query_without_relevant_item_is_a_miss_and_leaves_the_means_alone(caplog) -> None:
    with caplog.at_level(logging.WARNING, "tbps"):
        got = metrics.scores(np.eye(2), np.eye(2), ["anna", "nobody"], ["anna", "ben"])
    near(got, {"R1": 50, "R5": 50, "R10": 50, "mAP": 100, "mINP": 100})
    assert "1 of 2 queries" in caplog.text


def test_queries_of_nobody_score_nothing_at_all() -> None:
    near(metrics.scores(np.eye(2), np.eye(2), [5, 6], [1, 2]), dict.fromkeys(("R1", "R10", "mAP", "mINP"), 0))


def test_k_is_capped_at_the_size_of_the_gallery() -> None:
    details = metrics.details(np.ones((1, 2)), np.ones((3, 2)), [1], [0, 0, 1])
    assert details.cmc(10).tolist() == [0, 0, 100]
    near(details.scores(), {"R1": 0, "R5": 100, "R10": 100, "mAP": 100 / 3, "mINP": 100 / 3})


def test_identities_of_any_type_match_by_equality_only() -> None:
    feature = np.eye(3, dtype=np.float32)
    mixed = [1, "1", "ä"]
    near(metrics.scores(feature, feature, mixed, mixed), {"R1": 100, "mAP": 100})
    assert metrics.scores(feature, feature, [1, 2, 3], ["1", "2", "3"]).R10 == 0
    near(metrics.scores(feature, feature, torch.tensor([1, 2, 3]), np.array([1, 2, 3], np.int32)), {"R1": 100})


def test_arrays_memory_maps_tensors_and_half_precision_agree(tmp_path) -> None:
    rng = np.random.default_rng(1)
    query, gallery = (rng.standard_normal((n, 16)).astype(np.float16) for n in (20, 33))
    person_q, person_g = rng.integers(0, 8, 20), rng.integers(0, 8, 33)
    expected = metrics.scores(query.astype(np.float32), gallery.astype(np.float32), person_q, person_g)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert metrics.scores(query, mapped, person_q, person_g) == expected
    tensors = torch.from_numpy(query).requires_grad_(), torch.from_numpy(gallery)
    assert metrics.scores(*tensors, torch.from_numpy(person_q), person_g) == expected
    exact = torch.from_numpy(query).bfloat16()
    assert metrics.scores(exact, gallery, person_q, person_g) == metrics.scores(
        exact.float(), gallery, person_q, person_g
    )


def test_nan_features_are_an_error_that_says_so() -> None:
    broken = np.ones((4, 2), np.float32)
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match=r"gallery features hold NaN or infinity \(first in row 2\)"):
        metrics.scores(np.ones((1, 2)), broken, [1], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="NaN"):
        metrics.details_of_similarity(broken, [1, 2, 3, 4], [1, 2])


@pytest.mark.parametrize(
    ("query", "gallery", "persons", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), ([1, 2], [1, 2]), "3 wide"),
        (np.ones((2, 3)), np.ones((2, 3)), ([1], [1, 2]), "1 and 2 identities"),
        (np.ones((0, 3)), np.ones((2, 3)), ([], [1, 2]), "nothing to rank"),
        (np.ones(3), np.ones((2, 3)), ([1], [1, 2]), "two axes"),
    ],
)
def test_sizes_that_disagree_are_named(query, gallery, persons, message) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.scores(query, gallery, *persons)


def test_ranks_of_single_queries_are_kept() -> None:
    similarity = [[0.9, 0.1, 0.5, 0.4], [0.1, 0.2, 0.3, 0.4]]
    details = metrics.details_of_similarity(similarity, ["a", "c"], ["b", "a", "a", "c"])
    assert details.first_Q.tolist() == [2, 1]
    assert details.relevant_Q.tolist() == [2, 1]
    np.testing.assert_allclose(details.ap_Q, [(1 / 2 + 2 / 4) / 2, 1])
    np.testing.assert_allclose(details.inp_Q, [2 / 4, 1])
