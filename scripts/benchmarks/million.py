"""Searching a gallery of a million images: our codes and our exact scan beside torch and usearch, in one run.

scripts/bench million [--rows N ...] [--spectra NAME ...] [--queries N] [--rounds N] [--threads N] [--together N]

Galleries are drawn (`_spectra`: steep, base and flat; 50,000 persons in twenty rows each at a million) and lie in an
index file in half precision, as `tbps index` makes it, in a temporary folder. torch has float32 in memory: a product
and topk. usearch searches exactly, in half precision and in 8 bits. Rounds alternate between the ways, one query each;
that of the least time counts, since others may use the machine too. The ratio is to torch. Truth is the float32 scores
before rows were rounded to half precision, so an exact scan misses some as well; R@1 is how often the first hit shows
the person who was meant. What a search adds to its best rows is timed too: where their scores stand among a sample of
the gallery, and the set that holds the person with a given probability (`--sure`).
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import usearch.index
from benchmarks import _machine
from benchmarks._spectra import SPECTRA, WIDTH, Drawn
from numpy.typing import NDArray

from tbps_cli.features.parts import codes_folder
from tbps_cli.features.rows import Row, Rows
from tbps_cli.features.store import FeatureFile
from tbps_cli.retrieval import rank
from tbps_cli.searching import coding, gallery
from tbps_cli.searching.gallery import Gallery, IndexFile, Roots
from tbps_cli.searching.sure import surely
from tbps_cli.trust.fitting import Labelled, fit
from tbps_cli.trust.judge import Judge

Places = NDArray[np.int64]
Way = Callable[[NDArray[np.float32]], Any]
"""A query, [1, E] -> the places of its best rows, [1, TOP]."""
TOP = 10
CALIBRATED = 4000
"""Images of the split that `--sure` is calibrated on; a query for every fourth."""


class Took(NamedTuple):
    """Of one query, in milliseconds."""

    clock: float
    median: float
    processor: float
    found_QK: Places


def columns(drawn: Drawn, part: slice) -> Rows:
    """What an index says of rows."""
    place = np.arange(part.start, part.stop)
    texts = {
        "path": np.char.add(np.char.mod("%08d", place), ".jpg").astype("S12"),
        "content": np.char.mod("%032x", place).astype("S32"),
        "camera": np.char.add("c", drawn.camera_G[part].astype(str)).astype("S4"),
        "time": np.full(len(place), b"2026-01-05T10:11:12"),
        "person": drawn.person_G[part].astype(str).astype("S8"),
    }
    first = Rows.of([Row("x", 1, 1)])
    return Rows(
        {name: texts.get(name, np.repeat(column, len(place), axis=0)) for name, column in first.columns.items()}
    )


def written(drawn: Drawn, folder: Path) -> tuple[FeatureFile, Places, Places]:
    """The index, and the ten best of each query: of all rows, and of those that the filter leaves."""
    file = FeatureFile.open(folder / "people.h5", "0123456789abcdef", dtype=np.float16)
    every, allowed = (rank.Best(drawn.queries, TOP, np.dtype(np.float32)) for _ in range(2))
    left = np.zeros(drawn.rows, bool)
    left[drawn.filtered] = True
    start = 0
    for block in drawn.blocks():
        part = slice(start, start + len(block))
        file.append(columns(drawn, part), block)
        score_QB = drawn.query_QE @ block.T
        every.add(score_QB, start)
        if left[part].any():
            allowed.add(np.where(left[part], score_QB, np.float32(-2)), start)
        start = part.stop
    file.compact()
    return file, every.sorted()[1], allowed.sorted()[1]


def opened(path: Path) -> Gallery:
    """The gallery of an index, as a search opens it."""
    file = FeatureFile.open(path, "0123456789abcdef")
    where = IndexFile(path, file.fingerprint, file.snapshot.identity)
    return Gallery("people", Roots(path.parent), file.known(), file.matrix(), file=where)


def memory(kind: str) -> float:
    """Megabytes of this process: RssAnon is its own, RssFile what it has mapped."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    return float("nan")


@contextmanager
def always_coded() -> Iterator[None]:
    """Codes at any size, to see from where on they are quicker."""
    before = gallery.CODED
    gallery.CODED = coding.CODED = 1
    try:
        yield
    finally:
        gallery.CODED = coding.CODED = before


