"""The same gallery in an index file, in PostgreSQL and in Milvus: how many of the best rows each finds, and how fast.

scripts/bench databases [--rows N] [--queries N] [--rounds N] [--engines NAME ...] [--spectrum NAME]

The servers are those of the tests: PostgreSQL 18 with pgvector, and Milvus 2.3.5 of January 2024, each started here
with an empty folder; a server that does not start is left out, with the reason. Recall@10 is against an exact search
in float64 of the vectors as they were given, under the same filter. Queries go one by one, in rounds that alternate
between the engines; the median time of a query counts. All of it runs on this machine: nothing is said of networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import _machine
from benchmarks._spectra import SPECTRA, Drawn
from numpy.typing import NDArray
from support.milvus_server import MilvusProcess, NoMilvus
from support.postgres_server import NoServer, Server

from tbps_cli.databases.base import Database
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.databases.milvus import MilvusDatabase
from tbps_cli.databases.opening import open_database
from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import Tree, render

TOP = 10
BATCH = 2000
ENGINES = ("file", "postgresql", "two postgresql", "milvus")
BEGIN = np.datetime64("2026-01-05T00:00:00")


def drawn_rows(drawn: Drawn) -> tuple[Rows, NDArray[np.float32]]:
    """Rows of cameras in the order of time, a second apart."""
    times = (BEGIN + np.arange(drawn.rows)).astype(str).tolist()
    cameras = drawn.camera_G.tolist()
    made = [
        Row(f"cam{camera}/{place:07d}.jpg", 20_000, 1, f"{place:032x}", f"c{camera}", moment, int(person))
        for place, (camera, moment, person) in enumerate(zip(cameras, times, drawn.person_G.tolist(), strict=True))
    ]
    return Rows.of(made), np.concatenate(list(drawn.blocks()))


def filters(rows: int) -> dict[str, Tree | None]:
    """What is asked: nothing, a camera in 5 % of the time, 5 % of the time, a camera, everything but a camera."""
    until = str(BEGIN + rows // 20)
    return {
        "all": None,
        "camera and 5 %": parse(f"camera == 'c3' and time < {until}").tree,
        "5 % of the time": parse(f"time < {until}").tree,
        "a camera": parse("camera == 'c3'").tree,
        "not a camera": parse("camera != 'c3'").tree,
        "in the path": parse("path like '*m3/*7.jpg'").tree,
    }


def with_vectors(server: Server) -> str:
    """The URL of a database that has the extension."""
    import psycopg

    with psycopg.connect(server.url(), autocommit=True) as database:
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return server.url()


def opened(names: Sequence[str], folder: Path, stack: ExitStack) -> dict[str, Database]:
    """Empty galleries; a server that does not start is said, and left out."""
    made: dict[str, Any] = {"create": True, "fingerprint": "benchmark", "about": {"run": "benchmark"}}
    found: dict[str, Database] = {}
    for name in names:
        try:
            if name == "milvus":
                milvus = MilvusProcess.new()
                stack.callback(milvus.remove)
                found[name] = open_database(milvus.url(), **made)
            elif name == "file":
                found[name] = LocalDatabase.open(folder / "gallery.h5", **made)
            else:
                servers = [Server.new() for _ in range(2 if name.startswith("two") else 1)]
                for server in servers:
                    stack.callback(server.remove)
                found[name] = open_database([with_vectors(server) for server in servers], **made)
            stack.callback(found[name].close)
        except (NoMilvus, NoServer) as error:
            print(f"{name} is left out: {error}")
    return found


def fill(name: str, database: Database, rows: Rows, vector_NE: NDArray[np.float32]) -> None:
    """Add everything; say how fast, and how long a graph takes afterwards."""
    begun = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        part = np.arange(start, min(len(rows), start + BATCH))
        database.add(rows.take(part), vector_NE[part])
    added = time.perf_counter()
    settled = ""
    if isinstance(database, MilvusDatabase):
        done = database.settle(900.0)
        settled = f", its graph {'ready' if done else 'not ready'} after {time.perf_counter() - added:.0f} s more"
    print(f"{name}: {len(rows) / (added - begun):,.0f} rows/s kept{settled}")


def best(
    rows: Rows, vector_NE: NDArray[np.float32], query_QE: NDArray[np.float32], where: Tree | None
) -> list[set[str]]:
    """The paths of the ten best rows of each query."""
    passing = np.arange(len(rows)) if where is None else np.flatnonzero(mask(where, columns_of(rows)))
    score_QK = query_QE.astype(np.float64) @ vector_NE[passing].T.astype(np.float64)
    place_QK = np.argpartition(-score_QK, TOP - 1, axis=1)[:, :TOP]
    return [{rows.paths[place] for place in passing[place_K]} for place_K in place_QK]


def searched(
    database: Database, query_QE: NDArray[np.float32], where: Tree | None, right: Sequence[set[str]]
) -> tuple[list[float], float]:
    """The seconds of each query, and recall@10."""
    took, hits = [], 0
    for query_E, paths in zip(query_QE, right, strict=True):
        begun = time.perf_counter()
        (found,) = database.search(query_E[None], TOP, where)
        took.append(time.perf_counter() - begun)
        hits += len(paths & set(found.rows.paths))
    return took, hits / max(1, sum(map(len, right)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--spectrum", choices=list(SPECTRA), default="base")
    options = parser.parse_args(argv)
    drawn = Drawn(SPECTRA[options.spectrum], options.rows, options.queries)
    rows, vector_NE = drawn_rows(drawn)
    machine = f"{_machine.processor()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    print(f"{options.rows:,} rows of {vector_NE.shape[1]}, {options.queries} queries, {options.spectrum}; {machine}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = opened(options.engines, Path(folder), stack)
        for name, database in engines.items():
            fill(name, database, rows, vector_NE)
        print(f"{'filter':<18}{'rows':>9}" + "".join(f"{name:>24}" for name in engines))
        for title, where in filters(options.rows).items():
            right = best(rows, vector_NE, drawn.query_QE, where)
            took: dict[str, list[float]] = {name: [] for name in engines}
            recall: dict[str, float] = {}
            for _ in range(options.rounds):
                for name, database in engines.items():
                    seconds, recall[name] = searched(database, drawn.query_QE, where, right)
                    took[name] += seconds
            count = next(iter(engines.values())).count(where)
            cells = [f"{recall[name]:.3f} at {1000 * statistics.median(took[name]):7.1f} ms" for name in engines]
            print(f"{title:<18}{count:>9,}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
        for title, where in filters(options.rows).items():
            if where is not None:
                print(f"{title}: {render(where)}")


if __name__ == "__main__":
    main()
