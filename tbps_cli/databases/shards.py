"""Several databases as one gallery: each row lies in the one that a hash of its path names.

Every shard is asked for all k best rows at once, each in a thread of its own, and the answers are merged: so nothing is
lost however unevenly the hits lie. All shards must be up; none stands in for another (a standby of each does that).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.base import Database, Matches
from tbps_cli.databases.texts import kept
from tbps_cli.errors import DatabaseError
from tbps_cli.features.rows import Rows, encoded
from tbps_cli.filtering.tree import FIELDS, Tree

T = TypeVar("T")
SEED = 20
SHARD = "shard"
"""In what is kept about a shard: which one it is (`2 of 3`)."""


class Shards:
    """A `databases.base.Database` of several, always given in the same order."""

    def __init__(self, shards: Sequence[Database]) -> None:
        self.shards = list(shards)
        self.title = ", ".join(shard.title for shard in self.shards)
        self._pool = ThreadPoolExecutor(len(self.shards), "shard")
        marks = {shard.fingerprint for shard in self.shards} - {None}
        if len(marks) > 1:
            raise DatabaseError(
                f"{self.title}: the shards hold vectors of different models.", "Name the shards of one gallery."
            )

    @property
    def fingerprint(self) -> str | None:
        return next((shard.fingerprint for shard in self.shards if shard.fingerprint is not None), None)

    @property
    def about(self) -> Mapping[str, object]:
        return {key: value for key, value in self.shards[0].about.items() if key != SHARD}

    @property
    def exact(self) -> bool:
        return all(shard.exact for shard in self.shards)

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        place_N = np.array([self._place(path) for path in rows.paths], int)
        chosen = [np.flatnonzero(place_N == place) for place in range(len(self.shards))]
        self._each(lambda place, shard: shard.add(rows.take(chosen[place]), vector_NE[chosen[place]]))

    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        found = self._each(lambda _, shard: shard.search(query_QE, k, where))
        return [_best(list(parts), k) for parts in zip(*found, strict=True)]

    def delete(self, paths: Sequence[str]) -> int:
        listed: list[list[str]] = [[] for _ in self.shards]
        for path in paths:
            listed[self._place(path)].append(path)
        return sum(self._each(lambda place, shard: shard.delete(listed[place])))

    def count(self, where: Tree | None = None) -> int:
        return sum(self._each(lambda _, shard: shard.count(where)))

    def columns(self) -> tuple[str, ...]:
        known = {name for names in self._each(lambda _, shard: shard.columns()) for name in names}
        return tuple(name for name in FIELDS if name in known)

    def values(self, field: str, most: int = 1000) -> list[str] | None:
        found = self._each(lambda _, shard: shard.values(field, most))
        if any(values is None for values in found):
            return None
        merged = sorted({value for values in found for value in values or ()}, key=encoded)
        return merged if len(merged) <= most else None

    def extent(self, field: str) -> tuple[str, str] | None:
        found = [edges for edges in self._each(lambda _, shard: shard.extent(field)) if edges is not None]
        if not found:
            return None
        return min((first for first, _ in found), key=encoded), max((last for _, last in found), key=encoded)

    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        """From each shard as many as its share of the rows."""
        counts = self._each(lambda _, shard: shard.count(where))
        found = self._each(lambda _, shard: shard.sample(size, where))
        total = sum(counts)
        if total <= size:
            return np.concatenate([vector_SE for vector_SE in found if len(vector_SE)] or found[:1])
        ends = np.cumsum(counts) * size // total
        shares = np.diff(ends, prepend=0).tolist()
        generator = np.random.default_rng(SEED)
        parts = [
            vector_SE[generator.permutation(len(vector_SE))[:share]]
            for vector_SE, share in zip(found, shares, strict=True)
        ]
        return np.concatenate([part for part in parts if len(part)])

    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        found = [(rows, vectors) for rows, vectors in self._each(lambda _, shard: shard.page(after, size)) if len(rows)]
        if not found:
            return self.shards[0].page(after, size)
        rows = Rows.joined([part for part, _ in found])
        vector_NE = np.concatenate([part for _, part in found])
        keys = [encoded(kept(path)) for path in rows.paths]
        first = np.array(sorted(range(len(keys)), key=keys.__getitem__)[:size])
        return rows.take(first), vector_NE[first]

    def roots(self) -> Mapping[str, str]:
        return self.shards[0].roots()

    def add_root(self, name: str, folder: str) -> str:
        return self.shards[0].add_root(name, folder)

    @contextmanager
    def moment(self) -> Iterator[None]:
        with ExitStack() as begun:
            for shard in self.shards:
                begun.enter_context(shard.moment())
            yield

    def history(self) -> Sequence[tuple[str, int]]:
        return [one for told in self._each(lambda _, shard: shard.history()) for one in told]

    def unfinished(self) -> int:
        return sum(self._each(lambda _, shard: shard.unfinished()))

    def settle(self, watch: Callable[[int, int], None] | None = None) -> bool:
        told: dict[int, tuple[int, int]] = {}

        def tell(place: int, ready: int, total: int) -> None:
            told[place] = ready, total
            if watch is not None:
                watch(sum(ready for ready, _ in told.values()), sum(total for _, total in told.values()))

        return all(self._each(lambda place, shard: shard.settle(partial(tell, place))))

    def close(self) -> None:
        self._pool.shutdown()
        for shard in self.shards:
            shard.close()

    def _place(self, path: str) -> int:
        return int.from_bytes(hashlib.blake2b(encoded(path), digest_size=8).digest(), "big") % len(self.shards)

    def _each(self, ask: Callable[[int, Database], T]) -> list[T]:
        """The answers of all shards; raises what the first that failed raised, when all are done."""
        # each thread gets a copy of what holds here: the moment that a search is in
        asked = [self._pool.submit(copy_context().run, ask, place, shard) for place, shard in enumerate(self.shards)]
        failed = [error for one in asked if (error := one.exception()) is not None]
        if failed:
            raise failed[0]
        return [one.result() for one in asked]


def _best(parts: Sequence[Matches], k: int) -> Matches:
    parts = [part for part in parts if len(part.rows)] or parts[:1]
    rows = Rows.joined([part.rows for part in parts])
    score_N = np.concatenate([part.score_K for part in parts])
    vector_NE = np.concatenate([part.vector_KE for part in parts])
    order = np.argsort(-score_N, kind="stable")[:k]
    return Matches(rows.take(order), score_N[order], vector_NE[order])
