"""A gallery in PostgreSQL with pgvector: `postgresql://USER@HOST/DATABASE`.

Rows lie in one table, each with its vector, stored once in the type in which it came (`halfvec` or `vector`). Vectors
are indexed by HNSW in ranges of the row numbers (`postgres_index`); the newest rows have no index and are read one by
one, so that adding rows costs no more in a large gallery. A search takes the nearest of every range, and ranks them
again by the exact product with the stored vectors. How much of an index it looks at was measured when the index was
built; where nothing was enough, where a filter leaves few rows, or where an index gives too few, all rows that pass are
read instead: such an answer is exact. Figures behind these choices are in docs/databases.md.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from tbps_cli.databases import postgres_index as hnsw
from tbps_cli.databases import postgres_rows, postgres_schema
from tbps_cli.databases.base import Matches
from tbps_cli.databases.postgres_filter import NUMBERS, TEXTS, Asked, Condition
from tbps_cli.databases.postgres_link import Link, parted
from tbps_cli.databases.postgres_measure import EF, EF_MOST
from tbps_cli.databases.postgres_rows import Record
from tbps_cli.databases.postgres_schema import Connection, facts, lock, note
from tbps_cli.databases.postgres_search import READ, Shape, every, every_half, matches, nearest, proven
from tbps_cli.databases.postgres_writing import insert
from tbps_cli.databases.texts import as_it_was, kept
from tbps_cli.databases.urls import shown
from tbps_cli.errors import DatabaseError
from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Rows
from tbps_cli.filtering.tree import FIELDS, Tree

logger = logging.getLogger("tbps")
EXACT = 50_000
"""Rows that pass a filter up to which all of them are compared: about 30 ms, and every hit is found."""
EF_FILTERED = 400
"""How many rows an index looks at (`hnsw.ef_search`) at least where many pass a filter."""
BEYOND_HNSW = 5000
"""Hits from which on all rows are compared: an index is made for few."""
FRESH = 10.0
"""Seconds for which the list of indexes is believed, and how many rows pass a filter."""
REMEMBERED = 1000
"""Conditions of which that is remembered at most."""
BY_PATHS = 2000
"""Rows up to which those that pass a filter of paths are looked up by path."""
SEED = 20
WAIT, WAIT_WRITING = "10s", "60s"
"""How long somebody else's lock is waited for, unless the server or the user has such a limit already."""
PLAIN = 4096
"""Bytes of a vector up to which it lies beside its row, and not in pieces elsewhere."""


