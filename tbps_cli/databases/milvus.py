"""A gallery in Milvus: `milvus://[user:password@]host:port/collection`. Written for and tested with version 2.3.5.

One collection holds one gallery (`milvus_collection`: how fresh answers are, when graphs are built); its fields are in
`milvus_rows` and `milvus_filter`.

An HNSW graph over float32 vectors finds the best of all rows. A graph loses rows under a filter, at worst at about a
tenth of the rows and whatever is searched of it (recall .96 at ef 4000), so filters do not use it:

* up to FETCHED rows that pass are fetched and ranked here;
* up to NARROW, the server is asked for more than half of them: then it compares each of them (recall 1.0);
* of more, the best of all rows are asked which of them pass.

`add` returns when the rows are in the server's log, which survives kill -9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from itertools import compress
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.base import Matches
from tbps_cli.databases.milvus_collection import MOST, Collection
from tbps_cli.databases.milvus_connection import Connection, MilvusAddress
from tbps_cli.databases.milvus_filter import EVERYTHING, KEPT_NUMBERS, TEXTS, asked_fields, bounds, passing
from tbps_cli.databases.milvus_rows import among, entries_of, key_of, rows_of, text_of
from tbps_cli.errors import DatabaseError
from tbps_cli.features.rows import Rows
from tbps_cli.filtering.tree import FIELDS, Tree
from tbps_cli.retrieval.rank import topk

FETCHED = 100
NARROW = 10_000
EF, MOST_EF = 1024, 32_768
"""How much of the graph is searched: of 100,000 rows recall .990 with 512, .993 with 768, 1.0 with this."""
TOGETHER = 64
"""Queries of one call."""
BATCH_BYTES = 16 << 20
"""Vectors that one call carries."""
SAMPLED = 1.3
"""So many times more rows are looked at than a sample needs."""
OTHER = "They are of another model: give the one that made the gallery with --ckpt."
Given = ParamSpec("Given")
Found = TypeVar("Found")


def _in_a_moment(
    read: Callable[Concatenate[MilvusDatabase, Given], Found],
) -> Callable[Concatenate[MilvusDatabase, Given], Found]:
    """A method whose reads all see what was kept when it was called."""

    @wraps(read)
    def reading(database: MilvusDatabase, /, *arguments: Given.args, **options: Given.kwargs) -> Found:
        with database.moment():
            return read(database, *arguments, **options)

    return reading


def _as_last_seen(
    read: Callable[Concatenate[MilvusDatabase, Given], Found],
) -> Callable[Concatenate[MilvusDatabase, Given], Found]:
    """The same for what changes seldom: it may lack what others have kept since the last moment of this connection."""

    @wraps(read)
    def reading(database: MilvusDatabase, /, *arguments: Given.args, **options: Given.kwargs) -> Found:
        with database.collection.moment(last=True):
            return read(database, *arguments, **options)

    return reading


class MilvusDatabase:
    """The rows of one collection; see the module's text. Made by `open`."""

    exact = False

    def __init__(self, collection: Collection) -> None:
        self.collection, self.title = collection, collection.title

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = False,
        fingerprint: str | None = None,
        about: Mapping[str, object] | None = None,
    ) -> MilvusDatabase:
        """The gallery at a URL; see `databases.urls.open_database`. One that is made is begun by the first `add`."""
        connection = Connection(MilvusAddress.of(url))
        try:
            collection = Collection(connection, fingerprint, about or {})
            if not collection.look() and not create:
                name = connection.address.collection
                raise DatabaseError(
                    f"{collection.title}: there is no collection {name}.", "Make it: tbps index FOLDER --gallery URL"
                )
            return cls(collection)
        except BaseException:
            connection.close()
            raise

    @property
    def fingerprint(self) -> str | None:
        """Of the model that made the vectors."""
        return self.collection.fingerprint

    @property
    def about(self) -> Mapping[str, object]:
        """What was told of it when it was made."""
        return self.collection.about

    def moment(self) -> AbstractContextManager[None]:
        """Reads within see at least what was kept when it began."""
        return self.collection.moment()

    # What it holds ------------------------------------------------------------------------

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        """Keep rows, in the server's log when this returns."""
        if len(rows) != len(vector_NE):
            raise ValueError(f"{len(rows)} rows, but {len(vector_NE)} vectors")
        if not len(rows):
            return
        latest = {path: place for place, path in enumerate(rows.paths)}  # of equal paths in one call none would win
        if len(latest) < len(rows):
            place_K = np.fromiter(latest.values(), np.int64, len(latest))
            rows, vector_NE = rows.take(place_K), vector_NE[place_K]
        width = vector_NE.shape[1]
        if self.collection.width is None:
            self.collection.create(width)
        if self.collection.width != width:
            raise DatabaseError(f"{self.title}: its vectors are {self.collection.width} wide, not {width}.", OTHER)
        entries = entries_of(rows, np.asarray(vector_NE, np.float32), self.title)
        for part in _parts(entries, max(1, min(4096, BATCH_BYTES // (4 * width)))):
            self.collection.change("upsert", part, timeout=60.0)

    @_in_a_moment
    def delete(self, paths: Sequence[str]) -> int:
        """Drop rows."""
        if self.collection.missing():
            return 0
        count = 0
        for part in _parts(list(map(key_of, paths)), 1024):
            there = [entry["path"] for entry in self.collection.query(among(part), ["path"])]
            if there:
                self.collection.change("delete", ids=there)
                count += len(there)
        return count

    @_in_a_moment
    def count(self, where: Tree | None = None) -> int:
        """How many rows a filter lets through."""
        return self._count(where)

    @_as_last_seen
    def columns(self) -> tuple[str, ...]:
        """The fields of which any row has a value."""
        if self.collection.missing():
            return ()
        asked = {field: f'{field} != ""' for field in TEXTS} | {
            field: f"{field}_known == true" for field in KEPT_NUMBERS
        }
        return tuple(
            field for field in FIELDS if field in asked and self.collection.query(asked[field], ["path"], limit=1)
        )

    @_as_last_seen
    def values(self, field: str, most: int = 1000) -> list[str] | None:
        """The different texts of a field: each answer is asked for what the ones before did not have."""
        found: set[str] = set()
        while field in TEXTS and not self.collection.missing():
            beyond = ", ".join(f'"{digits}"' for digits in sorted(found))
            entries = self.collection.query(f'({field} != "" and not ({field} in [{beyond}]))', [field], limit=1000)
            found |= {entry[field] for entry in entries}
            if len(found) > most:
                return None
            if len(entries) < 1000:
                break
        return [text_of(digits) for digits in sorted(found)]

    @_as_last_seen
    def extent(self, field: str) -> tuple[str, str] | None:
        """The first and the last text of a field: some are fetched, then some of those before or behind them."""
        if field not in TEXTS or self.collection.missing():
            return None
        ends = []
        for sign, outermost in (("<", min), (">", max)):
            best, wanted = None, f'{field} != ""'
            while entries := self.collection.query(wanted, [field], limit=1000):
                best = outermost(entry[field] for entry in entries)
                wanted = f'({field} != "" and {field} {sign} "{best}")'
            ends.append(best)
        first, last = ends
        return None if first is None or last is None else (text_of(first), text_of(last))

    @_in_a_moment
    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        """Rows in the order of their paths."""
        found: list[dict[str, Any]] = []
        last = None if after is None else key_of(after)
        while len(found) < size and not self.collection.missing():
            behind = EVERYTHING if last is None else f'path > "{last}"'
            limit = min(size - len(found), MOST, max(1, BATCH_BYTES // (4 * (self.collection.width or 1))))
            entries = self.collection.query(behind, ["path", "row", "vector"], limit=limit)
            found += entries
            if len(entries) < limit:
                break
            last = entries[-1]["path"]
        return self._rows(found)

    @_in_a_moment
    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        """Vectors of the rows whose paths have the lowest hashes: the same ones at every call."""
        count = self._count(where)
        if not count or size < 1:
            return np.empty((0, self.collection.width or 0), np.float32)
        limits = bounds(where)
        share = min(1.0, SAMPLED * size / count + 16 / count)
        while True:
            expression = limits.upper if share >= 1 else f"({limits.upper} and draw < {share!r})"
            asked_here = asked_fields(where) if where is not None and not limits.exact else []
            entries = list(self.collection.each(expression, ["path", "draw", *asked_here]))
            if where is not None and asked_here:
                entries = list(compress(entries, passing(entries, where)))
            if len(entries) >= min(size, count) or share >= 1:
                chosen = sorted(entries, key=lambda entry: (entry["draw"], entry["path"]))[:size]
                return self._fetched([entry["path"] for entry in chosen])[1]
            share = min(1.0, 2 * share)

    def roots(self) -> Mapping[str, str]:
        """Name of a folder -> where it lies."""
        self.collection.look()
        return dict(self.collection.roots)

    def add_root(self, name: str, folder: str) -> str:
        """Make a folder known; before there are rows, it is kept with the first of them."""
        named = self.roots()
        free, number = name, 1
        while named.get(free, folder) != folder:
            number += 1
            free = f"{name}-{number}"
        if free not in named:
            self.collection.roots[free] = folder
            if self.collection.width is not None:
                self.collection.keep_roots()
        return free

    def history(self) -> Sequence[tuple[str, int]]:
        """Milvus does not say."""
        return ()

    def unfinished(self) -> int:
        """Rows of which a search without a filter misses some so far."""
        return 0 if self.collection.missing() else self.collection.lately_unfinished()

    def settle(self, watch: Callable[[int, int], None] | None = None) -> bool:
        """Wait until all rows are searched by graphs; False where the server gets no further."""
        return self.collection.missing() or self.collection.settle(watch)

    def close(self) -> None:
        """End the connection; the server begins to build the graph over what was added."""
        self.collection.close()

    # Searching ----------------------------------------------------------------------------

    @_in_a_moment
    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        """The k best rows of each query."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        query_QE = np.ascontiguousarray(query_QE, np.float32)
        if self.collection.width not in (None, query_QE.shape[1]):
            raise DatabaseError(
                f"{self.title}: its vectors are {self.collection.width} wide, not {query_QE.shape[1]}.", OTHER
            )
        if where is None and k <= MOST and not self.collection.missing():
            return self._best_of_all(query_QE, k)
        count, expression = self._narrowed(where)
        if not count:
            return [self._matches(query_E, [], k) for query_E in query_QE]
        if count <= FETCHED or k > MOST:
            keys = self._named(expression) if expression else self._keys(where)
            return [self._matches(query_E, keys, k) for query_E in query_QE]
        if expression and count <= NARROW:
            return self._ranked(query_QE, self._each_compared(query_QE, k, count, expression), k)
        assert where is not None
        return [self._of_many(query_E, k, count, where, expression) for query_E in query_QE]

    def _best_of_all(self, query_QE: NDArray[np.float32], k: int) -> list[Matches]:
        """The best of all rows, by the graph."""
        found: list[list[str]] = []
        for part_QE in _parts(query_QE, max(1, min(TOGETHER, MOST // k))):
            found += self._hits(part_QE, k, "", EF)
        fewest = min(map(len, found), default=k)
        if fewest < k and fewest < self._count(None):  # a coarse index gives up early
            found = [self._keys(None)] * len(query_QE)
        return self._ranked(query_QE, found, k)

    def _narrowed(self, where: Tree | None) -> tuple[int, str]:
        """How many rows pass, and the expression for exactly these; empty where they are too many to be named."""
        if self.collection.missing():
            return 0, ""
        limits = bounds(where)
        if limits.exact:
            return self._count(where), limits.upper
        keys = self._keys(where)
        return len(keys), among(keys) if len(keys) <= NARROW else ""

    def _each_compared(self, query_QE: NDArray[np.float32], k: int, count: int, expression: str) -> list[list[str]]:
        """The best of few rows. Asked for more than half of them, the server compares the query with each."""
        limit = min(MOST, max(k, count // 2 + 1))
        found: list[list[str]] = []
        if not self.collection.lately_unfinished():
            found = [self._hits(query_E[None], limit, expression, limit)[0] for query_E in query_QE]
        if not found or min(map(len, found)) < min(limit, count):  # a coarse index gives up early
            found = [self._named(expression)] * len(query_QE)
        return [keys if len(keys) < limit else keys[:k] for keys in found]

    def _of_many(self, query_E: NDArray[np.float32], k: int, count: int, where: Tree, expression: str) -> Matches:
        """The best of many rows that pass: those among the best of all rows."""
        limit = min(MOST, max(FETCHED, 4 * k * self._count(None) // count))
        while True:
            (keys,) = self._hits(query_E[None], limit, "", max(EF, 2 * limit))
            if expression:
                entries = self.collection.query(f"({expression} and {among(keys)})", ["path"])
            else:
                entries = self.collection.query(among(keys), ["path", *asked_fields(where)])
                entries = list(compress(entries, passing(entries, where)))
            fitting = {entry["path"] for entry in entries}
            found = [key for key in keys if key in fitting]
            if len(found) >= min(k, count):
                return self._matches(query_E, found[:k], k)
            if limit == MOST:
                break
            limit = min(MOST, 4 * limit)
        if expression:
            return self._matches(query_E, self._hits(query_E[None], k, expression, MOST)[0], k)
        return self._matches(query_E, self._keys(where), k)

    def _hits(self, query_QE: NDArray[np.float32], k: int, expression: str, ef: int) -> list[list[str]]:
        """Keys of the best rows of each query, as the server finds them."""
        params = {"metric_type": "IP", "params": {"ef": max(k, min(ef, MOST_EF))}}
        answers = self.collection.read("search", query_QE, filter=expression, limit=k, search_params=params)
        return [[hit.id for hit in hits] for hits in answers]

    def _ranked(self, query_QE: NDArray[np.float32], keys: Sequence[list[str]], k: int) -> list[Matches]:
        return [self._matches(query_E, found, k) for query_E, found in zip(query_QE, keys, strict=True)]

    def _matches(self, query_E: NDArray[np.float32], keys: Sequence[str], k: int) -> Matches:
        """Rows of these keys, ranked again by their stored vectors."""
        rows, vector_KE = self._fetched(keys)
        if not len(rows):
            return Matches(rows, np.empty(0, np.float32), np.empty((0, len(query_E)), np.float32))
        (score_K,), (place_K,) = topk(query_E[None], vector_KE, k)
        return Matches(rows.take(place_K), score_K, vector_KE[place_K])

    # Asking -------------------------------------------------------------------------------

    def _named(self, expression: str) -> list[str]:
        """The keys of the rows that an expression lets through."""
        return [entry["path"] for entry in self.collection.each(expression, ["path"])]

    def _count(self, where: Tree | None) -> int:
        if self.collection.missing():
            return 0
        limits = bounds(where)
        if not limits.exact:
            return len(self._keys(where))
        return self.collection.count(limits.upper)

    def _keys(self, where: Tree | None) -> list[str]:
        """The keys of all rows that a filter lets through, whatever the server understands of it."""
        limits = bounds(where)
        if where is None or limits.exact:
            return self._named(limits.upper)
        entries = list(self.collection.each(limits.upper, ["path", *asked_fields(where)]))
        return [entry["path"] for entry in compress(entries, passing(entries, where))]

    def _fetched(self, keys: Sequence[str]) -> tuple[Rows, NDArray[np.float32]]:
        """The rows of these keys in their order, and their vectors; those that are gone meanwhile are left out."""
        entry_of: dict[str, dict[str, Any]] = {}
        for part in _parts(list(keys), max(1, min(1024, BATCH_BYTES // (4 * (self.collection.width or 1))))):
            entry_of.update(
                {entry["path"]: entry for entry in self.collection.query(among(part), ["path", "row", "vector"])}
            )
        return self._rows([entry_of[key] for key in keys if key in entry_of])

    def _rows(self, entries: Sequence[Mapping[str, Any]]) -> tuple[Rows, NDArray[np.float32]]:
        vector_NE = np.array([entry["vector"] for entry in entries], np.float32)
        return rows_of(entries), vector_NE.reshape(len(entries), self.collection.width or 0)


def _parts(listed: Any, size: int) -> Iterable[Any]:
    return (listed[start : start + size] for start in range(0, len(listed), size))
