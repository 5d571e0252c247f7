"""Scores of a split: ours beside the usual way and beside the similarity product alone, in one run.

scripts/bench eval [--icfg] [--queries N --gallery N --persons N --embed N] [--rounds N]

The usual way is written here as the field writes it: the whole matrix, a full argsort, a gathered
match matrix, cumulative sums. Rounds alternate between the candidates, so that a busy machine slows
all of them; the median round counts. --icfg is the size of ICFG-PEDES (19,848 x 19,848), where the usual
way would need over 10 GB: it then ranks 1,024 of the queries and its time is scaled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tbps_cli.retrieval import metrics

Result = dict[str, float]


def made(queries: int, gallery: int, persons: int, embed: int, noise: float = 5.0) -> list[np.ndarray]:
    """(text_QE, image_GE, text_person_Q, image_person_G): unit rows scattered around each person."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((persons, embed), dtype=np.float32)
    person_Q, person_G = np.arange(queries) % persons, np.arange(gallery) % persons
    rows = [centre[p] + noise * rng.standard_normal((len(p), embed), dtype=np.float32) for p in (person_Q, person_G)]
    return [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows] + [person_Q, person_G]


def usual(text_QE: Tensor, image_GE: Tensor, person_Q: Tensor, person_G: Tensor) -> Result:
    """R@k, mAP and mINP by sorting everything."""
    similarity = text_QE @ image_GE.T
    order = torch.argsort(similarity, dim=1, descending=True)
    matches = person_G[order] == person_Q[:, None]
    hits = matches.cumsum(1)
    found = hits.clamp(max=1).float().mean(0)
    relevant = hits[:, -1]
    precision = hits / torch.arange(1, matches.shape[1] + 1)
    average = (precision * matches).sum(1) / relevant
    last = torch.stack([row.nonzero()[-1, 0] for row in matches])
    figures = [found[0], found[4], found[9], average.mean(), (relevant / (last + 1)).mean()]
    return dict(zip(("R1", "R5", "R10", "mAP", "mINP"), (100 * float(figure) for figure in figures), strict=True))


def product_numpy(text_QE: np.ndarray, image_GE: np.ndarray) -> None:
    for start in range(0, len(text_QE), 256):
        text_QE[start : start + 256] @ image_GE.T


def product_torch(text_QE: Tensor, image_GE: Tensor) -> None:
    for start in range(0, len(text_QE), 256):
        text_QE[start : start + 256] @ image_GE.T


def peak(work: Callable[[], object]) -> float:
    """Most memory that arrays took during the work, in MB."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 6156), ("gallery", 3074), ("persons", 1000), ("embed", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--icfg", action="store_true", help="19,848 captions and images of 946 persons")
    options = parser.parse_args(argv)
    if options.icfg:
        options.queries, options.gallery, options.persons = 19848, 19848, 946
    data = made(options.queries, options.gallery, options.persons, options.embed)
    ours = metrics.scores(*data)
    memory = peak(lambda: metrics.scores(*data))
    part = 1024 if options.icfg else options.queries
    text, image, person_Q, person_G = (torch.from_numpy(values) for values in data)

    candidates: dict[str, tuple[Callable[[], object], float]] = {
        "product alone, numpy": (lambda: product_numpy(data[0], data[1]), 1),
        "product alone, torch": (lambda: product_torch(text, image), 1),
        "ours": (lambda: metrics.scores(*data), 1),
        "the usual way": (lambda: usual(text[:part], image, person_Q[:part], person_G), options.queries / part),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, (work, scale) in candidates.items():
            seconds[name].append(scale * timed(work))
    median = {name: statistics.median(times) for name, times in seconds.items()}

    sizes = f"{options.queries:,} captions x {options.gallery:,} images, {options.embed} wide"
    print(f"{sizes}, {options.persons:,} persons; median of {options.rounds} rounds")
    print(f"{torch.get_num_threads()} threads, numpy {np.__version__}, torch {torch.__version__}")
    for name, value in median.items():
        print(f"{name:24} {value:8.3f} s   {value / median['ours']:6.2f} x ours")
    product = min(median["product alone, numpy"], median["product alone, torch"])
    print(f"ours / faster product    {median['ours'] / product:8.2f}")
    print(f"usual way / ours         {median['the usual way'] / median['ours']:8.2f}")
    print(f"memory beyond features   {memory:8.0f} MB")
    print("ours    ", {name: round(value, 3) for name, value in ours._asdict().items()})
    if part == options.queries:
        print("usual   ", {name: round(value, 3) for name, value in usual(text, image, person_Q, person_G).items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
