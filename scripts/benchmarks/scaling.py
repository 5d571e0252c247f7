"""How cost grows: a step with batch and tower, memory with the batch, two processes, evaluation with the gallery.

scripts/bench scaling [--device cpu|cuda] [--part batch|tower|processes|gallery]... [--svg FILE] [--rounds N]

Tables in Markdown on stdout, medians of rounds; on the CPU the towers are tiny. --svg draws all curves relative to
their first point on logarithmic axes: a straight line at 45 degrees is cost in proportion to the work.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# at the end: a benchmark here bears the name of a standard module
from benchmarks import _machine
from benchmarks import train as training

from tbps_cli import distributed
from tbps_cli.engine import estimate
from tbps_cli.retrieval import metrics

Curve = list[tuple[float, float]]
BATCHES = {"cpu": (4, 8, 16, 32), "cuda": (16, 32, 64, 128, 256)}
WIDTHS = (64, 128, 192, 256)
TOWERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
GALLERIES = (1000, 2000, 4000, 8000, 16000)


def bench(root: Path, device: str, batch: int, tower: dict[str, int] | None, *sets: str) -> training.Bench:
    return training.Bench(root, "irra", device, [f"train.batch={batch}", "data.augment_on=device", *sets], tower)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---:|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def over_batch(root: Path, device: str, rounds: int) -> dict[str, Curve]:
    """Step time and memory against the batch."""
    rows, seconds, sizes = [], [], []
    for batch in BATCHES[device]:
        one = bench(root, device, batch, training.TINY if device == "cpu" else None)
        one.seconds(2)
        step, most = one.seconds(rounds), training.peak(one)
        kept = estimate.probe(one.stepper, next(one.batches)).bytes(batch)
        seconds.append((batch, step))
        sizes.append((batch, most))
        figures = f"{1000 * step:.0f}", f"{batch / step:.1f}", f"{most / 2**20:,.0f}", f"{kept / 2**20:,.0f}"
        rows.append([str(batch), *figures])
    print("Batch, IRRA:\n")
    table(["batch", "ms a step", "pairs/s", "peak MB", "of it activations MB"], rows)
    return {"step over batch": seconds, "memory over batch": sizes}


def over_tower(root: Path, device: str, rounds: int) -> dict[str, Curve]:
    """Step time against the tower's work."""
    rows, seconds = [], []
    for size in TOWERS if device == "cuda" else WIDTHS:
        heads = {} if isinstance(size, str) else {"heads": size // 64, "text_heads": size // 64}
        tower = None if isinstance(size, str) else training.TINY | {"width": size, "text_width": size} | heads
        sets = [f"method.tower={size}"] if isinstance(size, str) else []
        one = bench(root, device, 64 if device == "cuda" else 8, tower, *sets)
        one.seconds(2)
        step, flops = one.seconds(rounds), one.flops()
        seconds.append((flops, step))
        parameters = sum(parameter.numel() for parameter in one.method.parameters()) / 1e6
        rows.append(
            [str(size), f"{parameters:.1f}", f"{flops / 1e9:.1f}", f"{1000 * step:.0f}", f"{flops / step / 1e9:.1f}"]
        )
    print("Tower, IRRA (width of both towers, or name):\n")
    table(["tower", "M parameters", "GFLOP a step", "ms a step", "GFLOP/s"], rows)
    return {"step over tower's work": seconds}


def one_rank(root: Path, rounds: int, batch: int) -> None:
    """What each of several processes does; rank 0 prints its seconds a step."""
    distributed.start("cpu")
    made = bench(root, "cpu", batch, training.TINY, "train.workers=0")
    made.seconds(2)
    distributed.barrier()
    step = made.seconds(rounds)
    if distributed.current().main:
        print(f"step {step}")
    distributed.stop()


def over_processes(root: Path, rounds: int, batch: int = 16) -> None:
    """The same global batch on one process and on two, one thread each."""
    rows, first = [], 0.0
    for count in (1, 2):
        command = [
            sys.executable,
            "-P",
            "-m",
            "benchmarks.scaling",
            "--rank-of",
            str(root),
            "--rounds",
            str(rounds),
            "--batch",
            str(batch),
        ]
        common = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": str(20000 + os.getpid() % 20000 + count)}
        ranks = [
            subprocess.Popen(
                command, env=common | {"RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True
            )
            for r in range(count)
        ]
        said = [rank.communicate()[0] for rank in ranks]
        if any(rank.returncode for rank in ranks):
            raise SystemExit("a process failed")
        step = float(said[0].split()[-1])
        first = first or step
        rows.append([str(count), f"{1000 * step:.0f}", f"{batch / step:.1f}", f"{first / step:.2f}"])
    print(f"Processes, IRRA, global batch {batch}, one thread each:\n")
    table(["processes", "ms a step", "pairs/s", "times one"], rows)


def over_gallery(rounds: int) -> dict[str, Curve]:
    """Every score of 2,000 captions against the images."""
    rng, rows, curve = np.random.default_rng(0), [], []
    for gallery in GALLERIES:
        text, image = (rng.standard_normal((count, 512), dtype=np.float32) for count in (2000, gallery))
        text, image = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (text, image))
        persons = np.arange(2000) % 500, np.arange(gallery) % 500
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            metrics.scores(text, image, *persons)
            seconds.append(time.perf_counter() - started)
        middle = statistics.median(seconds)
        curve.append((float(gallery), middle))
        rows.append([f"{gallery:,}", f"{1000 * middle:.0f}", f"{1e9 * middle / gallery / 2000:.1f}"])
    print("Gallery, 2,000 captions, 512 numbers a vector:\n")
    table(["images", "ms for all scores", "ns a pair"], rows)
    return {"scores over gallery": curve}


def plot(curves: dict[str, Curve]) -> str:
    """An SVG of all curves relative to their first point, both axes logarithmic to the base 2."""
    colours = ("#4269d0", "#ff725c", "#3ca951", "#9c6bff", "#efb118")
    most = max(math.log2(x / curve[0][0]) for curve in curves.values() for x, _ in curve)
    top = max(most, max(math.log2(y / curve[0][1]) for curve in curves.values() for _, y in curve))
    span, unit = math.ceil(top), 480 / math.ceil(top)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 560" font-family="sans-serif" font-size="13">']
    parts.append('<rect width="760" height="560" fill="white"/>')
    for tick in range(span + 1):
        at = tick * unit
        parts.append(f'<path d="M60 {520 - at:.0f}h480M{60 + at:.0f} 520v-480" stroke="#ddd"/>')
        parts.append(f'<text x="52" y="{524 - at:.0f}" text-anchor="end">{2**tick}x</text>')
        parts.append(f'<text x="{60 + at:.0f}" y="540" text-anchor="middle">{2**tick}x</text>')
    parts.append('<path d="M60 520L540 40" stroke="#999" stroke-dasharray="4 4"/>')
    parts.append('<text x="300" y="557" text-anchor="middle">work, relative to the smallest</text>')
    parts.append('<text x="60" y="28">cost, relative to the smallest; dashed: in proportion</text>')
    for number, ((name, curve), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        places = [
            (60 + unit * math.log2(x / curve[0][0]), 520 - unit * max(0.0, math.log2(y / curve[0][1])))
            for x, y in curve
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(f'<rect x="560" y="{48 + 24 * number}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="582" y="{54 + 24 * number}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--part", action="append", choices=["batch", "tower", "processes", "gallery"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--batch", type=int, default=16, help=argparse.SUPPRESS)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.rank_of:
        one_rank(options.rank_of, options.rounds, options.batch)
        return 0
    wanted = options.part or ["batch", "tower", "processes", "gallery"]
    print(_machine.line(options.device) + "\n")
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = training.write_set(Path(folder), 2 * max(BATCHES[options.device]), (384, 128))
        if "batch" in wanted:
            curves |= over_batch(root, options.device, options.rounds)
        if "tower" in wanted:
            curves |= over_tower(root, options.device, options.rounds)
        if "processes" in wanted:
            over_processes(root, options.rounds)
    if "gallery" in wanted:
        curves |= over_gallery(options.rounds)
    if options.svg and curves:
        options.svg.write_text(plot(curves), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
