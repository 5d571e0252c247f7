"""Finding the best rows of a gallery: ours beside numpy, torch, faiss and usearch, in one run.

scripts/bench search [--rows N ...] [--queries N ...] [--threads N ...] [--types T ...] [--ways W ...] [--rounds N]
                     [--apart SECONDS]

Every way is exact and gives the ten best of each query; how many of the true ten it finds is counted first, and ours
has to find all, in their order. The true ten come from products in float64 with the rows as they are stored. Rounds
alternate between the ways, so that a busy machine slows all of them; the quickest round of each counts. A short way is
asked a few times in a row in its turn, since the first time it waits for rows that the other ways pushed out of the
processor's cache. Before each turn there is a pause, in which threads that the last way left waiting in a loop, as
OpenMP's do for some milliseconds, go to sleep. With --apart every question comes alone after a pause of so many
seconds, as people's do, and the median counts. A figure above 1 says how many times as long the other way took.

Rows look like embeddings: a common mean, few strong directions and many weak ones; queries lie off them, as sentences
do. Rows in half precision are a map of a file that may only be read, as galleries are, and the others take them in the
quickest way that they have: usearch as they are; torch as they are ("half", which adds in half precision) and widened
block by block; numpy widened block by block; faiss as float32 from the start, twice the memory. torch is tried with
either order of the product. usearch takes one query after the other, so beyond 64 its time is that of 64, multiplied.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import threadpoolctl  # type: ignore[import-untyped]  # comes with scikit-learn
import torch
import usearch.index
from benchmarks import _machine
from numpy.typing import NDArray

from tbps_cli.retrieval import rank

Array = NDArray[Any]
Way = Callable[[Array], Array]
TOP = 10
WIDTH = 512
BLOCK = 16384
SCORES = 1 << 26
"""Scores that numpy and torch hold at a time."""
ONE_BY_ONE = 64
SEEN, CHECKED = 64, 2.0
"""Recall is of so many queries, where they are asked one by one or a few at a time; or of those of some seconds."""
SHORT = 0.5
"""Seconds for which quick ways are tried again and again."""
IN_A_ROW, QUICK = 3, 0.02
"""How often a way is asked in its turn, if once takes less than so many seconds."""
PAUSE = 0.01
"""Seconds before a way's turn."""
NAMES = ("numpy", "torch", "torch half", "faiss", "usearch")


def rows(count: int, queries: int) -> tuple[Array, Array]:
    """(query_QE, gallery_GE), unit rows; each query lies near one row, and off all of them."""
    rng = np.random.default_rng(0)
    spread_E = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    mean_E, gap_E = rng.standard_normal((2, WIDTH), dtype=np.float32) * 0.1
    gallery = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, BLOCK):
        some = gallery[start : start + BLOCK]
        some[:] = rng.standard_normal(some.shape, dtype=np.float32) * spread_E + mean_E
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    query = gallery[rng.choice(count, queries)] + 0.5 * gap_E
    query += 0.03 * rng.standard_normal(query.shape, dtype=np.float32)
    return query / np.linalg.norm(query, axis=1, keepdims=True), gallery


def truth(query: Array, gallery: Array) -> Array:
    """The true ten of each query; of equal ones the first."""
    found = np.empty((len(query), 0), np.int64)
    for start in range(0, len(gallery), BLOCK):
        score = query @ gallery[start : start + BLOCK].astype(np.float32, copy=False).T
        best = np.argpartition(-score, 2 * TOP, axis=1)[:, : 2 * TOP] + start
        found = np.concatenate([found, best], axis=1)
    exact = np.stack([gallery[at].astype(np.float64) @ one for at, one in zip(found, query.astype(float), strict=True)])
    return np.take_along_axis(found, np.lexsort((found, -exact))[:, :TOP], axis=1)


