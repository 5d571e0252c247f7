"""Finding the best rows of a gallery: ours beside numpy, torch, faiss and usearch, in one run.

scripts/bench search [--rows N ...] [--queries N ...] [--threads N] [--rounds N]

Every way is exact and gives the ten best of each query; that all name the same rows is checked first. Rounds
alternate between the ways, so that a busy machine slows all of them; the median round counts. A figure above 1
says how many times as long the other way took. usearch alone reads half precision as it is: the others get it as
a user of theirs would hand it over, numpy and torch widened block by block, faiss as float32 from the start.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import torch
import usearch.index
from benchmarks import _machine
from numpy.typing import NDArray

from tbps_cli.retrieval import rank

Array = NDArray[Any]
Way = Callable[[], Array]
TOP = 10
WIDTH = 512
BLOCK = 16384


def rows(count: int, queries: int) -> tuple[Array, Array]:
    """(query_QE, gallery_GE), unit rows; each query lies near one row."""
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((count, WIDTH), dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    query = gallery[:queries] + 0.03 * rng.standard_normal((queries, WIDTH), dtype=np.float32)
    return query / np.linalg.norm(query, axis=1, keepdims=True), gallery


def with_numpy(query: Array, gallery: Array) -> Array:
    """A matrix product and argpartition, as most write it."""
    score = np.concatenate([query @ _wide(gallery, start).T for start in range(0, len(gallery), BLOCK)], axis=1)
    best = np.argpartition(-score, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def _wide(gallery: Array, start: int) -> Array:
    return gallery[start : start + BLOCK].astype(np.float32, copy=False)


def with_torch(query: torch.Tensor, gallery: torch.Tensor) -> Array:
    """A matrix product and topk."""
    blocks = (gallery[start : start + BLOCK] for start in range(0, len(gallery), BLOCK))
    return torch.cat([query @ block.to(query.dtype).T for block in blocks], 1).topk(TOP).indices.numpy()


def ways(query: Array, gallery: Array, threads: int) -> dict[str, Way]:
    """Every way, ready to be called."""
    index = faiss.IndexFlatIP(WIDTH)
    index.add(gallery.astype(np.float32, copy=False))
    as_tensors = torch.from_numpy(query), torch.from_numpy(gallery)
    kind, same_type = usearch.index.MetricKind.IP, query.astype(gallery.dtype)
    return {
        "ours": lambda: rank.topk(query, gallery, TOP)[1],
        "numpy": lambda: with_numpy(query, gallery),
        "torch": lambda: with_torch(*as_tensors),
        "faiss": lambda: index.search(query, TOP)[1],
        "usearch": lambda: usearch.index.search(
            gallery, same_type, TOP, kind, exact=True, threads=threads
        ).keys.reshape(len(query), TOP),
    }


def recall(found: Array, truth: Array) -> float:
    """Share of the truth that was found."""
    return float(np.mean([len(set(mine) & set(right)) / TOP for mine, right in zip(found, truth, strict=True)]))


def compare(query: Array, gallery: Array, threads: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Way -> (median milliseconds, recall of the ten best)."""
    every = ways(query, gallery, threads)
    exact = query.astype(np.float64) @ gallery.astype(np.float64).T
    truth = np.argsort(-exact, axis=1)[:, :TOP]
    recalls = {name: recall(way(), truth) for name, way in every.items()}
    if recalls["ours"] < 1:
        raise SystemExit(f"ours found {recalls['ours']:.4f} of the ten best")
    taken: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds):
        for name, way in every.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: (1000 * statistics.median(times), recalls[name]) for name, times in taken.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 100_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # ours reads it at each call
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    print(_machine.line())
    names = ["ours", "numpy", "torch", "faiss", "usearch"]
    print(f"{'rows':>9} {'type':<8}{'queries':>8}{'ours ms':>10}" + "".join(f"{name:>10}" for name in names[1:]))
    for count in options.rows:
        for dtype in (np.float32, np.float16):
            for queries in options.queries:
                query, gallery = rows(count, queries)
                found = compare(query, gallery.astype(dtype), options.threads, options.rounds)
                ours = found["ours"][0]
                ratios = "".join(
                    f"{found[name][0] / ours:>9.2f}{' ' if found[name][1] == 1 else '*'}" for name in names[1:]
                )
                print(f"{count:>9,} {np.dtype(dtype).name:<8}{queries:>8}{ours:>10.2f}{ratios}")
    print("other ways: times as long as ours; * = did not find all of the ten best")


if __name__ == "__main__":
    main()
