"""In which order captions become batches; every order follows from (seed, epoch) alone.

All samplers give whole epochs of *global* batches; `share_of` then cuts each of them among the ranks, so
that several devices see together exactly what one would, without loss or repetition. (The published
distributed samplers either repeat rows or, under the random sampler, give every process everything.)
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import DataError

Order = NDArray[np.int64]


def random_order(count: int, seed: int, epoch: int) -> Order:
    """A full shuffle of 0..count-1."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)


def random_batches(count: int, batch: int, seed: int, epoch: int, *, drop_last: bool = False) -> list[Order]:
    """Every caption once; the incomplete last batch is kept unless `drop_last`."""
    return _cut(random_order(count, seed, epoch), batch, drop_last)


def identity_batches(
    person: Sequence[int] | Order, batch: int, per_identity: int, seed: int, epoch: int, *, drop_last: bool = False
) -> list[Order]:
    """Batches of `batch // per_identity` persons with `per_identity` captions of each (IRRA's line).

    person: class of each caption. A person with fewer captions gives some of them twice; those left
    over after cutting into groups rest for this epoch. Persons are drawn without replacement while
    enough of them have groups left.
    """
    persons = _persons_per_batch(person, batch, per_identity)
    rng = random.Random(f"{seed}/{epoch}")
    groups: dict[int, deque[list[int]]] = {}
    for number, captions in _captions_of(person).items():
        if len(captions) < per_identity:
            captions = rng.choices(captions, k=per_identity)
        rng.shuffle(captions)
        groups[number] = deque(_groups(captions, per_identity))
    order = [caption for drawn in _draw_groups(groups, persons, rng) for caption in drawn]
    return _cut(np.array(order, dtype=np.int64), persons * per_identity, drop_last)


def chunk_batches(
    person: Sequence[int] | Order, permutation: Sequence[int] | Order, batch: int, per_identity: int, rng: random.Random
) -> list[Order]:
    """TextReID's identity batches, from a permutation of all captions.

    Each person's captions, in the order of the permutation, are cut into groups; a person with too few
    repeats each of them. Batches are ordered by the place of their first caption in the permutation.
    Source: TextReID's released code; equal to it for equal draws.
    """
    persons = _persons_per_batch(person, batch, per_identity)
    place = {int(caption): number for number, caption in enumerate(permutation)}
    groups: dict[int, deque[list[int]]] = {}
    for number, captions in _captions_of(person).items():
        captions = sorted(captions, key=place.__getitem__)
        if len(captions) < per_identity:
            repeats = -(-per_identity // len(captions))
            captions = [caption for caption in captions for _ in range(repeats)][:per_identity]
        groups[number] = deque(_groups(captions, per_identity))
    drawn = _draw_groups(groups, persons, rng)
    return [np.array(rows, dtype=np.int64) for rows in sorted(drawn, key=lambda rows: place[rows[0]])]


def share_of(batch: Order, rank: int, world: int) -> slice:
    """The rows of a global batch that one of `world` ranks computes: contiguous, as equal as can be."""
    few, more = divmod(len(batch), world)
    start = rank * few + min(rank, more)
    return slice(start, start + few + (rank < more))


def _persons_per_batch(person: Sequence[int] | Order, batch: int, per_identity: int) -> int:
    persons, there = batch // per_identity, len(set(map(int, person)))
    if batch % per_identity:
        raise DataError(
            f"train.batch = {batch} is not a multiple of data.per_identity = {per_identity}.",
            "The identity sampler fills batches with whole groups.",
        )
    if there < persons:
        raise DataError(
            f"the identity sampler needs {persons} persons a batch, the training split has {there}.",
            f"Set train.batch to at most {there * per_identity}, or data.sampler=random.",
        )
    return persons


def _captions_of(person: Sequence[int] | Order) -> dict[int, list[int]]:
    """Person -> captions, persons in the order of their first appearance."""
    captions: dict[int, list[int]] = {}
    for caption, number in enumerate(person):
        captions.setdefault(int(number), []).append(caption)
    return captions


def _groups(captions: list[int], size: int) -> list[list[int]]:
    return [captions[start : start + size] for start in range(0, len(captions) - size + 1, size)]


def _draw_groups(groups: dict[int, deque[list[int]]], persons: int, rng: random.Random) -> list[list[int]]:
    """Rows of one batch each: the next group of `persons` persons, as long as so many have any left."""
    available = list(groups)
    batches: list[list[int]] = []
    while len(available) >= persons:
        chosen = rng.sample(available, persons)
        batches.append([caption for number in chosen for caption in groups[number].popleft()])
        spent = {number for number in chosen if not groups[number]}
        if spent:
            available = [number for number in available if number not in spent]
    return batches


def _cut(order: Order, batch: int, drop_last: bool) -> list[Order]:
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    return batches[:-1] if drop_last and len(batches) > 1 and len(batches[-1]) < batch else batches
