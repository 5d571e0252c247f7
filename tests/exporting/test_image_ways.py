"""bfloat16 beside float32: the same encoder as far as a ranking goes, with torch and with OpenVINO."""

from __future__ import annotations

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
from tbps_cli.models import model as model_module
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.model import Model

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
    exact, quick = model.image_ways()
    before = model.encode_texts(["a man"])
    rows, near = exact.embed(images), quick.embed(images)
    assert (near.dtype, near.shape) == (np.float32, rows.shape)
    assert abs(np.linalg.norm(near, axis=1) - 1).max() < 1e-6
    assert (rows * near).sum(axis=1).min() > 0.999 and not np.array_equal(rows, near)
    assert np.array_equal(model.image_arrays(images), rows) and np.array_equal(model.encode_texts(["a man"]), before)
    assert ImagesBy(model, quick).fingerprint == f"{model.fingerprint}-bf16"
    assert model.method.clip.visual.proj.dtype == torch.float32


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
    if exported_module.find_spec("openvino") is None:
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
    if exported_module.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_openvino_and_in_int8_an_export_has_its_own_way(
    exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch, bf16_processor: None
) -> None:
    monkeypatch.setattr(exported_module, "find_spec", lambda name: None)
    found = ExportedModel(exported[0])
    assert [way[:3] + way[4:5] for way in map(astuple, found.image_ways())] == [("fp32", "fp32", "", 8)]
    monkeypatch.undo()
    found.precision = "int8"
    assert [way.precision for way in found.image_ways()] == ["int8"] and own_way(found).batch == found.batch
