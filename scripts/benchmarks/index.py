"""Embedding a folder from nothing, as whole processes: `tbps index` beside rclip with the same image tower.

scripts/bench index [--images N] [--rounds N] [--rclip PYTHON] [--layers N] [--width N] [--only WAY]

The towers are ViT-B/16 at 224 x 224 with random weights; --layers and --width make smaller ones. --rclip names the
python of an environment in which rclip is installed (`python -m venv V; V/bin/pip install rclip`); without it what
rclip does is done by a program of a few lines (`_indexing.py`). Rounds alternate between the ways. In the first one
`tbps` also tries which way of embedding is fastest here; later ones remember it, and the last round is what the ratios
are taken from. --only names one of our ways (run; run, fp32; export; export, fp32). Processor time counts all threads:
it is the figure to trust on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks import _machine
from PIL import Image

from tbps_cli.exporting.exporter import export
from tbps_cli.models.model import build
from tbps_cli.models.run import Run
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build as build_recipe
from tbps_cli.recipe.schema import Recipe
from tbps_cli.synthetic.build import build as draw

SIZE = 224
STORE = "store"
"""Where the rival keeps its vectors."""
HERE = Path(__file__).parent
LAUNCHER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process of its own, since the most memory of one counts from what it had when it was forked off."""


@dataclass(frozen=True)
class Taken:
    """What one process took."""

    seconds: float
    processor: float
    """Seconds of all threads."""
    megabytes: float
    """Of memory, at most."""


@dataclass(frozen=True)
class Way:
    """A command that embeds the folder, and the cache that it keeps from round to round."""

    name: str
    words: Sequence[str]
    cache: Path
    forget: str
    """What of the cache is deleted before every round, so that everything is embedded again."""

    def take(self, folder: Path) -> Taken:
        """Run it once."""
        shutil.rmtree(self.cache / self.forget, ignore_errors=True)
        (self.cache / self.forget).mkdir(parents=True, exist_ok=True)
        left = "OMP_NUM_THREADS", *(["PYTHONPATH"] if self.forget == STORE else [])
        plain = {name: value for name, value in os.environ.items() if name not in left}
        done = subprocess.run(
            [sys.executable, "-ISc", LAUNCHER, *self.words],
            env=plain | {"TBPS_CACHE_DIR": str(self.cache)},
            cwd=folder,
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{self.name} ended with status {done.returncode}")
        return Taken(*json.loads(done.stdout))


def write_images(folder: Path, count: int) -> None:
    """Drawn pedestrians as JPEGs of 91 x 224 pixels, about what a detector cuts out."""
    with tempfile.TemporaryDirectory() as drawn:
        draw(Path(drawn) / "synthetic", identities=max(4, count // 3), seed=0, workers=1)
        paths = sorted(path for path in Path(drawn).rglob("*") if path.suffix in (".jpg", ".png"))
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(count):
            image = Image.open(paths[number % len(paths)]).convert("RGB").resize((91, 224))
            pixels = np.asarray(image, np.int16) + rng.integers(-4, 5, (224, 91, 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)


def write_run(folder: Path, layers: int, width: int) -> Path:
    """A run of plain CLIP with random weights."""
    tower: object = "ViT-B-16"
    if (layers, width) != (12, 768):
        tower = {"width": width, "layers": layers, "patch": 16, "embed": 512, "text_width": 64, "text_layers": 1}
    values = {
        "data": {"name": "cuhk-pedes", "image_size": [SIZE, SIZE]},
        "method": {"name": "clip", "tower": tower, "weights": "random"},
    }
    return write_random(folder, build_recipe(Draft(values, {}, "bench")))


def write_random(folder: Path, recipe: Recipe) -> Path:
    """A run of this recipe with random weights."""
    method = build(recipe)
    method.initialise(torch.Generator().manual_seed(0))
    run = Run.create(folder, recipe)
    run.save_weights("best", method.state_dict(), {})
    os.utime(run.weights_file, (1, 1))  # as old as weights are that somebody searches with
    return folder


def ways(place: Path, run: Path, exported: Path, rclip: str | None) -> list[Way]:
    """Every way, the rival first."""
    rival = [str(HERE / "_indexing.py"), "rclip" if rclip else "plain", str(exported / "image.onnx")]
    store = place / "rival" / STORE
    tbps = [sys.executable, "-P", "-m", "tbps_cli", "index", str(place / "photos")]
    made = {
        "tbps, run": ["--ckpt", str(run)],
        "tbps, run, fp32": ["--ckpt", str(run), "--precision", "fp32"],
        "tbps, export": ["--ckpt", str(exported)],
        "tbps, export, fp32": ["--ckpt", str(exported), "--precision", "fp32"],
    }
    name = "rclip" if rclip else "what rclip does"
    words = [rclip or sys.executable, "-P", *rival, str(place / "photos"), str(SIZE), str(store)]
    return [
        Way(name, words, place / "rival", STORE),
        *(Way(name, [*tbps, *more], place / name.replace(" ", ""), "indexes") for name, more in made.items()),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rclip", metavar="PYTHON")
    parser.add_argument("--only", metavar="WAY")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    options = parser.parse_args(argv)
    print(_machine.line())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_images(place / "photos", options.images)
        run = write_run(place / "run", options.layers, options.width)
        export(run, place / "exported", formats=("onnx",))
        every = ways(place, run, place / "exported", options.rclip)
        every = [every[0], *(way for way in every[1:] if options.only in (None, way.name.removeprefix("tbps, ")))]
        taken: dict[str, list[Taken]] = {way.name: [] for way in every}
        for _ in range(options.rounds):
            for way in every:
                taken[way.name].append(way.take(place / "photos"))
    rival = taken[every[0].name][-1]
    print(f"{options.images} images; rival / ours above 1: ours is quicker, or needs less memory")
    headings = ("first s", 9), ("last s", 9), ("processor s", 13), ("first MB", 9), ("last MB", 9)
    shares = ("time", 8), ("processor", 11), ("memory", 8)
    print(" " * 20 + "".join(f"{text:>{width}}" for text, width in (*headings, *shares)))
    for name, rounds in taken.items():
        last = rounds[-1]
        ratios = f"{rival.seconds / last.seconds:>8.2f}{rival.processor / last.processor:>11.2f}"
        print(
            f"{name:<20}{rounds[0].seconds:>9.1f}{last.seconds:>9.1f}{last.processor:>13.1f}"
            f"{rounds[0].megabytes:>9.0f}{last.megabytes:>9.0f}"
            f"{ratios}{rival.megabytes / last.megabytes:>8.2f}"
        )


if __name__ == "__main__":
    main()
