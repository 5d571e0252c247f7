"""Ways of running one model on a CPU, in alternating rounds: PyTorch, onnxruntime and OpenVINO in their precisions.

scripts/bench ways [--ckpt RUN] [--place DIR] [--images N] [--captions N] [--rounds N] [--only NAME] [--without NAME]

Without --ckpt: CLIP with ViT-B/16 towers of random weights, images of 384 x 128. The model is exported below --place
(fp32, int8, OpenVINO's own format), which takes a minute; what is there already is used again, and with --rounds 0 that
is all. Images and captions go through each way eight at a time, int8 one at a time, as it has to be. Speeds are of the
quickest round, and relative to PyTorch in float32; the cosine is the smallest with it over all images or captions.
Captions are of 12 to 40 words, of the words of drawn pedestrians; PyTorch computes no padding, graphs compute it up to
the longest caption of a batch. At last a process for each of a few ways opens the image graph and embeds eight
images: seconds until they are there, and the most memory that it needed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import _machine
from numpy.typing import NDArray

from tbps_cli.exporting.agree import Examples
from tbps_cli.exporting.exporter import export
from tbps_cli.models import open_model
from tbps_cli.models.model import Model, build
from tbps_cli.models.onnx_graph import Graph, TextGraph
from tbps_cli.models.openvino_graph import import_openvino
from tbps_cli.models.run import Run
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build as build_recipe

BATCH = 8
WORDS = ("a", "man", "with", "short", "black", "hair", "wears", "a", "red", "shirt", "and", "blue", "trousers")
FP32, INT8, IR = "fp32", "int8", "openvino"
"""Folders below the place."""

Rows = NDArray[np.float32]
Way = Callable[[NDArray[Any]], Rows]

OPENING = """
import json, re, sys, time
import numpy as np
kind, path, precision, shape = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
began = time.perf_counter()
given = np.zeros(shape, np.float32)
if kind == "onnxruntime":
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: given})
else:
    from tbps_cli.models.openvino_graph import import_openvino
    core = import_openvino().Core()
    core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})(given)
taken = time.perf_counter() - began
most = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # of this program alone, unlike ru_maxrss
print(json.dumps([taken, int(most[1]) / 1024 if most else 0]))
"""


class OpenVino:
    """A graph in OpenVINO, in one precision."""

    def __init__(self, path: Path, precision: str) -> None:
        core = import_openvino().Core()
        self.compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})

    def __call__(self, given: NDArray[Any]) -> Rows:
        return np.array(self.compiled(given)[0], np.float32)


class Trimmed:
    """A text graph without the columns past the longest caption, where it takes rows of any length."""

    def __init__(self, path: Path, precision: str) -> None:
        self.run = OpenVino(path, precision)
        self.free = self.run.compiled.input(0).partial_shape[1].is_dynamic

    def __call__(self, token_BT: NDArray[Any]) -> Rows:
        longest = int(token_BT.argmax(axis=1).max()) + 1
        return self.run(np.ascontiguousarray(token_BT[:, :longest]) if self.free else token_BT)


def random_run(folder: Path) -> Path:
    """A run of CLIP's own size with random weights."""
    values = {
        "data": {"name": "cuhk-pedes", "image_size": [384, 128]},
        "method": {"name": "clip", "tower": "ViT-B-16", "weights": "random"},
    }
    recipe = build_recipe(Draft(values, {}, "bench"))
    method = build(recipe)
    method.initialise(torch.Generator().manual_seed(0))
    Run.create(folder, recipe).save_weights("best", method.state_dict(), {})
    return folder


def prepare(model: Model, place: Path) -> None:
    """Every form of the model that is not there yet."""
    few = Examples([np_image(model, seed) for seed in range(4)], captions(4))
    for name, quantize in ((FP32, None), (INT8, "int8")):
        if not (place / name).exists():
            export(model, place / name, formats=["onnx"], quantize=quantize, examples=few, force=True)
    if not (place / IR).exists():
        openvino = import_openvino()
        for graph in ("image", "text"):
            found = openvino.Core().read_model(place / FP32 / f"{graph}.onnx")
            openvino.save_model(found, place / IR / f"{graph}.xml", compress_to_fp16=False)


def np_image(model: Model, seed: int) -> Any:
    """A smooth image of noise."""
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (12, 4, 3), np.uint8)
    return Image.fromarray(noise).resize((150, 400))


def captions(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(12, 41))) for _ in range(count)]


def torch_ways(model: Model) -> dict[str, tuple[Way, Way, int]]:
    """Name -> images, captions, rows at a time."""

    def bf16(way: Way) -> Way:
        def run(given: NDArray[Any]) -> Rows:
            with torch.autocast("cpu", torch.bfloat16):
                return way(given)

        return run

    def compiled(encode: Callable[[torch.Tensor], torch.Tensor]) -> Way:
        quick = torch.compile(encode)

        def run(given: NDArray[Any]) -> Rows:
            with torch.inference_mode():
                found: Rows = quick(torch.from_numpy(given)).numpy()
            return found

        return run

    return {
        "PyTorch fp32": (model.image_arrays, model.text_arrays, BATCH),
        "PyTorch bf16": (bf16(model.image_arrays), bf16(model.text_arrays), BATCH),
        "torch.compile fp32": (compiled(model.method.encode_images), compiled(model.method.encode_texts), BATCH),
    }