class Postgres:
    """A `databases.base.Database` in one PostgreSQL server, or one of several that stand in for each other."""

    def __init__(
        self,
        url: str,
        *,
        create: bool = False,
        fingerprint: str | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        """As `databases.opening.open_database`."""
        self.title = shown(url)
        plain, name = parted(url)
        self._schema = "tbps" if name is None else f"tbps_{name}"
        self._create = create
        self._told = about
        self._ranges: list[hnsw.Range] = []
        self._ranges_read = -FRESH
        self._ef = EF
        self._added = 0
        self._known: set[str] = set()
        """Fields of which a row has a value, as far as was written down by this connection."""
        self._passed: dict[Asked, tuple[int, float]] = {}
        """Of conditions: how many rows passed (not counted beyond `EXACT`), and until when that is believed."""
        self._link = Link(plain, self.title, self._prepare, writes=create)
        try:
            self._facts = self._link.run(self._read_facts)
            self.about = self._read_about()
            if create:
                self._link.run(self._current_ranges)
            if fingerprint is not None:
                self._claim(fingerprint)
        except BaseException:
            self._link.close()
            raise

    def __repr__(self) -> str:
        return f"<Postgres {self.title}>"

    @property
    def fingerprint(self) -> str | None:
        return self._facts.get("fingerprint")

    @property
    def exact(self) -> bool:
        return not any(part.searched for part in self._link.run(self._current_ranges))

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        if not len(rows):
            return
        last = {path: place for place, path in enumerate(rows.columns["path"].tolist())}
        if len(last) < len(rows):  # the same path twice: the later row counts
            places = np.array(sorted(last.values()))
            rows, vector_NE = rows.take(places), vector_NE[places]
        fields = {*columns_of(rows).known()} - {"score"}
        shape = self._link.run(lambda connection: self._shaped(connection, np.asarray(vector_NE)))
        self._link.run(lambda connection: insert(connection, rows, vector_NE, shape.kind, fields - self._known))
        self._known |= fields
        self._added += len(rows)
        if self._added > hnsw.WAITING_MOST:
            self._index()

    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        condition = Condition(where)
        return self._link.run(lambda connection: self._search(connection, query_QE, k, condition, where is not None))

    def delete(self, paths: Sequence[str]) -> int:
        listed = [kept(path) for path in paths]

        def deleted(connection: Connection) -> int:
            # in the order of paths, as rows are added: two writers do not wait for each other
            chosen = "SELECT id FROM image WHERE path = ANY(%s) ORDER BY path FOR UPDATE"
            return connection.execute(f"DELETE FROM image WHERE id IN ({chosen})", [listed]).rowcount

        return self._link.run(deleted) if listed else 0

    def count(self, where: Tree | None = None) -> int:
        condition = Condition(where)
        found = int(self._rows(sql.SQL("SELECT count(*) FROM image WHERE {}").format(condition.sql), condition)[0][0])
        if where is not None:
            self._note_passed(condition.asked, found)
        return found

    def columns(self) -> tuple[str, ...]:
        known = {str(field) for (field,) in self._rows(sql.SQL("SELECT field FROM known"))}
        asked = [field for field in FIELDS if field in known and field in (*TEXTS, *NUMBERS)]
        if not asked:
            return ()
        some = sql.SQL("EXISTS (SELECT 1 FROM image WHERE {} IS NOT NULL)")
        each = sql.SQL(", ").join(some.format(sql.Identifier(NUMBERS.get(field, field))) for field in asked)
        found = self._rows(sql.SQL("SELECT {}").format(each))[0]
        return tuple(field for field, there in zip(asked, found, strict=True) if there)

    def values(self, field: str, most: int = 1000) -> list[str] | None:
        if field not in TEXTS:
            return []
        column = sql.Identifier(field)
        if field == "camera":  # from one value to the next in the B-tree, instead of through all rows
            query = sql.SQL(
                "WITH RECURSIVE found AS ((SELECT {0} FROM image WHERE {0} IS NOT NULL ORDER BY {0} LIMIT 1) UNION ALL"
                " SELECT (SELECT {0} FROM image WHERE {0} > found.{0} ORDER BY {0} LIMIT 1) FROM found"
                " WHERE found.{0} IS NOT NULL) SELECT {0} FROM found WHERE {0} IS NOT NULL LIMIT {1}"
            ).format(column, most + 1)
        else:
            query = sql.SQL("SELECT DISTINCT {0} FROM image WHERE {0} IS NOT NULL ORDER BY {0} LIMIT {1}").format(
                column, most + 1
            )
        found = [as_it_was(value) for (value,) in self._rows(query)]
        return None if len(found) > most else found

    def extent(self, field: str) -> tuple[str, str] | None:
        if field not in TEXTS:
            return None
        column = sql.Identifier(field)
        first, last = self._rows(sql.SQL("SELECT min({0}), max({0}) FROM image").format(column))[0]
        return None if first is None else (as_it_was(first), as_it_was(last))

    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        found = self._drawn(size) if where is None else None
        if found is None:
            condition = Condition(where)
            # the same rows each time: in the order of a hash of their numbers
            query = sql.SQL("SELECT vector FROM image WHERE {} ORDER BY hashint8(id), id LIMIT {}")
            found = [vector for (vector,) in self._rows(query.format(condition.sql, size), condition)]
        return self._vectors(found).astype(np.float32)

    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        behind = sql.SQL("true") if after is None else sql.SQL("path > {}").format(sql.Literal(kept(after)))
        query = sql.SQL("SELECT {} FROM image WHERE {} ORDER BY path LIMIT {}").format(READ, behind, size)
        rows, vectors = postgres_rows.read(self._rows(query))
        return rows, self._vectors(vectors)

    def roots(self) -> Mapping[str, str]:
        found = self._rows(sql.SQL("SELECT name, folder FROM root ORDER BY name"))
        return {as_it_was(name): as_it_was(folder) for name, folder in found}

    def add_root(self, name: str, folder: str) -> str:
        def added(connection: Connection) -> str:
            with connection.transaction():
                lock(connection, self._schema)
                there = {str(known): str(at) for at, known in connection.execute("SELECT name, folder FROM root")}
                if kept(folder) in there:
                    return as_it_was(there[kept(folder)])
                free, number = name, 1
                while kept(free) in there.values():
                    number += 1
                    free = f"{name}-{number}"
                connection.execute("INSERT INTO root VALUES (%s, %s)", [kept(free), kept(folder)])
                return free

        return self._link.run(added)

    def moment(self) -> AbstractContextManager[None]:
        return nullcontext()

    def history(self) -> Sequence[tuple[str, int]]:
        """The table's number (another one when it was made anew), the server's timeline, and the place in its log.

        Nothing where a server, as some services' do, has no log to be asked for.
        """
        query = sql.SQL(
            "SELECT 'image'::regclass::oid::bigint, left(pg_walfile_name(pg_current_wal_lsn()), 8),"
            " (pg_current_wal_lsn() - '0/0')::bigint WHERE NOT pg_is_in_recovery()"
        )

        def read(connection: Connection) -> list[Record]:
            try:
                return connection.execute(query, binary=True).fetchall()
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
                return []

        return [(f"{table}-{line}", int(place)) for table, line, place in self._link.run(read)]

    def unfinished(self) -> int:
        return 0  # rows without an index are compared one by one

    def settle(self, watch: Callable[[int, int], None] | None = None) -> bool:
        """Give many new rows their index; without it they are found too, more slowly.

        Where an older tbps built indexes, or some are gone, these too.
        """
        if self._added or (self._create and self._link.run(self._unready)):
            self._index()
        return True

    def _unready(self, connection: Connection) -> bool:
        """Whether a range was not measured, or has lost its index."""
        known = self._current_ranges(connection)
        return any(part.ef is None for part in known) or bool(hnsw.lost(connection, self._schema, known))

    def close(self) -> None:
        """End the connection; first many new rows get their index."""
        try:
            self.settle()
        finally:
            self._link.close()

    def _prepare(self, connection: Connection) -> None:
        """What each new connection needs; checks that there is a gallery that this program can use."""
        vectors_in = postgres_schema.check_extension(connection, self.title, create=self._create)
        if connection.info.parameter_status("server_encoding") != "UTF8":
            raise DatabaseError(
                f"{self.title}: the database's encoding is {connection.info.parameter_status('server_encoding')}.",
                "File names need UTF8: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
            )
        path = sql.SQL("SET search_path = {}, {}").format(sql.Identifier(self._schema), sql.Identifier(vectors_in))
        connection.execute(path)
        connection.execute(
            f"SET hnsw.ef_search = {EF}; SET hnsw.iterative_scan = relaxed_order;"
            " SET plan_cache_mode = force_custom_plan; SET random_page_cost = 1.1"  # rows lie in memory or on an SSD
        )
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false) WHERE current_setting('lock_timeout') = '0'",
            [WAIT_WRITING if self._create else WAIT],
        )
        self._ef = EF
        self._check_version(connection)
        register_vector(connection)

    def _check_version(self, connection: Connection) -> None:
        newest = len(postgres_schema.STEPS)
        try:
            version = postgres_schema.version_of(connection, self._schema)
        except ValueError:
            raise postgres_schema.damaged(self.title) from None
        if version > newest:
            raise DatabaseError(
                f"{self.title}: the gallery was made by a newer tbps (schema {version}; this one knows {newest}).",
                "Update tbps on this machine.",
            )
        if version == 0 and not self._create:
            raise DatabaseError(
                f"{self.title}: there is no gallery in this database.", "Make it: tbps index SOURCE --gallery URL"
            )
        if version < newest:
            try:
                postgres_schema.take_steps(connection, self._schema, self._told)
            except psycopg.errors.ReadOnlySqlTransaction:
                raise DatabaseError(
                    f"{self.title}: the gallery's schema is {version}, and a standby cannot bring it to {newest}.",
                    "Connect to the server that writes once.",
                ) from None
            except psycopg.errors.InsufficientPrivilege:
                if version == 0:
                    raise
                raise DatabaseError(
                    f"{self.title}: the gallery's schema is {version}, and this user may not bring it to {newest}.",
                    "Once, as the user who owns it: tbps index SOURCE --gallery URL",
                ) from None

    def _read_facts(self, connection: Connection) -> dict[str, str]:
        """What is kept about the gallery. Raises DatabaseError where it makes no sense."""
        found = facts(connection, self._schema)
        try:
            sound = isinstance(json.loads(found.get("about", "{}")), dict) and ("width" in found) <= ("kind" in found)
            int(found.get("width", 0))
        except ValueError:
            sound = False
        if not sound:
            raise postgres_schema.damaged(self.title)
        return found

    def _read_about(self) -> Mapping[str, object]:
        told: Mapping[str, object] = json.loads(self._facts.get("about", "{}"))
        return told

    def _claim(self, fingerprint: str) -> None:
        """Make this the model of the gallery if it has none. Raises DatabaseError where it has another."""
        if self.fingerprint is None and self._create:

            def claimed(connection: Connection) -> dict[str, str]:
                with connection.transaction():
                    lock(connection, self._schema)
                    if "fingerprint" not in facts(connection, self._schema):
                        note(connection, "fingerprint", fingerprint)
                        note(connection, "about", json.dumps(dict(self._told or {}), default=str))
                return facts(connection, self._schema)

            self._facts = self._link.run(claimed)
            self.about = self._read_about()
        if self.fingerprint not in (None, fingerprint):
            raise DatabaseError(
                f"{self.title}: its vectors were made by another model ({self.about.get('run', 'unknown')}).",
                f"Use that one: --ckpt {self.about.get('run', 'RUN')}",
            )

    def _shaped(self, connection: Connection, vector_NE: NDArray[Any]) -> Shape:
        """The shape of the vectors; the first ones decide it."""
        shape = self._shape()
        if shape is None:
            wanted = Shape(vector_NE.shape[1], "halfvec" if vector_NE.dtype == np.float16 else "vector")
            with connection.transaction():
                lock(connection, self._schema)
                if "width" not in facts(connection, self._schema):
                    alter = sql.SQL("ALTER TABLE image ALTER COLUMN vector TYPE {}, ALTER COLUMN vector SET STORAGE {}")
                    size = wanted.width * (2 if wanted.kind == "halfvec" else 4)
                    stored = sql.SQL("PLAIN" if size <= PLAIN else "EXTERNAL")
                    connection.execute(alter.format(wanted.type, stored))
                    note(connection, "width", str(wanted.width))
                    note(connection, "kind", wanted.kind)
            self._facts = facts(connection, self._schema)
            shape = self._shape()
            assert shape is not None
        if vector_NE.ndim != 2 or vector_NE.shape[1] != shape.width:
            raise DatabaseError(
                f"{self.title}: its vectors have {shape.width} numbers, not {vector_NE.shape[-1]}.",
                "They are of another model.",
            )
        return shape

    def _shape(self) -> Shape | None:
        """None: no row was ever added, as far as is known here."""
        return Shape(int(self._facts["width"]), self._facts["kind"]) if "width" in self._facts else None

    def _search(
        self, connection: Connection, query_QE: NDArray[np.float32], k: int, condition: Condition, filtered: bool
    ) -> list[Matches]:
        if self._shape() is None:
            self._facts = facts(connection, self._schema)
        shape, ranges = self._shape(), self._current_ranges(connection)
        if shape is None or k < 1:
            nothing = Rows.of([]), np.zeros(0, np.float32), np.zeros((0, query_QE.shape[1]), np.float32)
            return [Matches(*nothing) for _ in query_QE]
        all_rows = k > BEYOND_HNSW or not any(part.searched for part in ranges)
        if filtered and not all_rows:
            passed = self._count_few(connection, condition)
            all_rows = passed <= EXACT
            if condition.of_paths and passed <= BY_PATHS:
                condition = condition.by_paths()
        if not all_rows:
            least = EF_FILTERED if filtered else EF
            self._look_at(connection, min(EF_MOST, max(least, hnsw.effort(ranges), 2 * k)))
        found, near = [], "" if all_rows else nearest(ranges, shape, k, condition)
        for query_E in query_QE:
            values = {**condition.values, "query": Vector(query_E)}
            records = [] if all_rows else connection.execute(near.encode(), values, binary=True).fetchall()
            if len(records) < k:  # an index may give fewer than there are
                found.append(self._best_of_all(connection, values, query_E, k, condition, shape))
            else:
                found.append(matches(records, query_E, shape))
        return found

    def _best_of_all(
        self,
        connection: Connection,
        values: Mapping[str, object],
        query_E: NDArray[np.float32],
        k: int,
        condition: Condition,
        shape: Shape,
    ) -> Matches:
        """The best of all rows that pass."""
        if shape.halves:
            records = connection.execute(every_half(k, shape, condition).encode(), values, binary=True).fetchall()
            found = matches([record[:-2] for record in records], query_E, shape)
            if proven(records, found, query_E, k):
                return found
        return matches(connection.execute(every(k, condition).encode(), values, binary=True).fetchall(), query_E, shape)

    def _count_few(self, connection: Connection, condition: Condition) -> int:
        """How many rows pass; not counted further than is needed to know that not all of them are compared.

        It is believed for a while: where they become more, all are compared for so long; where they become fewer,
        indexes are asked for them for so long.
        """
        asked = condition.asked
        found, until = self._passed.get(asked, (0, 0.0))
        if until > time.monotonic():
            return found
        query = sql.SQL("SELECT count(*) FROM (SELECT 1 FROM image WHERE {} LIMIT {}) first_ones").format(
            condition.sql, EXACT + 1
        )
        counted = connection.execute(query, condition.values, binary=True).fetchone()
        assert counted is not None
        self._note_passed(asked, int(counted[0]))
        return int(counted[0])

    def _note_passed(self, asked: Asked, rows: int) -> None:
        if len(self._passed) >= REMEMBERED:
            self._passed.clear()
        self._passed[asked] = rows, time.monotonic() + FRESH

    def _look_at(self, connection: Connection, rows: int) -> None:
        """Set how many rows an index looks at."""
        if rows != self._ef:
            connection.execute(f"SET hnsw.ef_search = {rows}")
            self._ef = rows

    def _current_ranges(self, connection: Connection) -> list[hnsw.Range]:
        if time.monotonic() - self._ranges_read > FRESH:
            self._ranges, self._ranges_read = hnsw.ranges(connection), time.monotonic()
        return self._ranges

    def _index(self) -> None:
        """Index the newest rows if they are many. Best effort: without an index they are read one by one."""
        shape, self._added = self._shape(), 0
        if shape is None:
            return
        try:
            self._link.run(
                lambda connection: hnsw.index_newest(connection, self._schema, self.title, shape.width, shape.kind)
            )
        except DatabaseError as error:
            logger.warning("%s No index was made of the newest rows; searches are slower until one is.", error.message)
        self._ranges, self._ranges_read = [], -FRESH

    def _drawn(self, size: int) -> list[Any] | None:
        """Vectors of rows drawn at random; None where all are wanted, or numbers have too many gaps to be drawn."""
        first, last = self._rows(sql.SQL("SELECT min(id), max(id) FROM image"))[0]
        if first is None or last - first < 4 * size:
            return None
        generator = np.random.default_rng(SEED)
        found: dict[int, Any] = {}
        for _ in range(4):
            drawn = generator.integers(first, last + 1, 2 * size).tolist()
            query = sql.SQL("SELECT id, vector FROM image WHERE id = ANY({}::bigint[])").format(sql.Literal(drawn))
            found |= dict(self._rows(query))
            if len(found) >= size:
                return [vector for _, vector in sorted(found.items())[:: max(1, len(found) // size)][:size]]
        return None

    def _vectors(self, found: Sequence[Any]) -> NDArray[Any]:
        shape = self._shape() or Shape(0, "vector")
        return postgres_rows.vectors(found, shape.width, shape.kind)

    def _rows(self, query: sql.SQL | sql.Composed, condition: Condition | None = None) -> list[Record]:
        values = condition.values if condition else None
        if self._shape() is None:
            self._facts = self._link.run(self._read_facts)
        return self._link.run(lambda connection: connection.execute(query, values, binary=True).fetchall())


def open_postgres(
    url: str, *, create: bool = False, fingerprint: str | None = None, about: Mapping[str, object] | None = None
) -> Postgres:
    """As `databases.opening.open_database`."""
    return Postgres(url, create=create, fingerprint=fingerprint, about=about)
