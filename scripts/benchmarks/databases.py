"""The same gallery in an index file, in PostgreSQL and in Milvus: how many of the best rows each finds, and how fast.

scripts/bench databases [--rows N] [--queries N] [--rounds N] [--engines NAME ...] [--filters NAME ...]
                        [--spectrum NAME]

The servers are those of the tests: PostgreSQL 18 with pgvector, and Milvus 2.3.5 of January 2024, each started here
with an empty folder; a server that does not start is left out, with the reason. Beside ours stands on the same servers
what a programmer writes with psycopg and with pymilvus alone (`_plain_databases`), with the same settings of the
graph. Vectors are given in half precision, as galleries hold them, and searched when the graphs are there. Recall@10 is
against an exact search in float64 of the vectors as they were given, under the same filter. Queries go one by one, in
rounds that alternate between the engines; of each query the quickest round counts, and of all queries the median. All
of it runs on this machine: nothing is said of networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from benchmarks import _machine
from benchmarks._plain_databases import Plain, PlainMilvus, PlainPostgres
from benchmarks._spectra import SPECTRA, Drawn
from numpy.typing import NDArray
from support.milvus_server import MilvusProcess, NoMilvus
from support.postgres_server import NoServer, Server

from tbps_cli.databases.base import Database
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.databases.opening import open_database
from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import Tree, render

TOP = 10
BATCH = 2000
ENGINES = (
    "file",
    "postgresql",
    "plain psycopg",
    "two postgresql",
    "milvus",
    "milvus, bounded",
    "plain pymilvus",
)
SETTINGS = "shared_buffers = 1GB\nmaintenance_work_mem = 512MB\n"
Engine: TypeAlias = Database | Plain
BEGIN = np.datetime64("2026-01-05T00:00:00")


def drawn_rows(drawn: Drawn) -> tuple[Rows, NDArray[np.float16]]:
    """Rows of cameras in the order of time, a second apart."""
    times = (BEGIN + np.arange(drawn.rows)).astype(str).tolist()
    cameras = drawn.camera_G.tolist()
    made = [
        Row(f"cam{camera}/{place:07d}.jpg", 20_000, 1, f"{place:032x}", f"c{camera}", moment, int(person))
        for place, (camera, moment, person) in enumerate(zip(cameras, times, drawn.person_G.tolist(), strict=True))
    ]
    return Rows.of(made), np.concatenate([part.astype(np.float16) for part in drawn.blocks()])


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


class Servers:
    """The servers that are asked for, each started when it is needed first."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self._postgres: list[Server] = []
        self._milvus: MilvusProcess | None = None

    def postgres(self, count: int = 1) -> list[str]:
        """The URLs of so many servers."""
        while len(self._postgres) < count:
            self._postgres.append(Server.new(settings=SETTINGS))
            self.stack.callback(self._postgres[-1].remove)
        return [with_vectors(server) for server in self._postgres[:count]]

    def milvus(self) -> str:
        """The URL of the server, without a collection."""
        if self._milvus is None:
            self._milvus = MilvusProcess.new()
            self.stack.callback(self._milvus.remove)
        return f"milvus://127.0.0.1:{self._milvus.port}"


def urls(names: Sequence[str], servers: Servers, folder: Path) -> dict[str, list[str]]:
    """Where each gallery lies; a server that does not start is said, and left out."""
    places: dict[str, Callable[[], list[str]]] = {
        "file": lambda: [str(folder / "gallery.h5")],
        "postgresql": servers.postgres,
        "plain psycopg": servers.postgres,
        "two postgresql": lambda: [f"{url}?gallery=shard" for url in servers.postgres(2)],
        "milvus": lambda: [f"{servers.milvus()}/people"],
        "milvus, bounded": lambda: [f"{servers.milvus()}/people?consistency=bounded"],
        "plain pymilvus": lambda: [f"{servers.milvus()}/plain"],
    }
    found = {}
    for name in names:
        try:
            found[name] = places[name]()
        except (NoMilvus, NoServer) as error:
            print(f"{name} is left out: {error}")
    return found


def opened(name: str, places: Sequence[str], *, create: bool) -> Engine:
    """A gallery, ours or a plain one."""
    if name == "plain psycopg":
        return PlainPostgres(places[0], create=create)
    if name == "plain pymilvus":
        return PlainMilvus(places[0], create=create)
    made: dict[str, Any] = {"create": True, "fingerprint": "benchmark", "about": {"run": "benchmark"}} if create else {}
    return LocalDatabase.open(Path(places[0]), **made) if name == "file" else open_database(places, **made)


