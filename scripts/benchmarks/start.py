"""What a command takes before it answers, as whole processes: `tbps` beside rclip and a script with open_clip.

scripts/bench start [--images N] [--rounds N] [--rclip PYTHON] [--open-clip PYTHON] [--layers N] [--width N] [--only W]

Everything is warm: images are indexed, captions and images of the evaluation are in the cache, modules are compiled.
The text tower is that of ViT-B/16 with random weights (--layers and --width make a smaller one), the image tower is
tiny, since no image is embedded. Rivals search the same images with the same graphs. --rclip and --open-clip name the
python of an environment in which these are installed (`python -m venv V; V/bin/pip install rclip`). Without --rclip
what rclip does is done by a program of a few lines (`_starting.py`), open_clip is left out. Rounds alternate between
all ways; the least of each counts, since whatever else the machine does only adds. Processor time counts all threads:
it is the figure to trust on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks import _machine
from benchmarks.index import LAUNCHER, Taken, write_images, write_random

from tbps_cli.exporting.exporter import export
from tbps_cli.features.snapshot import read_fingerprint
from tbps_cli.features.store import FeatureFile
from tbps_cli.models.exported import ExportedModel
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build as build_recipe
from tbps_cli.synthetic.build import build as draw
from tbps_cli.text.bpe import _merges_path

SIZE = 224
SENTENCE = "a man in a white shirt and black trousers"
HERE = Path(__file__).parent
TBPS = [sys.executable, "-P", "-m", "tbps_cli"]
FIRST_STEP = """
import os, sys
from tbps_cli.engine.step import Stepper
step = Stepper.__call__
def first(self, *words, **options):
    step(self, *words, **options)
    os._exit(0)
