"""What stands beside hits: in galleries of one image, of equal images, behind a filter, and of a hundred thousand."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import trust as drawn

from tbps_cli.trust.fitting import fit
from tbps_cli.trust.judge import Judge


@pytest.fixture(scope="module")
def parts():
    return list(drawn.simulated("hard")(np.random.default_rng(0), 60, 60))


@pytest.fixture(scope="module")
def calibration(parts):
    return fit(parts[0], fingerprint="f", data="drawn", name="val")


def ranked(query_E, vector_GE, place_K=None):
    places = np.arange(len(vector_GE)) if place_K is None else place_K
    score_K = vector_GE[places] @ query_E
    order = np.argsort(-score_K, kind="stable")
    return score_K[order], places[order]


def test_the_figures_are_those_of_the_fit_whether_hits_are_asked_for_together_or_alone(calibration, parts):
    query_E, vector_GE = parts[1].text_QE[0], parts[1].image_GE
    judge = Judge(vector_GE, None, calibration)
    score_K, place_K = ranked(query_E, vector_GE)
    together = judge.figures(query_E, (score_K, place_K), score_K[:10], place_K[:10])
    share_K = score_K / calibration.temperature
    share_K -= np.log(np.exp(share_K).sum())
    said_K = calibration.probabilities(share_K[None, :10])[0]
    assert [one.probability for one in together] == pytest.approx(said_K.tolist(), abs=1e-5)
    for at in (0, 3, 9):
        (alone,) = judge.figures(query_E, (score_K, place_K), score_K[[at]], place_K[[at]])
        assert alone == together[at]


def test_behind_a_filter_only_what_passes_competes_and_is_counted(calibration, parts):
    query_E, vector_GE = parts[1].text_QE[0], parts[1].image_GE
    chosen = np.arange(0, len(vector_GE), 4)
    some, everything = Judge(vector_GE, chosen, calibration), Judge(vector_GE, None, calibration)
    best = ranked(query_E, vector_GE, chosen)
    (here,) = some.figures(query_E, best, best[0][:1], best[1][:1])
    whole = ranked(query_E, vector_GE)
    (there,) = everything.figures(query_E, whole, best[0][:1], best[1][:1])
    assert here.percentile == there.percentile, "a score stands where it stands in the whole gallery"
    assert here.probability >= there.probability
    for threshold in (-1.0, 0.3, 2.0):
        score_K = vector_GE[chosen] @ query_E
        assert some.reaching(query_E, threshold) == int((score_K >= threshold).sum())
    assert some.verdict(0.9, 0.5).stranger < everything.verdict(0.9, 0.5).stranger


@pytest.mark.parametrize("count", [1, 7])
def test_one_image_and_equal_images_are_all_in_the_set_or_none(calibration, parts, count):
    vector_GE = np.repeat(parts[1].image_GE[:1], count, axis=0)
    query_E = vector_GE[0]
    judge = Judge(vector_GE, None, calibration)
    score_K, place_K = ranked(query_E, vector_GE)
    figures = judge.figures(query_E, (score_K, place_K), score_K, place_K)
    assert all((one.percentile, one.z) == (0.0, None) and 0 < one.probability < 1 for one in figures)
    verdict = judge.verdict(0.9, float(score_K[0]))
    assert not verdict.refused and judge.reaching(query_E, verdict.threshold) == count
    assert judge.shifted() is None, "too few images to be compared"


def test_no_hit_has_no_figures_and_without_a_calibration_there_is_no_probability(calibration, parts):
    empty = np.zeros((0, drawn.WIDTH), np.float32)
    nothing = np.zeros(0), np.zeros(0, np.int64)
    assert Judge(empty, None, calibration).figures(parts[1].text_QE[0], nothing, *nothing) == []
    best = ranked(parts[1].text_QE[0], parts[1].image_GE)
    judge = Judge(parts[1].image_GE, None, None)
    (found,) = judge.figures(parts[1].text_QE[0], best, best[0][:1], best[1][:1])
    assert found.probability is None and found.z > 1 and judge.shifted() is None and judge.known == 0
