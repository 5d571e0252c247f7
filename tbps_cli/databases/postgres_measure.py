"""How much of an HNSW index in PostgreSQL has to be looked at: measured with drawn queries when it has been built.

How well a graph finds the nearest rows depends on the embeddings: where they vary in few directions, looking at a few
hundred rows finds nearly all of the ten best of 100,000; where they vary in all directions alike, 1,000 rows, which is
all that pgvector takes, find .83 of them. Neither the number of rows nor the spectrum says which; asking does.

Rows are too easy as queries: one is its own nearest row, and the best of the others are its neighbours in the graph. A
sentence lies elsewhere, and says of a person only what it says of many. So a drawn query is a row plus a mixture of
many rows that is 1.7 times as long, both counted from the mean: its cosine with the row is about .5 within the
directions in which rows vary. (Whatever of a sentence lies in other directions changes no order. In CLIP that is most
of it, which is why the best image has a cosine of only .2 to .35 with a sentence.) Recall of such queries was near that
of queries which are drawn as sentences lie (`scripts/benchmarks/_spectra.py`): .872 and .832 in 100,000 rows of the
spectrum "flat", .993 and .988 in as many of "base". Sums of two rows found .998 and .993: they would not have told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from tbps_cli.databases import postgres_rows
from tbps_cli.databases.postgres_schema import Connection

EF, EF_MOST = 200, 1000
"""What `hnsw.ef_search` is at least, and what the server takes. Its own 40 loses 13 points of R@1 on sentences."""
STEPS = (EF, 280, 400, 560, 800, EF_MOST)
"""What is tried, one after the other: each step halves what is missed, about."""
ENOUGH, LEAST = 0.995, 0.99
"""Recall@10 of drawn queries: a step is enough where so many of 1,000 are found that hardly ever fewer than .99 are
found of others; of the last step, which nothing follows, it is the second figure."""
QUERIES, TOP = 100, 10
REACH = 50
"""Rows that an index is asked for, as a search does at least."""
DRAWN = 1024
MIXED = 1.7
SEED = 20


@dataclass(frozen=True)
class Measured:
    """What was measured: `hnsw.ef_search` that finds enough (0: none), recall@10 with it or with the most."""

    ef: int
    recall: float
    exact_ms: float
    """Milliseconds in which all rows of the range are compared."""


def measure(connection: Connection, rows: sql.Composed, order: sql.Composed, width: int, kind: str) -> Measured:
    """Ask the index of a range (a condition) drawn queries, in an order (`%(query)s`), and say what they need."""
    drawn = sql.SQL("SELECT vector FROM image WHERE {} ORDER BY hashint8(id), id LIMIT {}").format(rows, DRAWN)
    kept = [vector for (vector,) in connection.execute(drawn, binary=True)]
    if not kept:
        return Measured(EF, 1.0, 0.0)
    query_QE = queries(postgres_rows.vectors(kept, width, kind).astype(np.float32))
    best = sql.SQL("SELECT max(off) FROM (SELECT ({0}) + 0 AS off FROM image WHERE {1} ORDER BY off LIMIT {2}) best")
    exactly = best.format(order, rows, TOP)
    last_Q, took_Q = [], []
    for query_E in query_QE:
        begun = time.perf_counter()
        last_Q.append(_one(connection, exactly, query_E))
        took_Q.append(1000 * (time.perf_counter() - begun))
    near = sql.SQL("SELECT {0} AS off FROM image WHERE {1} ORDER BY {0} LIMIT {2}").format(order, rows, REACH)
    asked = sql.SQL("SELECT count(*) FROM ({}) near WHERE off <= %(last)s").format(near)
    ef, share = 0, 0.0
    with connection.transaction():
        connection.execute("SET LOCAL enable_sort = off")  # so that the index answers
        for step in STEPS:
            connection.execute(f"SET LOCAL hnsw.ef_search = {step}".encode())
            share = _share(connection, asked, query_QE, last_Q, stop=step < EF_MOST)
            if share >= (ENOUGH if step < EF_MOST else LEAST):
                ef = step
                break
    return Measured(ef, share, median(took_Q))


def queries(row_NE: NDArray[np.float32], count: int = QUERIES) -> NDArray[np.float32]:
    """Drawn queries, [count or N, E], of rows that were drawn from a gallery: each a row plus a mixture of all."""
    rng = np.random.default_rng(SEED)
    off_NE = row_NE - row_NE.mean(0)
    count = min(count, len(row_NE))
    mixed_QE = rng.standard_normal((count, len(row_NE)), np.float32) @ off_NE
    return _unit(_unit(off_NE[rng.permutation(len(row_NE))[:count]]) + MIXED * _unit(mixed_QE))


def _share(
    connection: Connection, asked: sql.Composed, query_QE: NDArray[np.float32], last_Q: list[Any], *, stop: bool
) -> float:
    """The share of the ten best that are found; with `stop`, 0 as soon as it cannot be enough."""
    missed = 0
    for query_E, last in zip(query_QE, last_Q, strict=True):
        missed += TOP - min(TOP, _one(connection, asked, query_E, last=last))
        if stop and missed > (1 - ENOUGH) * TOP * len(query_QE):
            return 0.0
    return 1 - missed / (TOP * len(query_QE))


def _one(connection: Connection, query: sql.Composed, query_E: NDArray[np.float32], **values: Any) -> Any:
    found = connection.execute(query, {"query": Vector(query_E), **values}, binary=True).fetchone()
    assert found is not None
    return found[0]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found
