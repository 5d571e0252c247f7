"""Sets that hold the person as often as they promise, and refusals of those who are not there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from benchmarks import trust as drawn
from pydantic import ValidationError

from tbps_cli.errors import UsageError
from tbps_cli.trust.conformal import QUANTILES, SURE, ConformalRule, check_level
from tbps_cli.trust.fitting import fit_rule


@pytest.fixture(scope="module")
def rule():
    rng = np.random.default_rng(0)
    (val,) = drawn.simulated("hard")(rng, 100)
    return fit_rule(val)


def mean(found, name):
    return float(np.nanmean([getattr(one, name) for one in found]))


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_on_twenty_drawn_splits_sets_hold_the_person_as_often_as_was_asked(level):
    found = drawn.run(drawn.simulated("hard"), 20, 100, 60, level)
    coverage = mean(found, "coverage")
    assert abs(coverage - level) < 0.04, f"{coverage:.3f} where {level} was asked for"


def test_on_twenty_easy_splits_absent_people_are_refused_and_few_present_ones():
    found = drawn.run(drawn.simulated("easy"), 20, 100, 60, 0.9)
    assert mean(found, "absent_refused") >= 0.9 and mean(found, "present_refused") <= 0.12


def test_absent_people_are_refused_in_a_gallery_larger_than_that_of_the_calibration():
    found = drawn.run(drawn.simulated("hard"), 10, 100, 400, 0.9)
    assert mean(found, "absent_refused") >= 0.85 and mean(found, "coverage") >= 0.88


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_on_two_hundred_drawn_splits_coverage_is_within_two_percent(kind):
    found = drawn.run(drawn.simulated(kind), 200, 135, 135, 0.9)
    assert abs(mean(found, "coverage") - 0.9) <= 0.02
    assert mean(found, "absent_refused") >= 0.9
    if kind == "easy":
        assert mean(found, "present_refused") <= 0.115  # 10 % and what 200 splits leave to chance


def test_a_higher_probability_takes_more_images_and_a_better_first_one(rule):
    verdicts = [rule.judge(level, 0.9, 100) for level in (0.5, 0.7, 0.9)]
    assert [one.stranger for one in verdicts] == sorted(one.stranger for one in verdicts)
    assert rule.everybody == tuple(sorted(rule.everybody, reverse=True))


def test_the_larger_the_gallery_the_higher_strangers_score(rule):
    limits = [rule.judge(0.9, 0.5, images).stranger for images in (1, 10, 100, 300, 1000, 10**6)]
    assert limits == sorted(limits) and limits[0] < limits[-1]
    assert all(math.isfinite(limit) for limit in limits)


def test_a_first_image_that_strangers_reach_every_time_gets_no_set(rule):
    low, high = rule.judge(0.9, -0.9, 300), rule.judge(0.9, 0.999, 300)
    assert (low.refused, low.by_chance) == (True, 1.0)
    assert (high.refused, high.by_chance) == (False, 0.0)
    assert rule.judge(0.9, float("nan"), 300).refused


def test_when_all_images_score_the_same_the_set_is_all_of_them_or_none(rule):
    verdict = rule.judge(0.9, 0.5, 10)
    edge = max(verdict.stranger, verdict.threshold)
    assert not rule.judge(0.9, edge, 10).refused and rule.judge(0.9, edge - 1e-6, 10).refused


def test_too_few_searches_for_a_level_give_the_whole_gallery():
    rule = ConformalRule.fit(np.linspace(0.5, 0.9, 5), [1], [np.linspace(0.1, 0.2, 5)])
    assert rule.thresholds[0][SURE.index(0.99)] == -1.0 and rule.judge(0.99, 0.9, 1).threshold == -1.0


@pytest.mark.parametrize(
    ("level", "said"),
    [(0, "--sure 0: "), (1, "--sure 1: "), (1.5, "--sure 1.5: "), (float("nan"), "--sure nan: "), (-1, "--sure -1: ")],
)
def test_what_is_no_probability_is_refused(level, said):
    with pytest.raises(UsageError, match="between 0 and 1") as caught:
        check_level(level)
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(("level", "said"), [(0.2, "from 0.5 to 0.99"), (0.999, "from 0.5 to 0.99")])
def test_a_probability_beyond_what_is_calibrated_is_refused(level, said):
    with pytest.raises(UsageError, match=said):
        check_level(level)


def test_a_probability_that_so_few_people_cannot_promise_is_refused():
    check_level(0.9, most=0.95)
    with pytest.raises(UsageError, match="too few people"):
        check_level(0.97, most=0.95)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sizes", []),
        ("sizes", [4, 2]),
        ("strangers", [[0.1] * 3]),
        ("strangers", [[0.1] * (len(QUANTILES) - 1) + [0.0]]),
        ("thresholds", [[1e999] * len(SURE)]),
        ("everybody", [0.5]),
    ],
)
def test_a_damaged_rule_is_not_read(key, value):
    rule = ConformalRule.fit(np.linspace(0.5, 0.9, 50), [8], [np.linspace(0.1, 0.2, 50)])
    document = json.loads(rule.model_dump_json()) | {key: value}
    with pytest.raises(ValidationError):
        ConformalRule.model_validate_json(json.dumps(document))
