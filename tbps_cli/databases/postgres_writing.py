"""Rows go into PostgreSQL: all of a call or none, in one block of the binary form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from tbps_cli.databases import postgres_rows
from tbps_cli.databases.postgres_rows import KINDS, sent
from tbps_cli.databases.postgres_schema import Connection
from tbps_cli.databases.texts import kept
from tbps_cli.features.rows import Rows

Cursor = psycopg.Cursor[tuple[Any, ...]]
SENT = 500
"""Rows that are made and sent at a time: the server writes them while the next are made."""
COPIED = sql.SQL(", ").join(map(sql.Identifier, (*KINDS, "vector")))


def insert(connection: Connection, rows: Rows, vector_NE: NDArray[Any], kind: str, fields: set[str]) -> None:
    """All of these rows or none. fields: those that are written down besides as having values."""
    with connection.transaction(), connection.cursor(binary=True) as cursor:
        copied = False
        if not _any_there(cursor, [kept(path) for path in rows.paths]):
            numbers = cursor.execute(
                "SELECT array_agg(nextval('image_id')) FROM generate_series(1, %s)", [len(rows)]
            ).fetchone()
            assert numbers is not None
            try:
                with connection.transaction():
                    _copy(cursor, "image", rows, np.array(numbers[0]), vector_NE, kind)
                copied = True
            except psycopg.errors.UniqueViolation:  # another writer has added some of them meanwhile
                pass
        if not copied:
            _replace(cursor, rows, vector_NE, kind)
        if fields:
            cursor.execute("INSERT INTO known SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [sorted(fields)])


def _replace(cursor: Cursor, rows: Rows, vector_NE: NDArray[Any], kind: str) -> None:
    """Add rows of which some are there: these get a new number, and so are among the newest again."""
    cursor.execute("CREATE TEMP TABLE IF NOT EXISTS tbps_new (LIKE image) ON COMMIT DELETE ROWS")
    cursor.execute("ALTER TABLE tbps_new ALTER COLUMN id DROP NOT NULL")
    _copy(cursor, "tbps_new", rows, None, vector_NE, kind)
    changed = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in ("id", *KINDS, "vector")
    )
    cursor.execute(
        sql.SQL(
            "INSERT INTO image (id, {0}) SELECT nextval('image_id'), {0} FROM tbps_new ORDER BY path"
            " ON CONFLICT (path) DO UPDATE SET {1}"
        ).format(COPIED, changed)
    )


def _any_there(cursor: Cursor, paths: Sequence[str]) -> bool:
    """Whether any of these paths is known; where none lies between the first and the last, none is looked up."""
    between = "SELECT 1 FROM image WHERE path BETWEEN %s AND %s LIMIT 1"
    if not cursor.execute(between, [min(paths, key=str.encode), max(paths, key=str.encode)]).fetchall():
        return False
    return bool(cursor.execute("SELECT 1 FROM image WHERE path = ANY(%s) LIMIT 1", [paths]).fetchall())


def _copy(
    cursor: Cursor, table: str, rows: Rows, number_N: NDArray[np.int64] | None, vector_NE: NDArray[Any], kind: str
) -> None:
    """Write rows in the binary form, with their numbers where they have some."""
    asked = sql.SQL("COPY {} (id, {}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), COPIED)
    with cursor.copy(asked) as copy:
        copy.write(postgres_rows.HEADER)
        for start in range(0, len(rows), SENT):
            some = slice(start, start + SENT)
            copy.write(sent(rows[some], None if number_N is None else number_N[some], vector_NE[some], kind))
        copy.write(postgres_rows.END)