def in_parts(way: Way, gallery: Array) -> Way:
    """A few queries at a time, so that all scores fit into memory."""
    size = max(1, SCORES // len(gallery))
    return lambda query: np.concatenate([way(query[start : start + size]) for start in range(0, len(query), size)])


def with_numpy(gallery: Array) -> Way:
    """A matrix product and argpartition, as most write it."""

    def way(query: Array) -> Array:
        parts = [query @ gallery[start : start + BLOCK].astype(np.float32, copy=False).T for start in starts(gallery)]
        score = np.concatenate(parts, axis=1)
        best = np.argpartition(-score, TOP, axis=1)[:, :TOP]
        order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return in_parts(way, gallery)


def starts(gallery: Any) -> range:
    return range(0, len(gallery), BLOCK)


def with_torch(gallery: Array, *, turned: bool, half: bool) -> Way:
    """A matrix product in either order, and topk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to; nobody does
        tensor = torch.from_numpy(np.asarray(gallery))

    def product(query: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        block = block.to(query.dtype)
        return torch.mm(block, query.T).T if turned else query @ block.T

    def way(query: Array) -> Array:
        mine = torch.from_numpy(query.astype(np.float16) if half else query)
        if half or tensor.dtype == torch.float32:
            return product(mine, tensor).topk(TOP).indices.numpy()
        parts = [product(mine, tensor[start : start + BLOCK]) for start in starts(tensor)]
        return torch.cat(parts, 1).topk(TOP).indices.numpy()

    return in_parts(way, gallery)


def with_faiss(gallery: Array) -> Way:
    index = faiss.IndexFlatIP(WIDTH)
    for start in starts(gallery):
        index.add(gallery[start : start + BLOCK].astype(np.float32))
    return lambda query: index.search(query, TOP)[1]


def with_usearch(gallery: Array, threads: int) -> Way:
    kind = usearch.index.MetricKind.IP

    def way(query: Array) -> Array:
        same_type = query.astype(gallery.dtype)
        found = usearch.index.search(gallery, same_type, TOP, kind, exact=True, threads=threads)
        return found.keys.reshape(len(query), TOP)

    return way


def ways(gallery: Array, threads: int, chosen: Sequence[str]) -> dict[str, list[Way]]:
    """Every way, ready to be called; the quickest of a list counts."""
    orders = (False, True)
    every = {
        "ours": [lambda query: rank.topk(query, gallery, TOP)[1]],
        "numpy": [with_numpy(gallery)],
        "torch": [with_torch(gallery, turned=turned, half=False) for turned in orders],
        "torch half": [with_torch(gallery, turned=turned, half=True) for turned in orders],
        "faiss": [with_faiss(gallery)],
        "usearch": [with_usearch(gallery, threads)],
    }
    if gallery.dtype != np.float16:
        del every["torch half"]
    return {name: some for name, some in every.items() if name in ("ours", *chosen)}


def recall(found: Array, right: Array) -> float:
    """Share of the true ten that was found, of the first queries."""
    return float(np.mean([len(set(mine) & set(true)) / TOP for mine, true in zip(found, right, strict=False)]))


def found_by(way: Way, query: Array, together: int, right: Array) -> float:
    """Recall of a way that is asked so many queries at a time, as many as it answers in some seconds (`CHECKED`)."""
    found, until = [way(query[:together])], time.perf_counter() + CHECKED
    for start in range(together, len(query) - together + 1, together):
        if time.perf_counter() > until:
            break
        found.append(way(query[start : start + together]))
    return recall(np.concatenate(found), right)


def timed(way: Way, query: Array, clock: Callable[[], float], apart: float | None) -> float:
    """Seconds; of the quickest of a few calls in a row, where they are short and not to be apart."""
    quickest = np.inf
    time.sleep(PAUSE if apart is None else apart)
    for _ in range(IN_A_ROW if apart is None else 1):
        start = clock()
        way(query)
        quickest = min(quickest, clock() - start)
        if quickest > QUICK:
            break
    return quickest


def compare(
    query: Array,
    queries: int,
    gallery: Array,
    threads: int,
    rounds: int,
    clock: Callable[[], float],
    chosen: Sequence[str] = NAMES,
    apart: float | None = None,
) -> dict[str, tuple[float, float]]:
    """Way -> (milliseconds of its quickest round, or with `apart` of the median one; recall of the ten best).

    So many queries are asked at a time; recall is of more than these, where they are few.
    """
    every = ways(gallery, threads, chosen)
    right = truth(query, gallery)
    asked = {name: min(queries, ONE_BY_ONE) if name == "usearch" else queries for name in every}
    if any(
        (rank.topk(query[start : start + queries], gallery, TOP)[1] != right[start : start + queries]).any()
        for start in range(0, len(query), queries)
    ):
        raise SystemExit("ours did not find the ten best in their order")
    recalls = {name: min(found_by(way, query, asked[name], right) for way in every[name]) for name in every}
    taken: dict[str, list[list[float]]] = {name: [[] for _ in some] for name, some in every.items()}
    began, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - began < SHORT:
        for name, some in every.items():
            for number, way in enumerate(some):
                took = timed(way, query[: asked[name]], clock, apart) * queries / asked[name]
                taken[name][number].append(took)
        done += 1
    counts = min if apart is None else statistics.median
    return {name: (1000 * min(counts(times) for times in some), recalls[name]) for name, some in taken.items()}


def stored(gallery: Array, dtype: str, folder: Path) -> Array:
    """The rows in this type, not to be written to; half precision as a map of a file."""
    if dtype == "float32":
        gallery.flags.writeable = False
        return gallery
    np.save(folder / "rows.npy", gallery.astype(dtype))
    return np.load(folder / "rows.npy", mmap_mode="r")


def line(count: int, dtype: str, queries: int, threads: int, found: dict[str, tuple[float, float]]) -> str:
    ours = found["ours"][0]
    cells = [f"{found[name][0] / ours:.2f}" if name in found else "" for name in NAMES]
    marks = ["*" if name in found and found[name][1] < 1 else " " for name in NAMES]
    figures = "".join(f"{cell:>11}{mark}" for cell, mark in zip(cells, marks, strict=True))
    return f"{count:>9,} {dtype:<8}{queries:>8}{threads:>8}{ours:>10.2f}{figures}"


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """So many threads for every library inside, and as many as before afterwards."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        with threadpoolctl.threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 100_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 8, 64, 1000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--types", nargs="+", choices=["float32", "float16"], default=["float32", "float16"])
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=NAMES, help="which to compare with; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", type=float, metavar="SECONDS", help="pause before every question; the median counts")
    parser.add_argument(
        "--processor", action="store_true", help="count processor time: for one thread, when others run"
    )
    options = parser.parse_args(argv)
    clock = time.process_time if options.processor else time.perf_counter
    print(_machine.line())
    print(f"{'rows':>9} {'type':<8}{'queries':>8}{'threads':>8}{'ours ms':>10}" + "".join(f"{n:>11} " for n in NAMES))
    for count in options.rows:
        query, gallery = rows(count, max(*options.queries, SEEN))
        for dtype in options.types:
            with tempfile.TemporaryDirectory() as folder:
                same = stored(gallery, dtype, Path(folder))
                for threads in options.threads:
                    os.environ["OMP_NUM_THREADS"] = str(threads)  # ours reads it at each call
                    with computing(threads):
                        for queries in options.queries:
                            some = query[: max(queries, SEEN)]
                            found = compare(
                                some, queries, same, threads, options.rounds, clock, options.ways, options.apart
                            )
                            print(line(count, dtype, queries, threads, found), flush=True)
                del same
    print("other ways: times as long as ours; * = did not find all of the ten best")


if __name__ == "__main__":
    main()