def fill(name: str, engine: Engine, rows: Rows, vector_NE: NDArray[np.float16]) -> None:
    """Add everything; say how fast, and how long a graph takes afterwards."""
    begun = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        part = np.arange(start, min(len(rows), start + BATCH))
        engine.add(rows.take(part), vector_NE[part])
    added = time.perf_counter()
    done = engine.settle()
    ready = f"the graph {'ready' if done else 'not ready'} after {time.perf_counter() - added:.0f} s more"
    print(f"{name}: {len(rows) / (added - begun):,.0f} rows/s kept, {ready}", flush=True)


def best(
    rows: Rows, vector_NE: NDArray[np.float16], query_QE: NDArray[np.float32], where: Tree | None
) -> list[set[str]]:
    """The paths of the ten best rows of each query."""
    passing = np.arange(len(rows)) if where is None else np.flatnonzero(mask(where, columns_of(rows)))
    score_QK = query_QE.astype(np.float64) @ vector_NE[passing].T.astype(np.float64)
    place_QK = np.argsort(-score_QK, axis=1, kind="stable")[:, :TOP]
    return [{rows.paths[place] for place in passing[place_K]} for place_K in place_QK]


def searched(
    engine: Engine, query_QE: NDArray[np.float32], title: str, where: Tree | None, right: Sequence[set[str]]
) -> tuple[list[float], float]:
    """The seconds of each query, and recall@10; nothing where an engine cannot be asked that."""
    if isinstance(engine, Plain) and not engine.can(title):
        return [], 0.0
    took, hits = [], 0
    for query_E, paths in zip(query_QE, right, strict=True):
        begun = time.perf_counter()
        if isinstance(engine, Plain):
            found = engine.best(query_E, TOP, title, len(engine))
        else:
            found = engine.search(query_E[None], TOP, where)[0].rows.paths
        took.append(time.perf_counter() - begun)
        hits += len(paths & set(found))
    return took, hits / max(1, sum(map(len, right)))


def measure(
    engines: dict[str, Engine],
    rows: Rows,
    vector_NE: NDArray[np.float16],
    query_QE: NDArray[np.float32],
    rounds: int,
    asked: Sequence[str],
) -> None:
    """Ask all of them the same, and print a line for each of these filters."""
    print(f"{'filter':<16}{'rows':>8}" + "".join(f"{name:>20}" for name in engines))
    for title, where in filters(len(rows)).items():
        if title not in asked:
            continue
        right = best(rows, vector_NE, query_QE, where)
        took: dict[str, list[list[float]]] = {name: [] for name in engines}
        recall: dict[str, float] = {}
        for _ in range(rounds):
            for name, engine in engines.items():
                seconds, recall[name] = searched(engine, query_QE, title, where, right)
                took[name].append(seconds)
        count = len(rows) if where is None else int(mask(where, columns_of(rows)).sum())
        print(f"{title:<16}{count:>8,}" + "".join(_cell(recall[name], took[name]) for name in engines), flush=True)


def _cell(recall: float, took: Sequence[Sequence[float]]) -> str:
    """Recall, and the median of the quickest time of each query."""
    if not took[0]:
        return f"{'-':>20}"
    quickest = [min(times) for times in zip(*took, strict=True)]
    return f"{f'{recall:.3f} {1000 * statistics.median(quickest):8.2f} ms':>20}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--filters", nargs="+", choices=list(filters(20)), default=list(filters(20)))
    parser.add_argument("--spectrum", choices=list(SPECTRA), default="base")
    options = parser.parse_args(argv)
    drawn = Drawn(SPECTRA[options.spectrum], options.rows, options.queries)
    rows, vector_NE = drawn_rows(drawn)
    machine = f"{_machine.processor()}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    print(f"{options.rows:,} rows of {vector_NE.shape[1]}, {options.queries} queries, {options.spectrum}; {machine}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, places in urls(options.engines, Servers(stack), Path(folder)).items():
            bounded = name == "milvus, bounded" and "milvus" in engines  # the same collection
            engines[name] = opened(name, places, create=not bounded)
            stack.callback(engines[name].close)
            if not bounded:
                fill(name, engines[name], rows, vector_NE)
        measure(engines, rows, vector_NE, drawn.query_QE, options.rounds, options.filters)
        for title, where in filters(options.rows).items():
            if where is not None:
                print(f"{title}: {render(where)}")


if __name__ == "__main__":
    main()