Stepper.__call__ = first
from tbps_cli.cli.app import main
main(sys.argv[1:])
"""
"""A training that ends when its first step is done."""
IRRA = """
import sys
import torch
from torch import nn
model = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 1, 256, batch_first=True), 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
model(torch.randn(16, 20, 64)).sum().backward()
optimizer.step()
"""
"""The least that a training script with PyTorch does before its first step is over."""


@dataclass(frozen=True)
class Way:
    """A command, what it is compared with, and the folder that it begins in."""

    item: str
    name: str
    words: Sequence[str]
    folder: Path
    foreign: bool = False
    """Whether it is not ours: then it sees none of our variables."""

    def take(self) -> Taken:
        """Run it once. Modules stay compiled from round to round, as they are for users."""
        left = {"PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", *(["PYTHONPATH"] if self.foreign else [])}
        plain = {name: value for name, value in os.environ.items() if name not in left}
        done = subprocess.run(
            [sys.executable, "-ISc", LAUNCHER, *self.words],
            env=plain | {"TBPS_CACHE_DIR": str(self.folder / "cache")},
            cwd=self.folder,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{self.item}, {self.name} ended with status {done.returncode}: {done.stderr.decode()}")
        return Taken(*json.loads(done.stdout))


def write_run(folder: Path, layers: int, width: int) -> Path:
    """A run of plain CLIP with random weights and a tiny image tower."""
    tower = {"width": 64, "layers": 1, "patch": 16, "embed": 512, "text_width": width, "text_layers": layers}
    values = {
        "data": {"name": "synthetic", "image_size": [SIZE, SIZE]},
        "method": {"name": "clip", "tower": tower, "weights": "random"},
    }
    return write_random(folder, build_recipe(Draft(values, {}, "bench")))


def prepare(place: Path, images: int, layers: int, width: int) -> None:
    """Images, a data set, a run and its export, all of it embedded; and the same vectors for the rivals."""
    write_images(place / "photos", images)
    draw(place / "data" / "synthetic", identities=200, seed=0, workers=1)
    run = write_run(place / "run", layers, width)
    export(run, place / "exported", formats=("onnx",))
    for words in (
        ["index", "photos", "--ckpt", "exported", "--index", "exported.h5", "--precision", "fp32"],
        ["index", "photos", "--ckpt", "exported", "--precision", "fp32"],
        ["index", "photos", "--ckpt", "run", "--index", "run.h5", "--precision", "fp32"],
        ["search", SENTENCE, "--ckpt", "run", "--in", "run.h5"],
        ["eval", "--ckpt", "run"],
    ):
        Way("preparing", words[0], [*TBPS, *words], place).take()
    file = FeatureFile.open(place / "exported.h5", read_fingerprint(place / "exported.h5"))
    vector_GE = np.asarray(file.matrix(), np.float32)
    (place / "store").mkdir()
    np.save(place / "store" / "vectors.npy", vector_GE)
    with sqlite3.connect(place / "store" / "plain.sqlite3") as base:
        base.execute("create table images (path text primary key, vector blob)")
        pairs = ((row.path, vector.tobytes()) for row, vector in zip(file.known(), vector_GE, strict=True))
        base.executemany("insert into images values (?, ?)", pairs)


def ways(place: Path, rclip: str | None, open_clip: str | None) -> list[Way]:
    """Every way, the rival of an item first."""
    rival, script = ["-P", str(HERE / "_starting.py")], "a script with open_clip"
    graph, store = str(place / "exported" / "text.onnx"), str(place / "store")
    ids = ExportedModel(place / "exported").tokenizer([SENTENCE])[0]
    plain = [sys.executable, *rival, "plain", graph, store, ",".join(map(str, ids.tolist()))]
    files = [str(place / "exported" / "image.onnx"), graph, str(_merges_path())]
    made = [rclip or "", *rival, "rclip", *files, str(place / "photos"), str(SIZE), store]
    search, train = [*TBPS, "search", SENTENCE, "--paths"], ["train", "demo", "--set", "train.batch=16"]
    file, folder, name = "search an index file", "search a folder", "rclip" if rclip else "what rclip does"
    found = [
        Way(file, name, [*made, SENTENCE, "--no-indexing"] if rclip else plain, place, foreign=True),
        Way(file, "tbps, export", [*search, "--ckpt", "exported", "--in", "exported.h5"], place),
        Way(file, "tbps, run", [*search, "--ckpt", "run", "--in", "run.h5"], place),
        Way(folder, name, [*made, SENTENCE] if rclip else plain, place, foreign=True),
        Way(folder, "tbps, export", [*search, "--ckpt", "exported", "--in", "photos"], place),
        Way("evaluate from the cache", "PyTorch's import", [sys.executable, "-c", "import torch"], place, foreign=True),
        Way("evaluate from the cache", "tbps eval", [*TBPS, "eval", "--ckpt", "run"], place),
        Way("train to the first step", "PyTorch alone", [sys.executable, "-c", IRRA], place, foreign=True),
        Way("train to the first step", "tbps train", [sys.executable, "-c", FIRST_STEP, *train], place),
    ]
    if open_clip:
        words = [open_clip, *rival, "open_clip", store, SENTENCE]
        found.insert(1, Way(file, script, words, place, foreign=True))
        words = [open_clip, "-c", "import open_clip"]
        found.append(Way("import of the model", "open_clip", words, place, foreign=True))
        words = [sys.executable, "-c", "import tbps_cli.models.model"]
        found.append(Way("import of the model", "tbps_cli", words, place))
    found.insert(0, Way("help", "tbps", [*TBPS, "--help"], place))
    if rclip:
        words = [rclip, "-c", "from rclip.main import main; main()", "--help"]
        found.insert(0, Way("help", "rclip", words, place, foreign=True))
        found.append(Way("import to search", "rclip", [rclip, "-c", "import rclip.main"], place, foreign=True))
    words = [sys.executable, "-c", "import tbps_cli; tbps_cli.search"]
    found.append(Way("import to search", "tbps_cli", words, place))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rclip", metavar="PYTHON")
    parser.add_argument("--open-clip", metavar="PYTHON")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--only", metavar="WORD", default="", help="Items whose names hold this word.")
    options = parser.parse_args(argv)
    print(_machine.line())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place, options.images, options.layers, options.width)
        every = [way for way in ways(place, options.rclip, options.open_clip) if options.only in way.item]
        for way in every:
            way.take()  # modules are compiled, rclip indexes
        taken: list[list[Taken]] = [[] for _ in every]
        for _ in range(options.rounds):
            for way, rounds in zip(every, taken, strict=True):
                rounds.append(way.take())
    report(every, taken)


def report(every: Sequence[Way], taken: Sequence[list[Taken]]) -> None:
    """The least of all rounds, and how many times as long the first of its item took."""
    print(f"{'':26}{'':26}{'seconds':>9}{'processor':>11}{'MB':>6}   rival / ours: time, processor time")
    rivals: dict[str, tuple[float, float]] = {}
    for way, rounds in zip(every, taken, strict=True):
        seconds, processor = min(one.seconds for one in rounds), min(one.processor for one in rounds)
        first = rivals.setdefault(way.item, (seconds, processor))
        ratios = f"{first[0] / seconds:>14.2f}{first[1] / processor:>8.2f}"
        most = max(one.megabytes for one in rounds)
        print(f"{way.item:26}{way.name:26}{seconds:>9.2f}{processor:>11.2f}{most:>6.0f}{ratios}", flush=True)


if __name__ == "__main__":
    main()
