"""HNSW indexes of a gallery in PostgreSQL: one for each range of row numbers, none for the newest rows.

Adding to one large HNSW index takes over a millisecond a row, building it anew as long as all its rows. So new
rows have no index and are compared one by one. When they are many, they get an index of their own; a neighbouring range
that is not much larger is built together with it, as long as both have no more than `LIMIT` rows: with more, the server
may not look at enough of an index to find 99 of 100 of the ten best. So a row is indexed again a few times at most,
however large the gallery grows, and all ranges but the newest have at least half of `LIMIT`.

After an index is built, drawn queries say how much of it is to be looked at (`postgres_measure`). Where nothing is
enough, the index goes, and the rows of the range are compared one by one; the newest rows behind it wait until they are
`LIMIT` before an index is tried again. A range that has lost most of its rows gives up its index: what is left waits
as new rows do. An index is built beside the others without keeping anybody from reading or writing; a build that was
killed is removed by the next one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tbps_cli.databases.postgres_measure import EF, EF_MOST, Measured, measure
from tbps_cli.databases.postgres_schema import LOCK, Connection

logger = logging.getLogger("tbps")
WAITING = 5000
"""New rows from which on they get an index; comparing so many takes about 3 ms."""
LIMIT = 100_000
"""Rows of an index at most (`WAITING` more where these would be left over)."""
WAITING_MOST = LIMIT
"""New rows above which an index is made although more are coming."""
WAIT = "10min"
"""How long building an index waits for the transactions that began before it, of a backup for example."""
TIMES = 4
M, EF_CONSTRUCTION = 16, 128
MEMORY_MOST = 1 << 30
"""Bytes of the server's memory that building may take; beyond them it is slower."""


@dataclass(frozen=True)
class Range:
    """The rows with numbers above `after` up to `upto`: what is known of their index."""

    name: str
    after: int
    upto: int
    rows: int
    ef: int | None = None
    """With how much `hnsw.ef_search` nearly all of the best are found; 0: with none, so that there is no index; None:
    it was not measured (an older tbps built it)."""

    @property
    def condition(self) -> sql.Composed:
        """Written as in the index itself, so that the planner sees that it is meant."""
        return between(self.after, self.upto)

    @property
    def searched(self) -> bool:
        """Whether its index is good enough to be asked."""
        return self.ef > 0 if self.ef is not None else self.rows < LIMIT + WAITING


def between(after: int, upto: int | None) -> sql.Composed:
    """The rows with numbers above `after`, and up to `upto` where there is one."""
    if upto is None:
        return sql.SQL("id > {}").format(after)
    return sql.SQL("id > {} AND id <= {}").format(after, upto)


def ranges(connection: Connection) -> list[Range]:
    """All ranges, by their numbers."""
    found = connection.execute("SELECT name, after, upto, rows, ef FROM hnsw ORDER BY after").fetchall()
    return [Range(*record) for record in found]


def lost(connection: Connection, schema: str, parts: Sequence[Range]) -> list[Range]:
    """Ranges whose index is not there any more, or is unusable: somebody dropped it, or failed to build it again."""
    found = connection.execute(
        "SELECT relname FROM pg_index JOIN pg_class k ON k.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = %s AND relname = ANY(%s) AND indisvalid",
        [schema, [part.name for part in parts]],
    )
    there = {str(name) for (name,) in found}
    return [part for part in parts if part.ef != 0 and part.name not in there]


def outside(parts: Sequence[Range]) -> list[tuple[int, int | None]]:
    """The numbers of rows that lie in none of these ranges (by their numbers), as (above, up to); last the newest."""
    found: list[tuple[int, int | None]] = []
    after = 0
    for part in parts:
        if part.after > after:
            found.append((after, part.after))
        after = part.upto
    return [*found, (after, None)]


def effort(parts: Sequence[Range]) -> int:
    """`hnsw.ef_search`: how many rows an index looks at, so that 99 of 100 of the ten best are found in each.

    Where it was not measured: with 200 they are in 10,000 rows (recall@10 .990), in 100,000 not: .975 with 200, .988
    with 400, .997 with 600.
    """
    supposed = (round(EF * math.sqrt(part.rows / 10_000)) if part.ef is None else part.ef for part in parts)
    return min(EF_MOST, max([EF, *supposed]))


def order(width: int, kind: str) -> sql.Composed:
    """What rows are ordered by, so that an index is used: the distance from `%(query)s` in half precision."""
    return sql.SQL("{} <#> %(query)s::halfvec({})").format(_indexed(width, kind), width)


def _indexed(width: int, kind: str) -> sql.Composable:
    return sql.SQL("vector") if kind == "halfvec" else sql.SQL("(vector::halfvec({}))").format(width)


