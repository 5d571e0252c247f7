"""bfloat16 beside float32: the same encoder as far as a ranking goes, with torch and with OpenVINO."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from tbps_cli.exporting.agree import Agreement
from tbps_cli.features import image_ways
from tbps_cli.features.image_ways import ImagesBy, has_bf16, own_way
from tbps_cli.models import exported as exported_module
from tbps_cli.models import kept_images, openvino_graph
from tbps_cli.models import model as model_module
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.kept_files import seal
from tbps_cli.models.kept_tower import SWITCH, older
from tbps_cli.models.known_run import KnownRun, ready_run
from tbps_cli.models.model import Model, halved
from tbps_cli.models.openvino_graph import NAME, OpenVinoGraph, rounded
from tbps_cli.models.run import Run

pytestmark = pytest.mark.xdist_group("export")  # its fixtures take seconds: one worker makes them
with_openvino = pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")


@pytest.fixture
def images(model: Model) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 3, *model.transform.size)).astype(np.float32)


@pytest.fixture
def bf16_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_module, exported_module):
        monkeypatch.setattr(module, "has_bf16", lambda: True)


def test_torch_in_bfloat16_agrees_and_leaves_everything_else_as_it_is(
    model: Model, images: np.ndarray, bf16_processor: None
) -> None:
    exact, *_, quick = model.image_ways()
    before = model.encode_texts(["a man"])
    rows, near = exact.embed(images), quick.embed(images)
    assert (near.dtype, near.shape) == (np.float32, rows.shape)
    assert abs(np.linalg.norm(near, axis=1) - 1).max() < 1e-6
    assert (rows * near).sum(axis=1).min() > 0.999 and not np.array_equal(rows, near)
    assert np.array_equal(model.image_arrays(images), rows) and np.array_equal(model.encode_texts(["a man"]), before)
    assert ImagesBy(model, quick).fingerprint == f"{model.fingerprint}-bf16"
    assert all(tensor.dtype == torch.float32 for tensor in model.method.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(model.image_arrays(images), near), "weights that are bfloat16 already change no bit"


def test_weights_are_halved_in_a_copy_that_shares_the_rest(model: Model) -> None:
    made = halved(model.method, None)
    shared = {id(tensor) for tensor in model.method.parameters()}
    own = {name: tensor for name, tensor in made.named_parameters() if id(tensor) not in shared}
    assert own and all(
        name.startswith("clip.visual.") and tensor.dtype == torch.bfloat16 for name, tensor in own.items()
    )
    assert all(tensor.dtype == torch.float32 for name, tensor in made.named_parameters() if name not in own)


def test_numbers_are_rounded_to_bfloat16_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32)
    number_X = np.concatenate(
        [bits.view(np.float32), np.float32([0, -0.0, 1, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-40])]
    )
    number_X = number_X[np.isfinite(number_X)]
    expected = torch.from_numpy(number_X).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(rounded(number_X), expected)


@with_openvino
def test_holding_weights_in_bfloat16_changes_no_bit_of_what_openvino_computes(
    exported: tuple[Path, Agreement], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    graph = exported[0] / "image.onnx"
    core = openvino.Core()
    plain = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    monkeypatch.setattr(openvino_graph, "_LARGE", 64)
    assert np.array_equal(OpenVinoGraph(graph)(images), plain(images)[0])


@with_openvino
@pytest.mark.slow
def test_a_run_keeps_its_image_tower_for_openvino(
    model: Model, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv(SWITCH, "1")
    run = Run(model.path)
    os.utime(run.weights_file, (1, 1))
    known = ready_run(run, "cpu")
    assert [way.name for way in known.image_ways()] == ["fp32", NAME, "bf16"]
    rows = known.image_arrays(images)
    with caplog.at_level(logging.INFO, "tbps"):
        near = known.image_ways()[1].embed(images)
    assert "is kept as a graph for OpenVINO" in caplog.text and SWITCH in caplog.text
    assert near.shape == rows.shape and (rows * near).sum(axis=1).min() > 0.999
    one = np.concatenate([known.image_ways()[1].embed(images[[place]]) for place in range(len(images))])
    assert abs(one - near).max() < 1e-2, "batches of any size"
    again = ready_run(run, "cpu")
    assert isinstance(again, KnownRun) and again.fingerprint == known.fingerprint
    way = again.image_ways()[1]
    assert np.array_equal(way.embed(images), near) and again.opened is None
    way.release()
    assert np.array_equal(way.embed(images), near)
    (folder,) = (tmp_path / "cache" / "towers").iterdir()
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:500])
    damaged = ready_run(run, "cpu")
    assert abs(damaged.image_ways()[1].embed(images) - near).max() < 1e-2, "it is made anew"
    assert [path.name for path in (tmp_path / "cache" / "towers").iterdir()] == [folder.name]
    shutil.rmtree(folder)
    monkeypatch.setenv(SWITCH, "0")
    assert abs(ready_run(run, "cpu").image_ways()[1].embed(images) - near).max() < 1e-2
    assert list((tmp_path / "cache" / "towers").iterdir()) == []


@with_openvino
def test_a_known_run_embeds_by_the_kept_graph_and_opens_nothing(
    model: Model, exported: tuple[Path, Agreement], images: np.ndarray
) -> None:
    openvino = pytest.importorskip("openvino")
    run = Run(model.path)
    os.utime(run.weights_file, (1, 1))
    ready_run(run, "cpu")
    folder = kept_images.place_of(run.weights_file, model.fingerprint)
    folder.mkdir(parents=True)
    made = openvino.Core().read_model(exported[0] / "image.onnx")
    openvino.save_model(made, folder / kept_images.GRAPH, compress_to_fp16=False)
    seal(folder)
    known = ready_run(run, "cpu")
    rows, near = model.image_arrays(images), known.image_ways()[1].embed(images)
    assert isinstance(known, KnownRun) and known.opened is None
    assert (rows * near).sum(axis=1).min() > 0.999
    assert older(run, model.fingerprint) == [] and older(run, "0" * 16) == [folder]


def test_without_bfloat16_in_the_processor_there_is_one_way(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "has_bf16", lambda: False)
    assert [way.suffix for way in model.image_ways()] == [""]
    monkeypatch.setattr(image_ways, "processor", lambda: ("old", frozenset({"avx2"})))
    assert not has_bf16()


def test_a_model_that_depends_on_its_batch_has_one_way(
    model: Model, monkeypatch: pytest.MonkeyPatch, bf16_processor: None
) -> None:
    monkeypatch.setattr(model, "batch_dependent", "it depends")
    assert [way.name for way in model.image_ways()] == ["fp32"]


@with_openvino
def test_openvino_runs_an_export_in_bfloat16(exported: tuple[Path, Agreement], images: np.ndarray) -> None:
    pytest.importorskip("onnxruntime")
    if not openvino_graph.is_there():
        pytest.skip("openvino is not installed")
    found = ExportedModel(exported[0])
    own, quick = found.image_ways()
    assert quick.name == "bf16 (OpenVINO)"
    rows, near = own.embed(images), quick.embed(images)
    again = quick.embed(images[::-1].copy())
    assert (rows * near).sum(axis=1).min() > 0.999
    assert abs(near - again[::-1]).max() < 1e-3, "what was returned before is not written over"
    assert abs(np.linalg.norm(near, axis=1) - 1).max() < 1e-3


@with_openvino
def test_openvino_reports_nothing_to_its_maker() -> None:
    code = (
        "import sys; from tbps_cli.models.openvino_graph import import_openvino; import_openvino();"
        "assert sys.modules['openvino_telemetry'] is None and 'torch' not in sys.modules"
    )
    if not openvino_graph.is_there():
        pytest.skip("openvino is not installed")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_openvino_and_in_int8_an_export_has_its_own_way(
    exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch, bf16_processor: None
) -> None:
    monkeypatch.setattr(openvino_graph, "is_there", lambda: False)
    found = ExportedModel(exported[0])
    assert [way[:3] + way[4:5] for way in map(astuple, found.image_ways())] == [("fp32", "fp32", "", 8)]
    monkeypatch.undo()
    found.precision = "int8"
    assert [way.precision for way in found.image_ways()] == ["int8"] and own_way(found).batch == found.batch
