"""What PostgreSQL is asked for the best rows of a query, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from tbps_cli.databases import postgres_index as hnsw
from tbps_cli.databases import postgres_rows
from tbps_cli.databases.base import Matches
from tbps_cli.databases.postgres_filter import Condition
from tbps_cli.databases.postgres_rows import Record

RERANKED = 50
"""Rows at least that are ranked again by the exact product."""
READ = sql.SQL(", ").join(sql.SQL(name) for name in postgres_rows.READ)


@dataclass(frozen=True)
class Shape:
    """Of the vectors: how many numbers, and whether `halfvec` or `vector`."""

    width: int
    kind: str

    @property
    def type(self) -> sql.Composed:
        return sql.SQL("{}({})").format(sql.SQL("halfvec" if self.kind == "halfvec" else "vector"), self.width)


_EXACTLY = sql.SQL("vector::vector <#> %(query)s")
"""The exact order; no index has this expression, so that it is never approximated."""


def every(k: int, condition: Condition) -> str:
    """The best of all rows that pass."""
    passing = sql.SQL("SELECT id, path, vector FROM image WHERE {}").format(condition.sql)
    return _whole(passing, k)


def nearest(ranges: Sequence[hnsw.Range], shape: Shape, k: int, condition: Condition) -> str:
    """The nearest of every range by its index and of the newest rows, all ranked again by the exact product."""
    reach = max(RERANKED, 4 * k)
    one = sql.SQL("(SELECT id, path, vector FROM image WHERE {} AND {} ORDER BY {} LIMIT {})")
    near = hnsw.order(shape.width, shape.kind)
    parts = [one.format(part.condition, condition.sql, near, reach) for part in ranges]
    newest = sql.SQL("id > {}").format(ranges[-1].upto)
    parts.append(one.format(newest, condition.sql, _EXACTLY, reach))
    return _whole(sql.SQL(" UNION ALL ").join(parts), k)


def _whole(found: sql.Composed, k: int) -> str:
    """Whole rows of the best of what was found: to carry all columns of what is looked at costs a third of the time."""
    best = sql.SQL("SELECT id FROM ({}) found ORDER BY {}, path LIMIT {}").format(found, _EXACTLY, k)
    whole = sql.SQL("SELECT {} FROM image WHERE id = ANY(ARRAY({})) ORDER BY {}, path")
    return whole.format(READ, best, _EXACTLY).as_string()


def matches(records: Sequence[Record], query_E: NDArray[np.float32], shape: Shape) -> Matches:
    """The rows of records, ranked by the exact product with their vectors."""
    rows, found = postgres_rows.read(records)
    vector_KE = postgres_rows.vectors(found, shape.width, shape.kind)
    score_K = vector_KE.astype(np.float32) @ query_E.astype(np.float32)
    order = np.argsort(-score_K, kind="stable")
    return Matches(rows.take(order), score_K[order], vector_KE[order])
