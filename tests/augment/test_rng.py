"""The random numbers of one sample and of many: derived from where training stands, uniform, independent."""

import numpy as np
import torch

from tbps_cli.augment.rng import GOLDEN, BatchDraws, Draws, mixed, shifted

COUNT = 3000


def test_draws_differ_between_epochs_samples_views_and_seeds_and_repeat_otherwise():
    keys = [(0, 0, 0, "image"), (1, 0, 0, "image"), (0, 1, 0, "image"), (0, 0, 1, "image"), (0, 0, 0, "second")]
    first = [Draws.of(*key).share() for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [Draws.of(*key).share() for key in keys]
    assert Draws.of(*keys[0]).python.random() == Draws.of(*keys[0]).python.random()


def test_a_batch_draws_the_published_numbers_of_splitmix64():
    """The generator's first numbers from seed 0, as its authors' code prints them."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert BatchDraws([0]).share(3)[0].tolist() == [(number >> 11) * 2.0**-53 for number in published]


def test_numbers_of_numpy_and_of_pytorch_are_mixed_alike():
    counter = GOLDEN * np.arange(1, 1000)
    assert shifted(mixed(counter), 33).tolist() == shifted(mixed(torch.from_numpy(counter)), 33).tolist()


def test_draws_of_a_batch_are_uniform_and_independent():
    share = BatchDraws([Draws.of(1, 0, sample).seed for sample in range(COUNT)]).share(8)
    assert share.min() >= 0 and share.max() < 1
    even = (np.arange(COUNT) + 0.5) / COUNT
    assert max(np.abs(np.sort(column) - even).max() for column in share.T) < 1.95 / COUNT**0.5
    apart_from_self = np.corrcoef(share.T) - np.eye(8)
    assert np.abs(apart_from_self).max() < 4 / COUNT**0.5
    assert abs(np.corrcoef(share[1:, 0], share[:-1, 0])[0, 1]) < 4 / COUNT**0.5


def test_draws_taken_in_parts_are_those_taken_at_once():
    draws, whole = BatchDraws(range(5)), BatchDraws(range(5)).share(7)
    parts = [draws.share(2), draws.uniform(10.0, 20.0), draws.chance(0.5)[:, None], draws.share(3)]
    assert np.array_equal(np.concatenate([parts[0], parts[3]], axis=1), whole[:, [0, 1, 4, 5, 6]])
    assert np.array_equal(parts[1], 10 + 10 * whole[:, 2:3]) and np.array_equal(parts[2], whole[:, 3:4] < 0.5)
