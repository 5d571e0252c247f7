"""Consensus division on costs whose truth is known, and on those that tell nothing."""

import numpy as np
import pytest

from tbps_cli.losses import division
from tbps_cli.losses.division import QUICK, THOROUGH


def draws(seed=0):
    return np.random.RandomState(seed)


def two_kinds(clean=160, wrong=40, seed=0):
    """Costs of clean pairs around 0.1 and of wrong ones around 1, and which is which."""
    random = np.random.RandomState(seed)
    cost = np.concatenate([random.normal(0.1, 0.05, clean), random.normal(1.0, 0.15, wrong)]).astype(np.float32)
    return cost, np.arange(clean + wrong) < clean


@pytest.mark.parametrize("care", [QUICK, THOROUGH])
def test_pairs_that_cost_much_are_not_trusted(care):
    (one, clean), (other, _) = two_kinds(), two_kinds(seed=1)
    assert np.array_equal(division.divide(one, other, care, draws()), clean)


def test_a_mixture_names_the_cheap_half_first_whatever_the_seed():
    cost, clean = two_kinds()
    for seed in range(2):
        mixture = division.fit(cost, THOROUGH, draws(seed))
        assert mixture is not None and mixture.mean[0] < mixture.mean[1]
        assert mixture.weight[0] == pytest.approx(0.8, abs=0.01)
        assert (mixture.clean_N > 0.5).tolist() == clean.tolist()


def test_equal_seeds_divide_equally():
    random = np.random.RandomState(3)
    one, other = (random.rand(500).astype(np.float32) for _ in range(2))
    first, again = (division.divide(one, other, QUICK, draws(7)) for _ in range(2))
    assert np.array_equal(first, again)
    assert 0 < first.sum() < 500


def test_costs_that_are_all_the_same_divide_nothing():
    same = np.full(20, 0.25, np.float32)
    assert division.fit(same, QUICK, draws()) is None
    assert division.divide(same, same, QUICK, draws()).all()
    assert division.divide(same[:1], same[:1], QUICK, draws()).all()


def test_when_every_pair_looks_clean_the_least_certain_hundredth_is_not():
    clean_N = np.linspace(0.6, 0.9, 250)
    assert np.flatnonzero(~division.split_clean(clean_N)).tolist() == [0, 1, 2]
    assert division.split_clean(np.array([0.4, 0.5, 0.51])).tolist() == [False, False, True]


def test_a_coin_decides_what_one_embedding_alone_calls_clean():
    one = np.array([True, True, False, False, True])
    other = np.array([True, False, True, False, False])
    trusted = division.consensus(one, other, np.array([True, False, True]))
    assert trusted.tolist() == [True, True, False, False, True]
    assert one.tolist() == [True, True, False, False, True], "its arguments stay as they are"
