"""The rule that keeps false alarms within a budget, on scores whose distribution is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tbps_cli.errors import UsageError
from tbps_cli.searching.thresholds import FEWEST, Budget, Tail, arrivals_a_day

DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "a_day"),
    [("5/day", 5), ("2 per week", 2 / 7), ("1/h", 24), ("0.5/d", 0.5), ("3/month", 0.1), ("1 a day", 1)],
)
def test_a_budget_is_read_as_people_write_it(text: str, a_day: float) -> None:
    assert Budget.parse(text).a_day == pytest.approx(a_day)


@pytest.mark.parametrize("text", ["5", "0/day", "-1/day", "five/day", "5/fortnight", "", "nan/day", "5/day/day"])
def test_anything_else_is_an_error_that_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        Budget.parse(text)


def test_the_threshold_is_the_score_that_the_share_of_the_population_exceeds() -> None:
    tail = Tail(np.random.default_rng(0).permutation(999))
    assert tail.threshold(0.01) == 989.0  # 10 of 1000: the next one is above it with a probability of 0.01 exactly
    assert tail.threshold(0.0129) == 987.0
    assert tail.threshold(1.5) == -math.inf


def test_a_population_that_is_too_small_has_no_threshold() -> None:
    assert Tail(np.arange(FEWEST - 1.0)).threshold(0.5) is None
    assert Tail(np.arange(0.0)).threshold(0.5) is None
    assert Tail(np.arange(float(FEWEST))).threshold(0.5) is not None


@pytest.mark.parametrize("share", [0.1, 0.004, 0.0004])
@pytest.mark.parametrize("size", [60, 400])
def test_scores_with_an_exponential_tail_exceed_it_as_often_as_stated(share: float, size: int) -> None:
    """Also where the share is rarer than anything that the population holds."""
    draw = np.random.default_rng(1)
    above = [math.exp(-Tail(draw.exponential(size=size)).threshold(share)) for _ in range(4000)]
    stated = math.floor(share * (size + 1)) / (size + 1) or share
    assert np.mean(above) == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize("kind", ["normal", "uniform", "beta"])
def test_tails_that_are_shorter_exceed_it_less_often(kind: str) -> None:
    draw = np.random.default_rng(2)
    arguments = (5, 20) if kind == "beta" else ()
    scores = getattr(draw, kind)(*arguments, size=(400, 300))
    fresh = np.sort(getattr(draw, kind)(*arguments, size=2_000_000))
    share = 0.001
    above = [1 - np.searchsorted(fresh, Tail(row).threshold(share)) / len(fresh) for row in scores]
    assert 0 <= np.mean(above) <= share


@pytest.mark.parametrize("score", [400.0, 980.5, 998.0])
def test_how_rare_a_score_is_agrees_with_the_population(score: float) -> None:
    tail = Tail(np.arange(999.0))
    as_high = np.count_nonzero(np.arange(999.0) >= score)
    assert tail.share(score) == pytest.approx((as_high + 1) / 1000)


def test_beyond_the_population_a_score_gets_ever_rarer() -> None:
    shares = [Tail(np.random.default_rng(3).normal(size=500)).share(score) for score in (3.5, 5.0, 7.0, 12.0)]
    assert all(a > b > 0 for a, b in itertools.pairwise(shares))
    assert shares[0] <= 1 / 501


def test_arrivals_are_counted_over_two_weeks_or_over_the_last_day_where_it_had_more() -> None:
    steady = np.arange(0, 20 * DAY, 600.0)
    assert arrivals_a_day(steady) == pytest.approx(144, rel=0.01)
    busy = np.concatenate([steady, steady[-1] + np.arange(0, DAY, 60.0)])
    assert arrivals_a_day(busy) == pytest.approx(1440, rel=0.01)
    assert arrivals_a_day(np.array([0.0, 60.0])) == pytest.approx(2 * 24)  # an hour at least
    assert arrivals_a_day(np.array([np.nan, 5.0])) is None


def test_a_growing_population_keeps_the_budget_over_many_days() -> None:
    """Re-estimated after each fifty arrivals, 20 budgets of 60 days; the sum is a Poisson number around the budget."""
    told, most = 0, 0.0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        score, share = draw.normal(size=200 * 60), 3 / 200
        for start in range(200, len(score), 50):
            above = Tail(score[:start]).threshold(share)
            told += int((score[start : start + 50] > above).sum())
            most += 50 * share
    assert told <= most + 3.1 * math.sqrt(most)
    assert told >= 0.85 * most
