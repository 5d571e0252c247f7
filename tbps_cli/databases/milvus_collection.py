"""One collection of a Milvus server as a gallery: what it says of itself, how fresh its answers are, its graphs.

The collection's description holds version, fingerprint and `about`, its properties the folders (`roots`).

**Freshness.** A server of Milvus answers at once with what it has read of its log, which may lack the last seconds. Our
reads therefore name a moment, a timestamp of the server, and are answered when everything that was kept before it has
been read: 0.2 s later, since so often the log gets a mark of the time. Reads within a `moment` name the same one, so
that only the first waits. A URL with `?consistency=bounded` does without: its reads take what is there, but for the
first and those behind a change of its own.

**Graphs.** The server builds a graph for each segment of the collection after its rows were flushed, and loads it when
it is done. Until then it searches these rows by a coarse index of its own, of which only a part is looked at; no
parameter of a search changes that. `unfinished` says how many rows that is true of, `settle` waits until it is none.
Rows that were not flushed are in no list of the server's, and where they replace others not in its count either, so
who adds many marks the collection (`GROWING`) until they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tbps_cli.databases.milvus_connection import Connection
from tbps_cli.databases.milvus_filter import EVERYTHING, KEPT_NUMBERS, TEXTS
from tbps_cli.databases.milvus_rows import LONGEST, text_of
from tbps_cli.errors import DatabaseError
from tbps_cli.features.rows import encoded

VERSION = 1
"""Of the fields of a collection."""
MOST = 16_384
"""Rows of one answer; the server gives no more."""
FEW_ROWS = 1024
"""Of a segment: the server builds no graph below that."""
COMPARED = 4992
"""New rows up to which the server compares each (39 for each of the 128 lists of its coarse index)."""
STALLED = 600.0
"""Seconds without any progress after which the graphs of a server are not waited for any more."""
LOOKED = 0.5
"""Seconds between two looks at them."""
LATELY = 1.0
"""Seconds for which it is believed that there are no graphs to wait for."""
ROOT = "tbps.root."
GROWING = "tbps.growing"
"""Property: many rows may not be flushed before this time, in milliseconds of the server."""
MARKED = 600.0
"""Seconds after which a server flushes by itself."""
INDEX = {"field_name": "vector", "index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 128}}
_MOMENT: ContextVar[dict[int, int] | None] = ContextVar("moment", default=None)
"""Of the reads that are under way: the timestamp that they name, by collection."""


class Collection:
    """The collection that a URL names, be it there or not."""

    def __init__(self, connection: Connection, fingerprint: str | None, about: Mapping[str, object]) -> None:
        self.connection, self.title = connection, connection.address.title
        self.fingerprint, self.about = fingerprint, dict(about)
        self.width: int | None = None
        """Of the vectors; None as long as there is no collection."""
        self.roots: dict[str, str] = {}
        self._behind, self._changed = True, False
        self._last = 0
        """The timestamp of the last moment; 0: none."""
        self._grown, self._marked = 0, -MARKED
        """Rows since the last flush, and when the collection was marked."""
        self._looked_at, self._unfinished = -LATELY, 0

    # What it is ---------------------------------------------------------------------------

    def missing(self) -> bool:
        """Whether nobody has made the collection so far."""
        return self.width is None and not self.look()

    def look(self) -> bool:
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
        self.roots |= {
            text_of(key.removeprefix(ROOT)): text_of(value) for key, value in kept.items() if key.startswith(ROOT)
        }
        return True

    def create(self, width: int) -> None:
        """Make the collection, unless somebody else has done so meanwhile."""
        if self.fingerprint is None:
            raise DatabaseError(f"{self.title}: the model of its vectors is not known.", "Open it with a fingerprint.")
        said = json.dumps({"tbps": VERSION, "fingerprint": self.fingerprint, "about": self.about}, default=str)
        try:
            self.connection.create(self._schema(width), said, INDEX)
        except DatabaseError:
            if not self.look():
                raise
        self.look()
        if self.roots:
            self.keep_roots()

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

    def keep_roots(self) -> None:
        """Write down the folders."""
        kept = {ROOT + encoded(name).hex(): encoded(folder).hex() for name, folder in self.roots.items()}
        self.connection.call("alter_collection_properties", kept)

    # Reading and changing -----------------------------------------------------------------

    @contextmanager
    def moment(self, *, last: bool = False) -> Iterator[None]:
        """Reads within see at least what was kept when it began; within another one, what was kept when that began.

        last: the last moment of this connection will do, so nothing is waited for.
        """
        named = _MOMENT.get()
        if named is not None and id(self) in named:
            yield
            return
        if not (last and self._last) and not self._relaxed:
            self._last = self.connection.timestamp()
        token = _MOMENT.set({**(named or {}), id(self): self._last})
        try:
            yield
        finally:
            _MOMENT.reset(token)

    @property
    def _relaxed(self) -> bool:
        """Whether reads take what the server has."""
        return self.connection.address.bounded and not self._behind

    def read(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A read of the loaded collection, as fresh as the moment that it is in, or of now."""
        if self._relaxed:
            return self.connection.read(method, *arguments, consistency_level="Bounded", **options)
        named = _MOMENT.get() or {}
        stamp = named.get(id(self)) or self.connection.timestamp()  # of 0 the server makes its own, of now
        found = self.connection.read(
            method, *arguments, consistency_level="Customized", guarantee_timestamp=stamp, **options
        )
        self._behind = False
        return found

    def change(self, method: str, *arguments: Any, timeout: float = 15.0, **options: Any) -> None:
        """A change of rows, in the server's log when this returns; reads behind it see it."""
        self._behind = self._changed = True
        self._looked_at = -LATELY
        self.connection.read(method, *arguments, timeout=timeout, **options)
        self._grown += len(arguments[0]) if arguments else 0
        if self._grown > COMPARED and time.monotonic() - self._marked > MARKED / 2:
            self._mark(str(int(self._clock() + 1000 * MARKED)))
            self._marked = time.monotonic()
        self._last = self.connection.timestamp()
        named = _MOMENT.get()
        if named is not None and id(self) in named:
            named[id(self)] = self._last

    def query(self, expression: str, fields: Sequence[str], limit: int = MOST) -> list[dict[str, Any]]:
        """Fields of rows that an expression lets through."""
        return list(self.read("query", filter=expression, output_fields=list(fields), limit=limit))

    def each(self, expression: str, fields: Sequence[str]) -> Iterable[dict[str, Any]]:
        """All rows of an expression, page by page, in the order of their keys."""
        last = ""
        while True:
            page = self.query(f'({expression} and path > "{last}")', fields)
            yield from page
            if len(page) < MOST:
                return
            last = page[-1]["path"]

    def count(self, expression: str = EVERYTHING) -> int:
        """How many rows an expression lets through."""
        (found,) = self.read("query", filter=expression, output_fields=["count(*)"])
        return int(found["count(*)"])

    # Graphs -------------------------------------------------------------------------------

    def unfinished(self) -> int:
        """Rows that are searched by a coarse index so far; 0 where they are so few that each is compared."""
        kept, ready = self._segments()
        there, loaded = sum(kept.values()), sum(ready.values())
        # what still grows is in no list; what was compacted is loaded once more, while its old rows are searched
        waiting = max(self.count(), there) - loaded
        until = dict(self.connection.call("describe_collection").get("properties") or {}).get(GROWING) or "0"
        if waiting <= COMPARED and until.isdecimal() and int(until) > self._clock():
            waiting = COMPARED + 1
        self._looked_at = time.monotonic()
        self._unfinished = waiting if waiting > COMPARED else 0
        return self._unfinished

    def lately_unfinished(self) -> int:
        """The same of the last second, in which a server does not take as many rows as it compares one by one."""
        return self.unfinished() if time.monotonic() - self._looked_at > LATELY else self._unfinished

    def settle(self, watch: Callable[[int, int], None] | None) -> bool:
        """Wait until all rows are searched by graphs; False where the server gets no further for ten minutes."""
        if self._changed or self.unfinished():
            self.flush()
        # by their numbers, since of a segment that is compacted the old one stays loaded for a while
        seen: object = None
        end = 0.0
        while True:
            kept, ready = self._segments()
            total, waiting = sum(kept.values()), sum(rows for key, rows in kept.items() if key not in ready)
            if watch is not None and total:
                watch(total - waiting, total)
            if waiting <= COMPARED:
                self._looked_at = -LATELY
                return True
            if (kept, ready) != seen:
                seen, end = (kept, ready), time.monotonic() + STALLED
            elif time.monotonic() > end:
                return False
            time.sleep(LOOKED)

    def _segments(self) -> tuple[dict[int, int], dict[int, int]]:
        """Rows of each flushed segment, and of each that is loaded with its graph or too small to have one."""
        kept = {int(one.segment_id): int(one.num_rows) for one in self.connection.call("list_persistent_segments")}
        loaded = self.connection.call("list_loaded_segments")
        ready = {int(one.segment_id): int(one.num_rows) for one in loaded if one.index_name or one.num_rows < FEW_ROWS}
        return {key: rows for key, rows in kept.items() if rows}, ready

    def flush(self) -> None:
        """Have the server write its newest rows, and begin to build their graph."""
        self.connection.call("flush", timeout=120.0)
        if self._grown > COMPARED:
            self._mark("")
        self._changed, self._grown, self._marked = False, 0, -MARKED

    def _mark(self, until: str) -> None:
        self.connection.call("alter_collection_properties", {GROWING: until})

    def _clock(self) -> float:
        """Milliseconds, as the server counts them where it says so."""
        return (self.connection.timestamp() >> 18) or 1000 * time.time()

    def close(self) -> None:
        """End the connection."""
        try:
            if self._changed and self.width is not None:
                self.flush()
        finally:
            self.connection.close()