def timed(ways: dict[str, Way], query_QE: NDArray[np.float32], rounds: int) -> dict[str, Took]:
    """Every way, query by query, in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, list[Places]] = {name: [] for name in ways}
    for name, way in ways.items():
        way(query_QE[:1])
        # all queries of our ways, so that recall is of many; the same few of the slow ones
        few = query_QE if name.startswith(("codes", "exact")) else query_QE[:12]
        found[name] = [np.asarray(way(query_E[None])).reshape(-1) for query_E in few]
    for number in range(rounds):
        for name, way in ways.items():
            begun, busy = time.perf_counter(), time.process_time()
            way(query_QE[number % len(query_QE)][None])
            taken[name].append((time.perf_counter() - begun, time.process_time() - busy))
    figures = {}
    for name, times in taken.items():
        clock, processor = (np.array(column) * 1000 for column in zip(*times, strict=True))
        figures[name] = Took(clock.min(), float(np.median(clock)), processor.min(), np.stack(found[name]))
    return figures


def recall(found_QK: Places, truth_QK: Places) -> float:
    """Share of the ten best that were found."""
    pairs = zip(found_QK, truth_QK, strict=False)
    return float(np.mean([len(set(mine.tolist()) & set(right.tolist())) / TOP for mine, right in pairs]))


def ways_of(found: Gallery, plain: Gallery, drawn: Drawn, threads: int) -> dict[str, Way]:
    """Everything that is compared, ready to be called."""
    wide = torch.empty((len(found), WIDTH))
    for start in range(0, len(found), 65536):
        wide[start : start + 65536] = torch.from_numpy(np.asarray(found.vector_GE[start : start + 65536], np.float32))
    small = np.empty((len(found), WIDTH), np.int8)
    for start in range(0, len(found), 65536):
        np.rint(wide[start : start + 65536].numpy() * 127, out=small[start : start + 65536], casting="unsafe")
    allowed = drawn.filtered
    among = torch.from_numpy(allowed)

    def with_torch(query_1E: NDArray[np.float32]) -> Any:
        return (wide @ torch.from_numpy(query_1E[0])).topk(TOP).indices.numpy()

    def with_torch_filtered(query_1E: NDArray[np.float32]) -> Any:
        return allowed[(wide[among] @ torch.from_numpy(query_1E[0])).topk(TOP).indices.numpy()]

    def with_usearch(vectors: NDArray[Any], scale: float) -> Way:
        def search(query_1E: NDArray[np.float32]) -> Any:
            query = np.rint(query_1E * scale).astype(np.int8) if scale else query_1E.astype(vectors.dtype)
            kind = usearch.index.MetricKind.IP
            return usearch.index.search(vectors, query, TOP, kind, exact=True, threads=threads).keys

        return search

    return {
        "codes": lambda query: found.best(query, TOP)[1],
        "codes, 5 % filter": lambda query: found.best(query, TOP, allowed)[1],
        "exact": lambda query: plain.best(query, TOP)[1],
        "exact, 5 % filter": lambda query: plain.best(query, TOP, allowed)[1],
        "torch float32": with_torch,
        "torch, 5 % filter": with_torch_filtered,
        "usearch float16": with_usearch(found.vector_GE, 0),
        "usearch int8": with_usearch(small, 127),
    }


def together(found: Gallery, query_QE: NDArray[np.float32], count: int) -> float:
    """Seconds for many queries at once."""
    begun = time.perf_counter()
    found.best(np.resize(query_QE, (count, WIDTH)), TOP)
    return time.perf_counter() - begun


def judged(found: Gallery, drawn: Drawn) -> dict[str, tuple[float, float]]:
    """What a search does -> milliseconds of a query, by the clock and of the processor: the medians.

    The calibration is of a split that is drawn like the gallery; the sample of the gallery is there.
    """
    labelled = Drawn(drawn.spectrum, CALIBRATED, CALIBRATED // 4, seed=1)
    rows = np.concatenate(list(labelled.blocks()))
    split = Labelled.of(labelled.query_QE, rows, labelled.meant_Q.tolist(), labelled.person_G.tolist())
    calibration = fit(split, fingerprint="drawn", data="drawn", name="val")

    def search(query_E: NDArray[np.float32], judge: Judge | None, sure: float | None) -> None:
        ranked = found.best(query_E[None], TOP if judge is None else max(TOP, judge.known))
        if judge is not None:
            score_K, place_K = ranked[0][0], ranked[1][0]
            judge.figures(query_E, (score_K, place_K), score_K[:TOP], place_K[:TOP])
            surely(judge, query_E, score_K, sure)

    figures = {}
    for name, known, sure in (("rows", None, None), ("standings", None, None), ("--sure 0.9", calibration, 0.9)):
        judge = None if name == "rows" else Judge(found.vector_GE, None, known, found.down_to, found.sample)
        taken = []
        for query_E in drawn.query_QE[:40]:
            begun, busy = time.perf_counter(), time.process_time()
            search(query_E, judge, sure)
            taken.append((time.perf_counter() - begun, time.process_time() - busy))
        clock, processor = np.median(np.array(taken), axis=0) * 1000
        figures[name] = float(clock), float(processor)
    return figures


def compare(name: str, rows: int, options: argparse.Namespace) -> None:
    drawn = Drawn(SPECTRA[name], rows, options.queries)
    with tempfile.TemporaryDirectory(prefix="tbps-million-") as folder, always_coded():
        file, truth_QK, filtered_QK = written(drawn, Path(folder))
        begun, busy = time.perf_counter(), time.process_time()
        coding.write_codes_of(opened(file.path))
        build = time.perf_counter() - begun, time.process_time() - busy
        size = sum(path.stat().st_size for path in codes_folder(file.path).iterdir())
        del file
        gc.collect()
        before = memory("RssAnon")
        found = opened(Path(folder) / "people.h5")
        plain = replace(found, file=None)
        busy = time.process_time()
        found.best(drawn.query_QE[:1], TOP)
        first = 1000 * (time.process_time() - busy)
        busy = time.process_time()
        plain.best(drawn.query_QE[:1], TOP)
        first_exact = 1000 * (time.process_time() - busy)
        for query_E in drawn.query_QE:
            found.best(query_E[None], TOP)
        own = memory("RssAnon") - before
        many = together(found, drawn.query_QE, options.together)
        took = timed(ways_of(found, plain, drawn, options.threads), drawn.query_QE, options.rounds)
        base = took["torch float32"].clock
        print(f"\n{name}, {rows:,} rows")
        print(f"  codes: {build[0]:.1f} s ({build[1]:.1f} s of processor time), {size / 2**20:,.0f} MB")
        print(f"  memory of its own for {options.queries} queries: {own:,.0f} MB")
        print(f"  first query, processor time: {first:.0f} ms with opening the codes, exact {first_exact:.0f} ms")
        print(f"  {options.together:,} queries together: {many:.2f} s")
        same = recall(took["codes"].found_QK, took["exact"].found_QK)
        print(f"  codes find {100 * same:.2f} % of the ten that the exact scan of the rows in half precision finds")
        for what, (clock, processor) in judged(found, drawn).items():
            print(f"  {f'with {what}':20}{clock:8.2f} ms of a query (median), {processor:.2f} ms of the processor")
        print(f"  {'':20}{'ms':>8}{'median':>8}{'processor':>10}{'ratio':>8}{'recall@10':>11}{'R@1':>7}")
        for way, one in took.items():
            truth = filtered_QK if "filter" in way else truth_QK
            right = drawn.person_G[one.found_QK[:, 0].astype(np.int64)] == drawn.meant_Q[: len(one.found_QK)]
            print(
                f"  {way:20}{one.clock:8.2f}{one.median:8.2f}{one.processor:10.2f}{one.clock / base:8.3f}"
                f"{recall(one.found_QK, truth):11.4f}{np.mean(right):7.2f}",
                flush=True,
            )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 100_000, 1_000_000])
    parser.add_argument("--spectra", nargs="+", choices=list(SPECTRA), default=list(SPECTRA))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--together", type=int, default=200, help="queries that are searched at once")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # ours reads it at each call
    torch.set_num_threads(options.threads)
    print(_machine.line())
    for rows in options.rows:
        for name in options.spectra:
            compare(name, rows, options)


if __name__ == "__main__":
    main()
