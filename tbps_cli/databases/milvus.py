"""A gallery in Milvus: `milvus://[user:password@]host:port/collection`. Written for and tested with version 2.3.5.

One collection holds one gallery. What is kept of a row comes back from one field (`row`, JSON); the fields beside it
exist for filters (`milvus_filter`). The primary key is the path. The collection's description holds version,
fingerprint and `about`, its properties the folders (`roots`).

An HNSW graph over float32 vectors finds the best of all rows. A graph loses rows under a filter, at worst at about a
tenth of the rows and whatever is searched of it (recall .96 at ef 4000), so filters do not use it:

* up to FETCHED rows that pass are fetched and ranked here;
* up to NARROW, the server is asked for more than half of them: then it compares each of them (recall 1.0);
* of more, the best of all rows are asked which of them pass.

`add` returns when the rows are in the server's log, which survives kill -9. The server builds the graph later; until
then it searches new rows by an index of its own, which finds about 95 of 100 (`settle` waits for the graph). The first
read of a connection, each one behind a change of its own, and `count` are strongly consistent; later ones may miss what
others have kept in the last five seconds, and take 2 ms instead of 200 to 400.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.base import Matches
from tbps_cli.databases.milvus_connection import Connection, MilvusAddress
from tbps_cli.databases.milvus_filter import EVERYTHING, KEPT_NUMBERS, TEXTS, asked_fields, bounds, kept_fields, passing
from tbps_cli.databases.nearest import nearest
from tbps_cli.errors import DatabaseError
from tbps_cli.features.rows import Row, Rows, encoded
from tbps_cli.filtering.tree import FIELDS, Tree

VERSION = 1
"""Of the fields of a collection."""
LONGEST = 65_535
"""Characters of a text field."""
MOST = 16_384
"""Rows of one answer; the server gives no more."""
FETCHED = 100
NARROW = 10_000
EF, MOST_EF = 512, 32_768
"""How much of the graph is searched: recall 1.0 and .998 in 40,000 and 100,000 rows."""
FEW_ROWS = 1024
"""Of a segment: the server builds no graph below that."""
TOGETHER = 64
"""Queries of one call."""
BATCH_BYTES = 16 << 20
"""Vectors that one call carries."""
SAMPLED = 1.3
"""So many times more rows are looked at than a sample needs."""
ROOT = "tbps.root."
OTHER = "They are of another model: give the one that made the gallery with --ckpt."
INDEX = {"field_name": "vector", "index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 128}}


class MilvusDatabase:
    """The rows of one collection; see the module's text. Made by `open`."""

    exact = False

    def __init__(self, connection: Connection, fingerprint: str | None, about: Mapping[str, object]) -> None:
        self.connection, self.title = connection, connection.address.title
        self.fingerprint, self.about = fingerprint, dict(about)
        self.width: int | None = None
        """Of the vectors; None as long as there is no collection."""
        self._roots: dict[str, str] = {}
        self._behind, self._changed = True, False

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
            database = cls(connection, fingerprint, about or {})
            if not database._look() and not create:
                name = connection.address.collection
                raise DatabaseError(
                    f"{database.title}: there is no collection {name}.", "Make it: tbps index FOLDER --gallery URL"
                )
            return database
        except BaseException:
            connection.close()
            raise

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
        if self.width is None:
            self._create(width)
        if self.width != width:
            raise DatabaseError(f"{self.title}: its vectors are {self.width} wide, not {width}.", OTHER)
        entries = _entries(rows, np.asarray(vector_NE, np.float32), self.title)
        for part in _parts(entries, max(1, min(4096, BATCH_BYTES // (4 * width)))):
            self.connection.read("upsert", part, timeout=60.0)
        self._behind = self._changed = True

    def delete(self, paths: Sequence[str]) -> int:
        """Drop rows."""
        if self._nothing():
            return 0
        count = 0
        for part in _parts(list(map(_key, paths)), 1024):
            self._behind = True
            there = [entry["path"] for entry in self._query(_among(part), ["path"])]
            if there:
                self.connection.read("delete", ids=there)
                count += len(there)
        self._behind, self._changed = True, self._changed or count > 0
        return count

    def count(self, where: Tree | None = None) -> int:
        """How many rows a filter lets through."""
        self._behind = True
        return self._count(where)

    def columns(self) -> tuple[str, ...]:
        """The fields of which any row has a value."""
        if self._nothing():
            return ()
        asked = {field: f'{field} != ""' for field in TEXTS} | {
            field: f"{field}_known == true" for field in KEPT_NUMBERS
        }
        return tuple(field for field in FIELDS if field in asked and self._query(asked[field], ["path"], limit=1))

    def values(self, field: str, most: int = 1000) -> list[str] | None:
        """The different texts of a field: each answer is asked for what the ones before did not have."""
        found: set[str] = set()
        while field in TEXTS and not self._nothing():
            beyond = ", ".join(f'"{digits}"' for digits in sorted(found))
            entries = self._query(f'({field} != "" and not ({field} in [{beyond}]))', [field], limit=1000)
            found |= {entry[field] for entry in entries}
            if len(found) > most:
                return None
            if len(entries) < 1000:
                break
        return [_text(digits) for digits in sorted(found)]

    def extent(self, field: str) -> tuple[str, str] | None:
        """The first and the last text of a field: some are fetched, then some of those before or behind them."""
        if field not in TEXTS or self._nothing():
            return None
        ends = []
        for sign, outermost in (("<", min), (">", max)):
            best, wanted = None, f'{field} != ""'
            while entries := self._query(wanted, [field], limit=1000):
                best = outermost(entry[field] for entry in entries)
                wanted = f'({field} != "" and {field} {sign} "{best}")'
            ends.append(best)
        first, last = ends
        return None if first is None or last is None else (_text(first), _text(last))

    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        """Rows in the order of their paths."""
        found: list[dict[str, Any]] = []
        last = None if after is None else _key(after)
        while len(found) < size and not self._nothing():
            behind = EVERYTHING if last is None else f'path > "{last}"'
            limit = min(size - len(found), MOST, max(1, BATCH_BYTES // (4 * (self.width or 1))))
            entries = self._query(behind, ["path", "row", "vector"], limit=limit)
            found += entries
            if len(entries) < limit:
                break
            last = entries[-1]["path"]
        return self._rows(found)

    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        """Vectors of the rows whose paths have the lowest hashes: the same ones at every call."""
        count = self._count(where)
        if not count or size < 1:
            return np.empty((0, self.width or 0), np.float32)
        limits = bounds(where)
        share = min(1.0, SAMPLED * size / count + 16 / count)
        while True:
            expression = limits.upper if share >= 1 else f"({limits.upper} and draw < {share!r})"
            asked_here = asked_fields(where) if where is not None and not limits.exact else []
            entries = list(self._each(expression, ["path", "draw", *asked_here]))
            if where is not None and asked_here:
                entries = list(compress(entries, passing(entries, where)))
            if len(entries) >= min(size, count) or share >= 1:
                chosen = sorted(entries, key=lambda entry: (entry["draw"], entry["path"]))[:size]
                return self._fetched([entry["path"] for entry in chosen])[1]
            share = min(1.0, 2 * share)

    def roots(self) -> Mapping[str, str]:
        """Name of a folder -> where it lies."""
        self._look()
        return dict(self._roots)

    def add_root(self, name: str, folder: str) -> str:
        """Make a folder known; before there are rows, it is kept with the first of them."""
        named = self.roots()
        free, number = name, 1
        while named.get(free, folder) != folder:
            number += 1
            free = f"{name}-{number}"
        if free not in named:
            self._roots[free] = folder
            if self.width is not None:
                self._keep_roots()
        return free

    def settle(self, seconds: float = 600.0) -> bool:
        """Wait until the server searches all rows by its graph; False where that took longer."""
        if self.width is None:
            return True
        self._flush()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # a segment that still grows is not listed; few rows get no graph, since each of them is compared
            segments = self.connection.call("list_loaded_segments")
            ready = sum(one.num_rows for one in segments if one.index_name or one.num_rows < FEW_ROWS)
            if ready >= self.count():
                return True
            time.sleep(0.5)
        return False

    def close(self) -> None:
        """End the connection; the server begins to build the graph over what was added."""
        try:
            if self._changed and self.width is not None:
                self._flush()
        finally:
            self.connection.close()

    # Searching ----------------------------------------------------------------------------

    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        """The k best rows of each query."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        query_QE = np.ascontiguousarray(query_QE, np.float32)
        if self.width not in (None, query_QE.shape[1]):
            raise DatabaseError(f"{self.title}: its vectors are {self.width} wide, not {query_QE.shape[1]}.", OTHER)
        count, expression = self._narrowed(where)
        if not count:
            return [self._matches(query_E, [], k) for query_E in query_QE]
        if count <= FETCHED or k > MOST:
            keys = [entry["path"] for entry in self._each(expression, ["path"])] if expression else self._keys(where)
            return [self._matches(query_E, keys, k) for query_E in query_QE]
        found: list[Matches] = []
        for part_QE in _parts(query_QE, max(1, min(TOGETHER, MOST // k))):
            if where is None:
                found += self._ranked(part_QE, self._hits(part_QE, k, "", EF), k)
            elif expression and count <= NARROW:
                found += self._ranked(part_QE, self._each_compared(part_QE, k, count, expression), k)
            else:
                found += [self._of_many(query_E, k, count, where, expression) for query_E in part_QE]
        return found

    def _narrowed(self, where: Tree | None) -> tuple[int, str]:
        """How many rows pass, and the expression for exactly these; empty where they are too many to be named."""
        if self._nothing():
            return 0, ""
        limits = bounds(where)
        if limits.exact:
            return self._count(where), limits.upper
        keys = self._keys(where)
        return len(keys), _among(keys) if len(keys) <= NARROW else ""

    def _each_compared(self, query_QE: NDArray[np.float32], k: int, count: int, expression: str) -> list[list[str]]:
        """The best of few rows. Asked for more than half of them, the server compares the query with each."""
        limit = min(MOST, max(k, count // 2 + 1))
        found = []
        for query_E in query_QE:
            (keys,) = self._hits(query_E[None], limit, expression, limit)
            if len(keys) < min(limit, count):  # rows without a graph yet, whose own index gives up early
                keys = [entry["path"] for entry in self._each(expression, ["path"])]
            found.append(keys)
        return [keys if len(keys) < limit else keys[:k] for keys in found]

    def _of_many(self, query_E: NDArray[np.float32], k: int, count: int, where: Tree, expression: str) -> Matches:
        """The best of many rows that pass: those among the best of all rows."""
        limit = min(MOST, max(FETCHED, 4 * k * self._count(None) // count))
        while True:
            (keys,) = self._hits(query_E[None], limit, "", max(EF, 2 * limit))
            if expression:
                entries = self._query(f"({expression} and {_among(keys)})", ["path"])
            else:
                entries = self._query(_among(keys), ["path", *asked_fields(where)])
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
        answers = self._read("search", query_QE, filter=expression, limit=k, search_params=params)
        return [[hit.id for hit in hits] for hits in answers]

    def _ranked(self, query_QE: NDArray[np.float32], keys: Sequence[list[str]], k: int) -> list[Matches]:
        return [self._matches(query_E, found, k) for query_E, found in zip(query_QE, keys, strict=True)]

    def _matches(self, query_E: NDArray[np.float32], keys: Sequence[str], k: int) -> Matches:
        """Rows of these keys, ranked again by their stored vectors."""
        rows, vector_KE = self._fetched(keys)
        if not len(rows):
            return Matches(rows, np.empty(0, np.float32), np.empty((0, len(query_E)), np.float32))
        (score_K,), (place_K,) = nearest(query_E[None], vector_KE, k)
        return Matches(rows.take(place_K), score_K, vector_KE[place_K])

    # Asking -------------------------------------------------------------------------------

    def _read(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A read, strongly consistent where this connection has changed something or has read nothing yet."""
        level = "Strong" if self._behind else "Bounded"
        found = self.connection.read(method, *arguments, consistency_level=level, **options)
        self._behind = False
        return found

    def _query(self, expression: str, fields: Sequence[str], limit: int = MOST) -> list[dict[str, Any]]:
        return list(self._read("query", filter=expression, output_fields=list(fields), limit=limit))

    def _each(self, expression: str, fields: Sequence[str]) -> Iterable[dict[str, Any]]:
        """All rows of an expression, page by page, in the order of their keys."""
        last = ""
        while True:
            page = self._query(f'({expression} and path > "{last}")', fields)
            yield from page
            if len(page) < MOST:
                return
            last = page[-1]["path"]

    def _count(self, where: Tree | None) -> int:
        if self._nothing():
            return 0
        limits = bounds(where)
        if not limits.exact:
            return len(self._keys(where))
        (found,) = self._read("query", filter=limits.upper, output_fields=["count(*)"])
        return int(found["count(*)"])

    def _keys(self, where: Tree | None) -> list[str]:
        """The keys of all rows that a filter lets through, whatever the server understands of it."""
        limits = bounds(where)
        if where is None or limits.exact:
            return [entry["path"] for entry in self._each(limits.upper, ["path"])]
        entries = list(self._each(limits.upper, ["path", *asked_fields(where)]))
        return [entry["path"] for entry in compress(entries, passing(entries, where))]

    def _fetched(self, keys: Sequence[str]) -> tuple[Rows, NDArray[np.float32]]:
        """The rows of these keys in their order, and their vectors; those that are gone meanwhile are left out."""
        entry_of: dict[str, dict[str, Any]] = {}
        for part in _parts(list(keys), max(1, min(1024, BATCH_BYTES // (4 * (self.width or 1))))):
            entry_of.update({entry["path"]: entry for entry in self._query(_among(part), ["path", "row", "vector"])})
        return self._rows([entry_of[key] for key in keys if key in entry_of])

    def _rows(self, entries: Sequence[Mapping[str, Any]]) -> tuple[Rows, NDArray[np.float32]]:
        vector_NE = np.array([entry["vector"] for entry in entries], np.float32)
        return _read_rows(entries), vector_NE.reshape(len(entries), self.width or 0)

    # The collection -----------------------------------------------------------------------

    def _nothing(self) -> bool:
        """Whether nobody has made the collection so far."""
        return self.width is None and not self._look()

    def _look(self) -> bool:
        """Read what the collection says of itself; False where there is none. Raises DatabaseError."""
        there = self.connection.description()
        if there is None:
            return False
        name = self.connection.address.collection
        try:
            said = json.loads(there.get("description") or "")
            version = int(said["tbps"])
        except (ValueError, KeyError, TypeError):
            raise DatabaseError(
                f"{self.title}: the collection {name} holds no gallery of tbps.", "Choose another name."
            ) from None
        if version > VERSION:
            raise DatabaseError(
                f"{self.title}: the gallery was made by a newer tbps (version {version} of its fields).",
                "Update tbps here.",
            )
        if self.fingerprint not in (None, said["fingerprint"]):
            run = said["about"].get("run", "another model")
            raise DatabaseError(
                f"{self.title}: the gallery was made by {run}, so its vectors cannot be compared.",
                f"Search with --ckpt {run}, or choose another collection.",
            )
        width = next(int(one["params"]["dim"]) for one in there["fields"] if one["name"] == "vector")
        if self.width is None:
            self.connection.read("load_collection")
        self.fingerprint, self.about, self.width = said["fingerprint"], dict(said["about"]), width
        kept = {str(key): str(value) for key, value in dict(there.get("properties") or {}).items()}
        self._roots |= {
            _text(key.removeprefix(ROOT)): _text(value) for key, value in kept.items() if key.startswith(ROOT)
        }
        return True

    def _create(self, width: int) -> None:
        """Make the collection, unless somebody else has done so meanwhile."""
        if self.fingerprint is None:
            raise DatabaseError(f"{self.title}: the model of its vectors is not known.", "Open it with a fingerprint.")
        said = json.dumps({"tbps": VERSION, "fingerprint": self.fingerprint, "about": self.about}, default=str)
        try:
            self.connection.create(self._schema(width), said, INDEX)
        except DatabaseError:
            if not self._look():
                raise
        self._look()
        if self._roots:
            self._keep_roots()

    def _schema(self, width: int) -> list[tuple[str, Any, dict[str, Any]]]:
        kinds = self.connection.types
        text = {"max_length": LONGEST}
        fields: list[tuple[str, Any, dict[str, Any]]] = [("path", kinds.VARCHAR, {**text, "is_primary": True})]
        fields += [(name, kinds.VARCHAR, text) for name in (*TEXTS[1:], "row")]
        fields += [(f"{name}_spelt", kinds.BOOL, {}) for name in TEXTS]
        fields += [(f"{name}_known", kinds.BOOL, {}) for name in KEPT_NUMBERS]
        numbers = [*(f"{name}_number" for name in TEXTS), *KEPT_NUMBERS, "draw"]
        fields += [(name, kinds.DOUBLE, {}) for name in numbers]
        return [*fields, ("vector", kinds.FLOAT_VECTOR, {"dim": width})]

    def _keep_roots(self) -> None:
        kept = {ROOT + encoded(name).hex(): encoded(folder).hex() for name, folder in self._roots.items()}
        self.connection.call("alter_collection_properties", kept)

    def _flush(self) -> None:
        self.connection.call("flush", timeout=60.0)
        self._changed = False


def _key(path: str) -> str:
    """The primary key of a path."""
    return encoded(path).hex()


def _text(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogateescape")


def _among(keys: Sequence[str]) -> str:
    digits = ", ".join(f'"{key}"' for key in keys)
    return f"path in [{digits}]"


def _parts(listed: Any, size: int) -> Iterable[Any]:
    return (listed[start : start + size] for start in range(0, len(listed), size))


def _entries(rows: Rows, vector_NE: NDArray[np.float32], title: str) -> list[dict[str, Any]]:
    """What is sent of each row."""
    entries = []
    for row, kept, vector_E in zip(rows, kept_fields(rows), vector_NE, strict=True):
        stored = json.dumps(asdict(row))
        if max(len(stored), *(len(kept[field]) for field in TEXTS)) > LONGEST:
            raise DatabaseError(f"{title}: {row.path[:60]}…: a text is too long for Milvus.", "Shorten its path.")
        draw = int.from_bytes(hashlib.blake2b(encoded(row.path), digest_size=6).digest(), "big") / 2**48
        entries.append({**kept, "row": stored, "draw": draw, "vector": vector_E})
    return entries


def _read_rows(entries: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of entries, as they were kept."""
    made = []
    for entry in entries:
        facts = json.loads(entry["row"])
        made.append(Row(**{**facts, "box": None if facts["box"] is None else tuple(facts["box"])}))
    return Rows.of(made)
