"""Orders: each caption once, groups of one person, and shares of ranks without loss or repetition."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import DataError
from tbps_cli.loading import samplers

PERSONS = [person for person in range(12) for _ in range(1 + person % 6)]


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_random_order_visits_every_caption_once(count, batch, seed, epoch):
    batches = samplers.random_batches(count, batch, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert all(len(rows) == batch for rows in batches[:-1])
    dropped = samplers.random_batches(count, batch, seed, epoch, drop_last=True)
    assert len(dropped) == max(1, count // batch)


def test_orders_differ_between_epochs_and_seeds_and_repeat_otherwise():
    orders = {(seed, epoch): tuple(samplers.random_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert orders[1, 1] == tuple(samplers.random_order(50, 1, 1))


def test_identity_batches_hold_whole_groups_of_different_persons():
    for rows in samplers.identity_batches(PERSONS, 12, 4, 0, 0):
        groups = [[PERSONS[caption] for caption in rows[start : start + 4]] for start in (0, 4, 8)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == 3


def test_identity_batches_repeat_a_caption_only_for_persons_with_too_few():
    rows = np.concatenate(samplers.identity_batches(PERSONS, 12, 4, 3, 1))
    few = {person for person, count in Counter(PERSONS).items() if count < 4}
    repeated = {PERSONS[caption] for caption, count in Counter(rows.tolist()).items() if count > 1}
    assert repeated and repeated <= few


def test_identity_batches_differ_between_epochs_and_repeat_for_the_same_one():
    first, again, other = (
        np.concatenate(samplers.identity_batches(PERSONS, 8, 4, 5, epoch)).tolist() for epoch in (2, 2, 3)
    )
    assert first == again != other


def test_an_epoch_of_identity_batches_is_at_most_its_declared_length():
    declared = sum(max(count, 4) - max(count, 4) % 4 for count in Counter(PERSONS).values())
    lengths = [sum(map(len, samplers.identity_batches(PERSONS, 8, 4, 0, epoch))) for epoch in range(20)]
    assert declared - 8 <= min(lengths) and max(lengths) <= declared


def test_chunks_of_a_permutation_equal_the_published_code():
    golden = json.loads((Path(__file__).parents[1] / "golden/textreid/extra/extra.json").read_text())["sampler"]
    batches = samplers.chunk_batches(
        golden["group_of_item"],
        golden["permutation"],
        golden["batch_size"],
        golden["per_identity"],
        random.Random(golden["python_random_seed"]),
    )
    assert [rows.tolist() for rows in batches] == golden["batches"]


def test_a_batch_that_cannot_be_filled_is_refused():
    with pytest.raises(DataError, match=r"is not a multiple of data\.per_identity"):
        samplers.identity_batches(PERSONS, 10, 4, 0, 0)
    with pytest.raises(DataError, match="needs 13 persons a batch, the training split has 12") as caught:
        samplers.identity_batches(PERSONS, 52, 4, 0, 0)
    assert "at most 48" in caught.value.hint


@given(st.integers(0, 100), st.integers(1, 9))
def test_the_shares_of_all_ranks_are_the_batch(count, world):
    rows = np.arange(count)
    shares = [rows[samplers.share_of(rows, rank, world)] for rank in range(world)]
    assert np.concatenate(shares).tolist() == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
