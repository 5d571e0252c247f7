"""The benchmarks run, and what they compare is the same work; no test looks at a time."""

import importlib.util
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "scripts" / "benchmarks"


@cache
def benchmark(name):
    """A benchmark as a module; they are scripts, and some bear names of other modules."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def words(**options):
    """Options as a command line has them."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_the_machine_is_described_without_a_path_or_a_name():
    said = benchmark("_machine").line()
    assert "cores" in said and f"torch {torch.__version__}" in said
    assert "/" not in said and "\\" not in said


def test_the_peak_of_a_gpu_is_found_by_its_more_special_name(monkeypatch):
    machine = benchmark("_machine")
    assert machine.peak_flops() is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, peak in (("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert machine.peak_flops() == peak


def test_captions_have_the_lengths_of_cuhk_pedes():
    text = benchmark("text")
    length = text.lengths(20000)
    assert 2 + 1.18 * 22.5 < length.mean() < 2 + 1.18 * 24.5
    assert length.min() >= 16 and length.max() <= 77
    token_BT = text.captions(50)
    assert np.array_equal(token_BT.argmax(-1).numpy() + 1, text.lengths(50))


def test_the_text_benchmark_compares_equal_features(capsys):
    assert benchmark("text").main(words(layers=1, width=64, captions=24, batch=16, rounds=1)) == 0
    said = capsys.readouterr().out
    assert "largest relative difference" in said and said.count("\n") == 7


def test_the_usual_pictures_and_ours_are_the_same_but_for_their_draws(tmp_path):
    data = benchmark("data")
    split = data.write_pictures(tmp_path, 5)
    assert {path.suffix for path in split.paths} == {".png", ".jpg"}
    usual, tokens = next(iter(data.usual_loader(split, 5, 0)))
    assert usual.shape == (5, 3, *data.SIZE) and tokens.shape == (5, 77)
    plain = data.Views({"image": data.CLIP_TRAIN.__class__()})
    exact = next(data.Loader(split, plain, data.Bpe(), data.SIZE, batch=5, seed=1).epoch(0))
    assert usual.mean() == pytest.approx(exact.images["image"].mean().item(), abs=0.4)


def test_the_data_benchmark_names_every_way(capsys):
    assert benchmark("data").main(words(pictures=8, batch=4, rounds=1, workers=0)) == 0
    said = capsys.readouterr().out
    for way in ("the usual way", "ours, exact, from files", "ours, exact, decoded before", "ours, whole batches"):
        assert way in said


def test_curves_become_a_picture_that_a_browser_reads():
    scaling = benchmark("scaling")
    drawn = scaling.plot({"a step": [(4, 0.1), (8, 0.19), (16, 0.5)], "memory": [(4, 100.0), (16, 90.0)]})
    root = ET.fromstring(drawn)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert root.tag.endswith("svg") and len(lines) == 2
    x, y = (float(value) for value in lines[0].get("points").split()[1].split(","))
    span = 3  # log2 of 5x, rounded up
    assert x == pytest.approx(60 + 480 / span) and y == pytest.approx(520 - 480 / span * np.log2(1.9), abs=0.1)


@pytest.mark.slow
def test_the_training_benchmark_says_where_the_time_goes(capsys):
    small = [f"method.tower.{key}=32" for key in ("width", "text_width", "embed")]
    sets = [word for key in small for word in ("--set", key)]
    for recipe in ("irra", "dm_adapter"):
        assert benchmark("train").main(["--recipe", recipe, "--batch", "4", "--steps", "2", *sets]) == 0
    said = capsys.readouterr().out
    for part in ("data", "forward", "losses", "backward", "optimiser", "peak memory", "frozen towers"):
        assert part in said


@pytest.mark.slow
def test_the_parts_of_the_training_step_are_put_back(tmp_path):
    train = benchmark("train")
    bench = train.Bench(train.write_set(tmp_path, 8, (384, 128)), "irra", "cpu", ["train.batch=4"], train.TINY)
    before = torch.Tensor.backward, train.distributed.gather
    found = bench.phases(1)
    assert {"data", "forward", "losses", "backward", "optimiser", "gather", "rest"} == set(found)
    assert (torch.Tensor.backward, train.distributed.gather) == before
    assert "losses" not in bench.method.__dict__ and "step" not in bench.stepper.optimizer.__dict__
    assert train.peak(bench) > sum(parameter.numel() * 16 for parameter in bench.method.parameters())
    bench.parts.loader.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_training_benchmark_runs_on_a_gpu(capsys):
    assert benchmark("train").main(["--device", "cuda", "--batch", "16", "--steps", "3"]) == 0
    assert "pairs/s" in capsys.readouterr().out
