"""HNSW indexes of a gallery in PostgreSQL: one for each range of row numbers, none for the newest rows.

Adding to one large HNSW index takes over a millisecond a row, building it anew as long as all its rows. So new
rows have no index and are compared one by one. When they are many, they get an index of their own; a neighbouring range
that is not much larger is built together with it. There are only a few ranges then, each at least `TIMES` as large as
the next, and a row is indexed again a few times at most, however large the gallery grows. An index is built beside the
others without keeping anybody from reading or writing; a build that was killed is removed by the next one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tbps_cli.databases.postgres_schema import LOCK, Connection

logger = logging.getLogger("tbps")
WAITING = 5000
"""New rows from which on they get an index; comparing so many takes about 3 ms."""
WAITING_MOST = 100_000
"""New rows above which an index is made although more are coming."""
TIMES = 4
EF, EF_MOST = 200, 1000
"""What `hnsw.ef_search` is at least, and what the server takes. Its own 40 loses 13 points of R@1 on sentences."""
M, EF_CONSTRUCTION = 16, 128
MEMORY_MOST = 1 << 30
"""Bytes of the server's memory that building may take; beyond them it is slower."""


@dataclass(frozen=True)
class Range:
    """The rows with numbers above `after` up to `upto`, which have an index."""

    name: str
    after: int
    upto: int
    rows: int

    @property
    def condition(self) -> sql.Composed:
        """Written as in the index itself, so that the planner sees that it is meant."""
        return sql.SQL("id > {} AND id <= {}").format(self.after, self.upto)


def ranges(connection: Connection) -> list[Range]:
    """The ranges that have an index, by their numbers."""
    found = connection.execute("SELECT name, after, upto, rows FROM hnsw ORDER BY after").fetchall()
    return [Range(*record) for record in found]


def effort(ranges: Sequence[Range]) -> int:
    """`hnsw.ef_search`: how many rows an index looks at, so that 99 of 100 of the ten best are found.

    With 200 they are in 10,000 rows (recall@10 .990), in 100,000 not: .975 with 200, .988 with 400, .997 with 600.
    """
    most = max((part.rows for part in ranges), default=0)
    return min(EF_MOST, max(EF, round(EF * math.sqrt(most / 10_000))))


def order(width: int, kind: str) -> sql.Composed:
    """What rows are ordered by, so that an index is used: the distance from `%(query)s` in half precision."""
    return sql.SQL("{} <#> %(query)s::halfvec({})").format(_indexed(width, kind), width)


def _indexed(width: int, kind: str) -> sql.Composable:
    return sql.SQL("vector") if kind == "halfvec" else sql.SQL("(vector::halfvec({}))").format(width)


def index_newest(connection: Connection, schema: str, title: str, width: int, kind: str) -> None:
    """Give the newest rows an index if they are many; nothing if another process is at it."""
    if connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK + 1, schema]).fetchone() != (True,):
        return
    try:
        known = ranges(connection)
        _remove_unfinished(connection, schema, {part.name for part in known})
        wanted = _wanted(connection, known)
        if wanted is None:
            return
        logger.info("%s: the index of %s rows is being built.", title, f"{wanted.rows:,}")
        _build(connection, wanted, width, kind)
        # without figures the planner would rather read all rows; of pages known to be whole, B-trees answer alone
        connection.execute("VACUUM (ANALYZE, INDEX_CLEANUP OFF) image")
        replaced = [part for part in known if part.after >= wanted.after]
        with connection.transaction():
            connection.execute("DELETE FROM hnsw WHERE after >= %s", [wanted.after])
            values = [wanted.name, wanted.after, wanted.upto, wanted.rows]
            connection.execute("INSERT INTO hnsw VALUES (%s, %s, %s, %s)", values)
        _drop(connection, [part.name for part in replaced])
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [LOCK + 1, schema])


def _wanted(connection: Connection, known: Sequence[Range]) -> Range | None:
    """The range that is to get an index now: the newest rows, with neighbours that are not much larger."""
    after = known[-1].upto if known else 0
    found = connection.execute("SELECT count(*), max(id) FROM image WHERE id > %s", [after]).fetchone()
    assert found is not None
    count, last = found
    if count < WAITING:
        return None
    for part in reversed(known):
        if part.rows >= TIMES * count:
            break
        after, count = part.after, count + part.rows
    return Range(f"hnsw_{after}_{last}", after, last, count)


def _build(connection: Connection, wanted: Range, width: int, kind: str) -> None:
    needed = min(MEMORY_MOST, wanted.rows * (2 * width + 500) * 5 // 4)
    connection.execute(
        "SELECT set_config('maintenance_work_mem', %s, false)"
        " WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < %s",
        [f"{max(1024, needed // 1024)}kB", needed],
    )
    made = sql.SQL(
        "CREATE INDEX CONCURRENTLY {} ON image USING hnsw ({} halfvec_ip_ops) WITH (m = {}, ef_construction = {})"
        " WHERE {}"
    ).format(sql.Identifier(wanted.name), _indexed(width, kind), M, EF_CONSTRUCTION, wanted.condition)
    try:
        connection.execute(made)
    except psycopg.errors.DiskFull:  # said of shared memory too, which building in parallel takes
        _drop(connection, [wanted.name])
        connection.execute("SET max_parallel_maintenance_workers = 0")
        connection.execute(made)


def _remove_unfinished(connection: Connection, schema: str, known: set[str]) -> None:
    """Drop indexes of builds that were killed."""
    found = connection.execute(
        "SELECT indexname FROM pg_indexes WHERE schemaname = %s AND tablename = 'image' AND indexname LIKE %s",
        [schema, r"hnsw\_%"],
    )
    _drop(connection, [str(name) for (name,) in found.fetchall() if name not in known])


def _drop(connection: Connection, names: Sequence[str]) -> None:
    for name in names:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(name)))
