"""Bootstrap intervals: the table of sums against loops over drawn persons, and what an interval must do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import UsageError
from tbps_cli.retrieval.interval import draws, figures, interval, resampled, sums
from tbps_cli.retrieval.metrics import Details
from tbps_cli.types import Scores


def details_of(first: list[int], gallery: int = 20) -> Details:
    """Details with one relevant item a query, at these ranks; 0 has none."""
    rank = np.array(first, np.int64)
    with np.errstate(divide="ignore"):
        inverse = np.where(rank > 0, 1 / rank.astype(float), np.nan)
    return Details(rank, inverse, inverse.copy(), (rank > 0).astype(np.int64), gallery)


def plain_scores(queries: list[int], details: Details) -> list[float]:
    """Scores of a list of queries, repeats and all, by their definitions."""
    recall = [sum(1 for q in queries if 0 < details.first_Q[q] <= k) / len(queries) for k in (1, 5, 10)]
    judged = [q for q in queries if details.relevant_Q[q] > 0]
    means = [math.fsum(values[q] for q in judged) / max(1, len(judged)) for values in (details.ap_Q, details.inp_Q)]
    return [100 * value for value in recall + means]


cases = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["a", "b", 3, 4])), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_sums_over_all_persons_give_the_scores_themselves(case) -> None:
    details = details_of([rank for rank, _ in case])
    found = figures(sums(details, [person for _, person in case]).sum(axis=0, keepdims=True))[0]
    assert found == pytest.approx(list(details.scores()), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=12))
def test_every_resample_is_the_score_of_the_drawn_persons_with_all_their_queries(case) -> None:
    details, persons = details_of([rank for rank, _ in case]), [person for _, person in case]
    there = sorted(set(persons))
    found = figures(resampled(sums(details, persons), resamples=5, seed=3))
    for counts, row in zip(np.concatenate(list(draws(len(there), 5, 3))), found, strict=True):
        queries = []
        for person, count in zip(there, counts.astype(int), strict=True):
            queries += [query for query, other in enumerate(persons) if other == person] * count
        assert row.tolist() == pytest.approx(plain_scores(queries, details), abs=1e-9)


def test_draws_are_as_many_persons_as_there_are_and_repeat_with_the_seed() -> None:
    one = np.concatenate(list(draws(7, 50, 0)))
    assert one.shape == (50, 7) and (one.sum(axis=1) == 7).all()
    assert (one == np.concatenate(list(draws(7, 50, 0)))).all()
    assert (one != np.concatenate(list(draws(7, 50, 1)))).any()


def test_blocks_do_not_change_the_draws(monkeypatch) -> None:
    whole = np.concatenate(list(draws(7, 50, 0)))
    monkeypatch.setattr("tbps_cli.retrieval.interval.DRAWN", 21)
    assert (np.concatenate(list(draws(7, 50, 0))) == whole).all()


def test_the_interval_of_a_share_is_the_textbooks() -> None:
    hits = [1] * 400 + [2] * 600
    found = interval(details_of(hits), list(range(1000)), resamples=4000)
    half = 100 * 1.96 * math.sqrt(0.4 * 0.6 / 1000)
    assert abs(found.low.R1 - (40 - half)) < 0.35
    assert abs(found.high.R1 - (40 + half)) < 0.35
    assert found.low.R5 == found.high.R5 == 100


def test_more_captions_of_the_same_persons_do_not_narrow_it() -> None:
    ranks = [1, 3, 1, 7, 2, 1, 12, 1]
    once = interval(details_of(ranks), list(range(8)))
    four = interval(details_of(ranks * 4), list(range(8)) * 4)
    assert four.document() == {name: pytest.approx(ends) for name, ends in once.document().items()}


def test_a_higher_level_is_wider_and_one_person_leaves_no_width() -> None:
    details = details_of([1, 3, 1, 7, 2, 1, 12, 1])
    narrow, wide = (interval(details, list(range(8)), level=level) for level in (50, 99))
    assert wide.low.mAP < narrow.low.mAP < details.scores().mAP < narrow.high.mAP < wide.high.mAP
    alone = interval(details, ["x"] * 8)
    assert list(alone.low) == pytest.approx(list(details.scores()))
    assert list(alone.high) == pytest.approx(list(details.scores()))


def test_queries_without_a_relevant_image_are_misses_and_nothing_else() -> None:
    found = interval(details_of([0, 0, 0]), [1, 2, 3])
    assert found.low == found.high == Scores(0, 0, 0, 0, 0)


@pytest.mark.parametrize("level", [0, 100, -5, float("nan")])
def test_a_level_outside_is_refused(level) -> None:
    with pytest.raises(UsageError, match="between 0 and 100"):
        interval(details_of([1]), [1], level=level)
