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
    def halves(self) -> bool:
        return self.kind == "halfvec"

    @property
    def type(self) -> sql.Composed:
        return sql.SQL("{}({})").format(sql.SQL("halfvec" if self.halves else "vector"), self.width)


_EXACTLY = sql.SQL("vector::vector <#> %(query)s")
"""The exact order; no index has this expression, so that it is never approximated."""


def every(k: int, condition: Condition) -> str:
    """The best of all rows that pass, each compared exactly."""
    passing = sql.SQL("SELECT id, path, vector FROM image WHERE {}").format(condition.sql)
    return _whole(passing, k)


def every_half(k: int, shape: Shape, condition: Condition) -> str:
    """The best of all rows that pass by products in half precision, ranked again by the exact one.

    A product of two halves takes half the time of one for which the stored vector is widened. Behind the columns of a
    row come the product of the last that was ranked again, with its sign changed, and how many these were: from them
    `proven` says whether others might have been among the best.
    """
    return (
        sql.SQL(
            "WITH near AS MATERIALIZED (SELECT id, {rough} AS off FROM image WHERE {where} ORDER BY off LIMIT {reach})"
            " SELECT {read}, (SELECT max(off) FROM near), (SELECT count(*) FROM near) FROM image"
            " WHERE id = ANY(ARRAY(SELECT id FROM near)) ORDER BY {exactly}, path LIMIT {k}"
        )
        .format(rough=_rough(shape), where=condition.sql, reach=_reach(k), read=READ, exactly=_EXACTLY, k=k)
        .as_string()
    )


def proven(records: Sequence[Record], found: Matches, query_E: NDArray[np.float32], k: int) -> bool:
    """Whether what `every_half` gave are the best of all rows, whatever rounding has done."""
    if not records:
        return True
    last, count = records[0][-2:]
    if count < _reach(k):
        return True
    rounded_E = query_E.astype(np.float16).astype(np.float64)
    length = float(np.linalg.norm(query_E.astype(np.float64)))
    sums = 4 * len(query_E) * float(np.finfo(np.float32).eps) * length  # in whatever order two products were added up
    error = (
        1.01 * float(np.linalg.norm(query_E - rounded_E)) + sums
    )  # of unit vectors, which halves make a little longer
    return len(found.score_K) == k and float(found.score_K[-1]) - error > -float(last)


def nearest(ranges: Sequence[hnsw.Range], shape: Shape, k: int, condition: Condition) -> str:
    """The nearest of every range by its index and of all other rows, all ranked again by the exact product."""
    reach = _reach(k)
    one = sql.SQL("(SELECT id, path, vector FROM image WHERE {} AND {} ORDER BY {} LIMIT {})")
    asked = [part for part in ranges if part.searched]
    near = hnsw.order(shape.width, shape.kind)
    parts = [one.format(part.condition, condition.sql, near, reach) for part in asked]
    each = _rough(shape) if shape.halves else _EXACTLY
    parts += [one.format(hnsw.between(after, upto), condition.sql, each, reach) for after, upto in hnsw.outside(asked)]
    return _whole(sql.SQL(" UNION ALL ").join(parts), k)


def _rough(shape: Shape) -> sql.Composed:
    """The order by products in half precision, as no index has it."""
    return sql.SQL("({}) + 0").format(hnsw.order(shape.width, shape.kind))


def _reach(k: int) -> int:
    """How many rows are ranked again."""
    return max(RERANKED, 4 * k)


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
