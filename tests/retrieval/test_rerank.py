"""TextReID's re-ranking against its own figures and against sets and loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import support.oracles_retrieval as oracle
from safetensors.numpy import load_file

from tbps_cli.retrieval import metrics
from tbps_cli.retrieval.rerank import NeighbourBonus

GOLDEN = Path(__file__).parents[1] / "golden/textreid/metrics"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def sides() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Unit features and identities of the captions and of the distinct images."""
    given = load_file(GOLDEN / "inputs.safetensors")
    _, first = np.unique(given["image_ids"], return_index=True)
    first.sort()
    return {
        "text": (unit(given["text_features"]), given["pids"]),
        "image": (unit(given["image_features"][first]), given["pids"][first]),
    }


@pytest.mark.parametrize(("direction", "query", "gallery"), [("t2i", "text", "image"), ("i2t", "image", "text")])
def test_golden_bonus_and_scores(sides, direction, query, gallery) -> None:
    expected = load_file(GOLDEN / "outputs.safetensors")
    config = json.loads((GOLDEN / "config.json").read_text())
    (query_QE, person_Q), (gallery_GE, person_G) = sides[query], sides[gallery]
    bonus = NeighbourBonus(query_QE, gallery_GE, config["neighbour_num"], config["alpha"])
    np.testing.assert_allclose(bonus(np.arange(len(query_QE))), expected[f"rerank_add_{direction}"], atol=1e-7)
    for name, added in ((direction, None), (f"re_{direction}", bonus)):
        got = metrics.details(query_QE, gallery_GE, person_Q, person_G, added)
        np.testing.assert_allclose(got.cmc()[[0, 4, 9]], expected[f"{name}.cmc_1_5_10"], atol=1e-4)
        assert got.scores().mAP == pytest.approx(float(expected[f"{name}.mAP"][0]), abs=1e-4)


def test_bonus_equals_sets_and_loops() -> None:
    rng = np.random.default_rng(4)
    query, gallery = rng.integers(-9, 10, (6, 3)).astype(float), rng.integers(-9, 10, (11, 3)).astype(float)
    got = NeighbourBonus(query, gallery, neighbours=4, weight=0.5)(np.array([5, 0]))
    ours, theirs = oracle.similarity(query, gallery), oracle.similarity(gallery, gallery)
    for row, index in zip(got, (5, 0), strict=True):
        np.testing.assert_allclose(row, [0.5 * oracle.overlap(ours[index], other, 4) for other in theirs], rtol=1e-6)


def test_a_gallery_smaller_than_the_neighbourhood_shares_it_whole() -> None:
    np.testing.assert_allclose(NeighbourBonus(np.eye(2), np.eye(2))(np.arange(2)), np.full((2, 2), 0.05), rtol=1e-6)