def ways(model: Model, place: Path, only: Sequence[str]) -> dict[str, tuple[Way, Way, int]]:
    """All ways, PyTorch in float32 first; one that cannot be opened is left out with a line."""
    fp32, int8, ir = place / FP32, place / INT8, place / IR
    waiting: dict[str, Callable[[], tuple[Way, Way, int]]] = {
        "onnxruntime fp32": lambda: (Graph(fp32 / "image.onnx"), TextGraph(fp32 / "text.onnx"), BATCH),
        "onnxruntime int8": lambda: (Graph(int8 / "image.onnx"), TextGraph(int8 / "text.onnx"), 1),
        "OpenVINO fp32": lambda: (OpenVino(fp32 / "image.onnx", "f32"), Trimmed(fp32 / "text.onnx", "f32"), BATCH),
        "OpenVINO fp32, its format": lambda: (
            OpenVino(ir / "image.xml", "f32"),
            Trimmed(ir / "text.xml", "f32"),
            BATCH,
        ),
        "OpenVINO bf16": lambda: (OpenVino(fp32 / "image.onnx", "bf16"), Trimmed(fp32 / "text.onnx", "bf16"), BATCH),
        "OpenVINO bf16, its format": lambda: (
            OpenVino(ir / "image.xml", "bf16"),
            Trimmed(ir / "text.xml", "bf16"),
            BATCH,
        ),
        "OpenVINO int8": lambda: (OpenVino(int8 / "image.onnx", "f32"), Trimmed(int8 / "text.onnx", "f32"), 1),
    }
    made = torch_ways(model)
    for name, opened in waiting.items():
        if not only or name in only:
            try:
                made[name] = opened()
            except RuntimeError as error:
                print(f"{name} cannot be opened: {' '.join(str(error).split()):.200}")
    exact = next(iter(made))
    return {name: way for name, way in made.items() if not only or name in (exact, *only)}


def through(way: Way, given: NDArray[Any], size: int) -> tuple[Rows, float]:
    """The rows, and rows a second."""
    began = time.perf_counter()
    rows = np.concatenate([way(given[start : start + size]) for start in range(0, len(given), size)])
    return rows, len(given) / (time.perf_counter() - began)


def measure(every: dict[str, tuple[Way, Way, int]], given: Sequence[NDArray[Any]], rounds: int) -> None:
    """Alternating rounds, then the table."""
    fastest = {name: [0.0, 0.0] for name in every}
    rows: dict[str, list[Rows]] = {}
    for name, (image, text, size) in list(every.items()):
        try:
            rows[name] = [through(way, some, size)[0] for way, some in zip((image, text), given, strict=True)]
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            print(f"{name} does not run: {' '.join(str(error).split()):.200}")
            del every[name]
    for _ in range(rounds):  # the first time opened and compiled
        for name, (image, text, size) in every.items():
            for which, (way, some) in enumerate(zip((image, text), given, strict=True)):
                fastest[name][which] = max(fastest[name][which], through(way, some, size)[1])
    exact = next(iter(every))
    heading = f"{'images/s':>10}{'ratio':>7}{'cosine':>10}{'captions/s':>13}{'ratio':>7}{'cosine':>10}"
    print(f"{'':28}{heading}")
    for name in every:
        line = f"{name:28}"
        for which, width in ((0, 10), (1, 13)):
            speed, cosine = fastest[name][which], float((rows[name][which] * rows[exact][which]).sum(1).min())
            line += f"{_machine.rate(speed):>{width}}{speed / fastest[exact][which]:>7.2f}{cosine:>10.5f}"
        print(line)


def opening(place: Path, shape: Sequence[int]) -> None:
    """A process for each way of opening the image graph."""
    graph, own = str(place / FP32 / "image.onnx"), str(place / IR / "image.xml")
    every = {
        "onnxruntime fp32": ("onnxruntime", graph, "f32"),
        "OpenVINO fp32": ("openvino", graph, "f32"),
        "OpenVINO fp32, its format": ("openvino", own, "f32"),
        "OpenVINO bf16": ("openvino", graph, "bf16"),
        "OpenVINO bf16, its format": ("openvino", own, "bf16"),
    }
    print(f"{'':28}{'first s':>10}{'peak MB':>10}")
    for name, words in every.items():
        taken = []
        for _ in range(2):
            command = [sys.executable, "-P", "-c", OPENING, *words, json.dumps([BATCH, *shape])]
            taken.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        print(f"{name:28}{min(one[0] for one in taken):>10.2f}{max(one[1] for one in taken):>10.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--place", type=Path)
    for name, value in (("images", 16), ("captions", 32), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("only", "without"):
        parser.add_argument(f"--{name}", metavar="NAME", action="append", default=[], help="of a way; repeatable")
    options = parser.parse_args(argv)
    print(_machine.line())
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder)
        place.mkdir(exist_ok=True)
        run = options.ckpt or place / "run"
        if not run.exists():
            random_run(run)
        model = open_model(run, device="cpu")
        assert isinstance(model, Model)
        prepare(model, place)
        if not options.rounds:
            return
        images = np.stack([model.transform(np_image(model, seed)) for seed in range(options.images)])
        given = images, model.tokenizer(captions(options.captions))
        every = ways(model, place, options.only)
        measure({name: way for name, way in every.items() if name not in options.without}, given, options.rounds)
        if not options.only:
            opening(place, images.shape[1:])


if __name__ == "__main__":
    main()