def index_newest(connection: Connection, schema: str, title: str, width: int, kind: str) -> None:
    """Give the newest rows an index if they are many; nothing if another process is at it."""
    if connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK + 1, schema]).fetchone() != (True,):
        return
    (wait,) = connection.execute("SELECT current_setting('lock_timeout')").fetchone() or ("0",)
    connection.execute("SELECT set_config('lock_timeout', %s, false) WHERE %s <> '0'", [WAIT, wait])
    try:
        _remove_unfinished(connection, schema, {part.name for part in ranges(connection)})
        _give_up(connection, lost(connection, schema, ranges(connection)))
        _bring_up(connection, title, width, kind)
        if _wanted(connection, ranges(connection)) is None:
            return
        _give_up(connection, [part for part in ranges(connection) if _count(connection, part) * TIMES < part.rows])
        while (wanted := _wanted(connection, ranges(connection))) is not None:
            logger.info("%s: the index of %s rows is being built.", title, f"{wanted.rows:,}")
            _build(connection, wanted, width, kind)
            # without figures the planner would rather read all rows; of pages known to be whole, B-trees answer alone
            connection.execute("VACUUM (ANALYZE, INDEX_CLEANUP OFF) image")
            _try(connection, title, wanted, width, kind)
    finally:
        if not connection.closed:
            connection.execute("SELECT set_config('lock_timeout', %s, false)", [wait])
            connection.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [LOCK + 1, schema])


def _try(connection: Connection, title: str, built: Range, width: int, kind: str) -> None:
    """Measure an index that was built, and keep it if it finds enough."""
    found = measure(connection, built.condition, order(width, kind), width, kind)
    _keep(connection, built, found.ef)
    _tell(title, built, found)


def _bring_up(connection: Connection, title: str, width: int, kind: str) -> None:
    """Measure the indexes that an older tbps built; those that are too large for it are built anew, as smaller ones."""
    old = [part for part in ranges(connection) if part.ef is None]
    _give_up(connection, [part for part in old if not part.searched])
    for part in old:
        if part.searched:
            _try(connection, title, part, width, kind)


def _give_up(connection: Connection, parts: Sequence[Range]) -> None:
    """Drop indexes; their rows wait for another one."""
    if parts:
        connection.execute("DELETE FROM hnsw WHERE name = ANY(%s)", [[part.name for part in parts]])
        _drop(connection, [part.name for part in parts])


def _keep(connection: Connection, wanted: Range, ef: int) -> None:
    """Note an index in place of those that it replaces, which go; itself too where it is not to be asked (ef 0)."""
    replaced = [part.name for part in ranges(connection) if wanted.after <= part.after < wanted.upto]
    with connection.transaction():
        connection.execute("DELETE FROM hnsw WHERE name = ANY(%s)", [replaced])
        values = [wanted.name, wanted.after, wanted.upto, wanted.rows, ef]
        connection.execute("INSERT INTO hnsw (name, after, upto, rows, ef) VALUES (%s, %s, %s, %s, %s)", values)
    _drop(connection, [name for name in [*replaced, wanted.name] if name != wanted.name or not ef])


def _tell(title: str, wanted: Range, found: Measured) -> None:
    rows = f"{wanted.rows:,}"
    if found.ef:
        logger.info("%s: in %s rows the index finds %.3f of the ten best.", title, rows, found.recall)
        return
    logger.warning(
        "%s: an index finds only %.3f of the ten best of %s rows, so it was dropped: each search compares all of them,"
        " which misses none and takes %.0f ms.",
        title,
        found.recall,
        rows,
        found.exact_ms,
    )


def _count(connection: Connection, part: Range) -> int:
    """How many rows a range has now."""
    return _rows(connection, part.after, part.upto)[0]


def _rows(connection: Connection, after: int, upto: int | None) -> tuple[int, int]:
    """How many rows have such numbers, and the last of these numbers."""
    query = sql.SQL("SELECT count(*), coalesce(max(id), 0) FROM image WHERE {}").format(between(after, upto))
    found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0]), int(found[1])


def _wanted(connection: Connection, known: Sequence[Range]) -> Range | None:
    """The range that is to get an index now: rows that lie in none, the newest with neighbours not much larger."""
    for after, upto in outside(known):
        count, last = _rows(connection, after, upto)
        before = known if upto is None else ()
        in_vain = bool(before) and not before[-1].searched
        if count < (LIMIT if in_vain else WAITING):
            continue
        for part in reversed(before):
            joined = part.rows + count
            large = joined > LIMIT and part.rows > LIMIT // 2
            if not part.searched or part.rows >= TIMES * count or large:
                break
            after, count = part.after, joined
        if count >= LIMIT + WAITING:
            nth = sql.SQL("SELECT id FROM image WHERE {} ORDER BY id OFFSET {} LIMIT 1")
            cut = connection.execute(nth.format(between(after, upto), LIMIT - 1)).fetchone()
            if cut is not None:
                count, last = LIMIT, int(cut[0])
        return Range(f"hnsw_{after}_{last}", after, last, count)
    return None


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
