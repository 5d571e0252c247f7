"""`--fused`: the image graph takes images as they are, and makes of them what the transform makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from tbps_cli.augment.transform import CLIP_EVAL, IMAGENET_EVAL, EvalTransform, Preparation
from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.exporting import fused, graphs
from tbps_cli.exporting.agree import Agreement, Examples
from tbps_cli.exporting.exporter import export
from tbps_cli.models import exported as exported_module
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.model import Model

pytestmark = pytest.mark.xdist_group("export")  # its fixtures take seconds: one worker makes them


class Copied:
    """Writes the graphs of the shared export, so that nothing has to be traced."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def __call__(self, _method: object, folder: Path, *_: object, **__: object) -> None:
        for path in self.source.glob("*.onnx*"):
            shutil.copy(path, folder)


@pytest.fixture
def written(exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "write_graphs", Copied(exported[0]))


@pytest.fixture(scope="module")
def folder(
    model: Model, exported: tuple[Path, Agreement], examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("fused") / "irra"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "write_graphs", Copied(exported[0]))
        agreement = export(model, out, formats=["onnx"], fused=True, examples=examples)
    assert agreement is not None and agreement.fused is not None
    assert agreement.fused.pixel_difference == 0 and agreement.fused.image_difference <= 1e-5
    return out


@pytest.mark.parametrize("numbers", [CLIP_EVAL, IMAGENET_EVAL], ids=["bilinear", "bicubic"])
def test_the_graph_prepares_images_of_every_size_as_the_transform_does_to_the_bit(numbers: Preparation) -> None:
    """Both orders of the two passes, both directions of each, one of them alone, and none."""
    rng, transform = np.random.default_rng(0), EvalTransform((48, 20), **numbers)
    session = onnxruntime.InferenceSession(fused.preparation(transform).SerializeToString())
    sides = [(1, 1), (48, 20), (48, 33), (90, 20), (49, 3), (400, 40), (31, 200), (300, 31), (3, 2), (260, 130)]
    for height, width in sides:
        noise = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        noise[1] = np.where(noise[1] > 127, 255, 0)  # overshoots with bicubic weights
        found = session.run(None, {"pixels": noise})[0]
        assert found.dtype == np.float32
        for one, pixels in zip(found, noise, strict=True):
            assert np.array_equal(one, transform(Image.fromarray(pixels))), (height, width)


def test_a_fused_folder_says_what_it_takes_and_a_program_gives_it_that(folder: Path, model: Model) -> None:
    graph = onnx.load(folder / "image.onnx", load_external_data=False)
    for facts in (json.loads((folder / "tbps.json").read_text()), json.loads(graph.metadata_props[0].value)):
        assert facts["fused"]["input"].startswith("uint8 [B, H, W, 3]")
    assert (
        "`image.onnx`" in (folder / "README.md").read_text() or "image.onnx takes" in (folder / "README.md").read_text()
    )
    session = onnxruntime.InferenceSession(folder / "image.onnx")
    assert session.get_inputs()[0].type == "tensor(uint8)"
    frames = np.random.default_rng(0).integers(0, 256, (3, 71, 40, 3), np.uint8)
    rows = session.run(None, {"pixels": frames})[0]
    assert np.abs(rows - model.encode_images([Image.fromarray(frame) for frame in frames])).max() <= 1e-5


def test_a_fused_folder_is_a_checkpoint_like_any_other(folder: Path, model: Model, examples: Examples) -> None:
    opened = ExportedModel(folder)
    assert opened.fused and opened.fingerprint == model.fingerprint
    assert np.abs(opened.encode_images(examples.images) - model.encode_images(examples.images)).max() <= 1e-5
    prepared = np.stack([opened.transform(image) for image in examples.images])
    assert prepared.dtype == np.uint8
    assert np.array_equal(opened.image_arrays(prepared), opened.encode_images(examples.images))


def test_openvino_takes_a_fused_folder_too(folder: Path, examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(exported_module, "has_bf16", lambda: True)
    opened = ExportedModel(folder)
    own, quick = opened.image_ways()
    prepared = np.stack([opened.transform(image) for image in examples.images])
    assert (own.embed(prepared) * quick.embed(prepared)).sum(1).min() > 0.999


def test_int8_graphs_are_fused_too(model: Model, examples: Examples, tmp_path: Path, written: None) -> None:
    agreement = export(model, tmp_path / "out", quantize="int8", fused=True, examples=examples, force=True)
    assert agreement is not None and agreement.fused is not None and agreement.fused.holds
    assert np.isfinite(ExportedModel(tmp_path / "out").encode_images(examples.images)).all()


def test_values_that_are_not_the_transform_s_are_refused(
    model: Model, examples: Examples, tmp_path: Path, written: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "BITS", 7)  # weights too coarse
    with pytest.raises(TbpsError, match=r"with --fused, values differ by up to .* Nothing was kept"):
        export(model, tmp_path / "out", formats=["onnx"], fused=True, examples=examples)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--fused needs --format onnx"):
        export(model, tmp_path / "out", formats=["safetensors"], fused=True)
