"""What a score is worth: shares and z-scores against a plain count, a sample that stands for a large gallery."""

from __future__ import annotations

import numpy as np
import pytest

from tbps_cli.trust.population import KNOWN, SAMPLE, Population


def rows(count, width=16, seed=0):
    made = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def standings(gallery, query, place_K):
    population = Population.of(gallery)
    score_G = gallery @ query
    return population.standings(population.scores(query[None])[0], score_G[place_K], place_K)


def test_in_a_small_gallery_the_figures_are_those_of_a_plain_count():
    gallery, query = rows(200), rows(1, seed=1)[0]
    score_G = gallery @ query
    place_K = np.argsort(-score_G)[:10]
    for place, found in zip(place_K, standings(gallery, query, place_K), strict=True):
        assert found.percentile == pytest.approx(100 * (score_G < score_G[place] - 1e-6).mean())
        assert found.z == pytest.approx((score_G[place] - score_G.mean()) / score_G.std(), abs=1e-4)


def test_equal_images_score_as_high_as_each_other():
    gallery = np.repeat(rows(5), 2, axis=0)
    found = standings(gallery, gallery[0], np.array([0, 1]))
    assert [one.percentile for one in found] == [80.0, 80.0]


def test_one_image_and_equal_images_have_no_z_score_and_stand_above_nothing():
    for gallery in (rows(1), np.repeat(rows(1), 7, axis=0)):
        (found,) = standings(gallery, rows(1, seed=1)[0], np.array([0]))
        assert found == (0.0, None)


def test_a_sample_stands_for_a_large_gallery_and_is_the_same_every_time():
    gallery, query = rows(SAMPLE * 5), rows(1, seed=1)[0]
    place_K = np.argsort(-(gallery @ query))[[0, 10, 100, 1000, 10000]]
    assert len(Population.of(gallery).place_S) == SAMPLE
    found = standings(gallery, query, place_K)
    assert found == standings(gallery, query, place_K)
    for rank, one in zip((1, 11, 101, 1001, 10001), found, strict=True):
        share = rank / len(gallery)
        assert abs(100 * (1 - share) - one.percentile) < 400 * np.sqrt(share * (1 - share) / SAMPLE) + 0.05
        assert one.percentile < 100


def test_a_sample_of_some_places_takes_no_others():
    gallery = rows(SAMPLE * 3)
    chosen = np.arange(0, len(gallery), 2)
    drawn = Population.of(gallery, chosen)
    assert drawn.size == len(chosen) and np.isin(drawn.place_S, chosen).all()
    few = Population.of(gallery, np.array([7, 3]))
    assert few.place_S.tolist() == [7, 3] and few.size == 2


def test_the_sum_over_all_candidates_is_exact_in_a_small_gallery_and_near_in_a_large_one():
    query = rows(1, seed=1)[0]
    for count, within in ((300, 1e-5), (SAMPLE * 5, 0.1)):
        gallery = rows(count)
        score_G = (gallery @ query).astype(np.float64)
        place_K = np.argsort(-score_G)[:KNOWN]
        population = Population.of(gallery)
        score_S = population.scores(query[None])[0]
        found = population.log_total(score_S, score_G[place_K], place_K, 0.05)
        assert found == pytest.approx(np.log(np.exp(score_G / 0.05).sum()), abs=within)
