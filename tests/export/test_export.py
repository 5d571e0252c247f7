"""An export gives the model's own answers, or nothing is kept."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import oracles

from tbps_cli.errors import TbpsError, UsageError, WeightsError
from tbps_cli.export import exporter as module
from tbps_cli.export import graphs
from tbps_cli.export.agree import TOLERANCE, Agreement, Examples, compare
from tbps_cli.export.exporter import export
from tbps_cli.export.samples import samples
from tbps_cli.models import open_model
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.model import Model
from tbps_cli.weights.files import read_metadata, read_safetensors


def entries(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}


def test_the_graphs_agree_with_the_model(exported: tuple[Path, Agreement]) -> None:
    agreement = exported[1]
    assert agreement.holds and (agreement.images, agreement.captions) == (7, 4)
    assert agreement.image_difference <= 1e-5
    assert agreement.text_difference <= 1e-5


def test_a_graph_takes_any_number_of_rows(model: Model, exported: tuple[Path, Agreement]) -> None:
    session = onnxruntime.InferenceSession(str(exported[0] / "image.onnx"))
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, 33):
        image_BCHW = torch.randn(count, 3, *model.transform.size, generator=generator).numpy()
        row_BE = session.run(None, {"image": image_BCHW})[0]
        assert np.abs(row_BE - model.image_arrays(image_BCHW)).max() <= 1e-5
        assert np.abs(np.linalg.norm(row_BE, axis=1) - 1).max() <= 1e-5


def test_a_graph_says_how_to_feed_it_and_whose_it_is(model: Model, exported: tuple[Path, Agreement]) -> None:
    for name in ("image.onnx", "text.onnx"):
        facts = json.loads(entries(exported[0] / name)["tbps"])
        assert facts["transform"] == model.transform.describe()
        assert facts["tokenizer"] == model.tokenizer.describe()
        assert facts["fingerprint"] == model.fingerprint
        assert facts["method"] == "irra"


def test_the_folder_is_a_model_of_its_own(model: Model, exported: tuple[Path, Agreement], examples: Examples) -> None:
    opened = open_model(exported[0])
    assert isinstance(opened, ExportedModel)
    assert (opened.name, opened.data, opened.embed) == (model.name, model.data, model.embed)
    assert (opened.fingerprint, opened.selected_on) == (model.fingerprint, "val")
    texts = ["<|endoftext|> a man", "a <|mask|>"]
    assert np.abs(opened.encode_texts(texts, query=True) - model.encode_texts(texts, query=True)).max() <= 1e-5
    told: list[tuple[int, int]] = []
    rows = opened.encode_images(examples.images, batch=3, progress=lambda done, total: told.append((done, total)))
    assert np.abs(rows - model.encode_images(examples.images)).max() <= 1e-5
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert opened.encode_images([]).shape == (0, model.embed) == opened.encode_texts([]).shape


def test_the_weights_are_a_run_that_opens_without_heads_of_training(
    model: Model, exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    for name in ("recipe.toml", "model.safetensors"):
        shutil.copy(exported[0] / name, tmp_path)
    state = read_safetensors(tmp_path / "model.safetensors")
    assert all(name.startswith("clip.") for name in state)
    again = open_model(tmp_path, device="cpu")
    assert isinstance(again, Model) and again.selected_on == "val"
    assert again.encode_texts(["a man"]).tolist() == model.encode_texts(["a man"]).tolist()
    assert again.fingerprint == model.fingerprint
    assert json.loads(read_metadata(tmp_path / "model.safetensors")["tbps"])["method"] == "irra"


def test_the_card_and_the_manifest_report_the_comparison(exported: tuple[Path, Agreement]) -> None:
    manifest = json.loads((exported[0] / "tbps.json").read_text())
    assert manifest["agreement"]["holds"] and manifest["agreement"]["images"] == 7
    assert "Checked on 7 images and 4 captions" in (exported[0] / "README.md").read_text()


def test_every_file_may_be_read_by_whom_the_recipe_may(exported: tuple[Path, Agreement]) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in exported[0].iterdir()}
    assert len(modes) == 1


def test_int8_graphs_stay_close_and_are_smaller(
    model: Model, exported: tuple[Path, Agreement], examples: Examples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "int8"
    shutil.copytree(exported[0], out)
    graphs.quantise(out)
    agreement = compare(model, ExportedModel(out), examples, tolerance=TOLERANCE["int8"])
    assert agreement.holds and agreement.image_difference > 1e-5
    assert not list(out.glob("*.data")) and "tbps" in entries(out / "text.onnx")
    assert (out / "text.onnx").stat().st_size < 0.5 * (exported[0] / "text.onnx.data").stat().st_size
    assert not caplog.records


def test_an_int8_row_does_not_depend_on_its_batch(
    exported: tuple[Path, Agreement], examples: Examples, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    shutil.copytree(exported[0], out)
    graphs.quantise(out)
    for precision, independent in (("fp32", False), ("int8", True)):  # fp32: as if nobody knew that these are int8
        facts = json.loads((out / "tbps.json").read_text())
        (out / "tbps.json").write_text(json.dumps(facts | {"precision": precision}))
        opened = ExportedModel(out)
        together = opened.encode_images(examples.images), opened.encode_texts(examples.captions)
        alone = [opened.encode_images([image])[0] for image in examples.images]
        apart = [opened.encode_texts([text])[0] for text in examples.captions]
        assert (np.array_equal(together[0], alone) and np.array_equal(together[1], apart)) == independent
        assert opened.fingerprint.endswith("-alone") == independent, "rows of batches are not taken for these"


class Stub:
    """Writes no graphs, so that what follows can be tested in no time."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def __call__(self, method: object, folder: Path, *_: object) -> None:
        for path in self.source.glob("*.onnx*"):
            shutil.copy(path, folder)


@pytest.fixture
def quick(exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "write_graphs", Stub(exported[0]))


@pytest.mark.usefixtures("quick")
def test_above_the_tolerance_nothing_is_kept(model: Model, examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(TbpsError, match="Nothing was kept"):
        export(model, tmp_path / "out", examples=examples, tolerance=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.usefixtures("quick")
def test_a_graph_that_gives_nan_is_not_kept(
    model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ExportedModel._run
    monkeypatch.setattr(ExportedModel, "_run", lambda *given: real(*given) * np.nan)
    with pytest.raises(TbpsError, match="differ from the model by up to inf"):
        export(model, tmp_path / "out", examples=examples)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_export_leaves_nothing(
    model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "out", examples=examples)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_another_one_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export(model, tmp_path / "empty", formats=["safetensors"]) is None
    assert (tmp_path / "empty" / "model.safetensors").is_file()
    with pytest.raises(UsageError, match="exists already"):
        export(model, tmp_path / "empty", formats=["safetensors"])


def test_a_place_that_cannot_be_written_is_a_clear_error(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TbpsError, match="cannot be written"):
        export(model, tmp_path / "file" / "out", formats=["safetensors"])


def test_a_batch_dependent_model_is_refused_with_its_reason(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "batch_dependent", "attention runs across the batch; set method.attention_axis=token")
    with pytest.raises(TbpsError, match=r"method\.attention_axis=token"):
        export(model, tmp_path / "out")


def test_int8_without_graphs_makes_no_sense(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --format onnx"):
        export(model, tmp_path / "out", formats=["safetensors"], quantize="int8")


def test_a_tower_with_a_fixed_batch_is_not_exported_quietly(model: Model, tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.sum(dim=(1, 2, 3)).expand(2)

    with pytest.raises(TbpsError, match="could not turn the image tower into a graph"):
        graphs._write(Fixed(), torch.zeros(2, 3, 4, 4), "image", tmp_path / "image.onnx", {})


# open_clip's folder ---------------------------------------------------------------------------


def test_open_clip_opens_the_hub_folder_and_gives_the_same_rows(
    model: Model, examples: Examples, tmp_path: Path
) -> None:
    export(model, tmp_path / "hub", formats=["hub"])
    oracles.torchvision()
    open_clip = pytest.importorskip("open_clip")
    name = f"local-dir:{tmp_path / 'hub'}"
    theirs, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(list(examples.captions))
    images = torch.stack([transform(image) for image in examples.images])
    with torch.no_grad():
        image_BE = theirs.eval().encode_image(images, normalize=True)
        text_BE = theirs.encode_text(tokens, normalize=True)
    assert np.abs(image_BE.numpy() - model.encode_images(examples.images)).max() <= 1e-5
    assert np.abs(text_BE.numpy() - model.encode_texts(examples.captions)).max() <= 1e-5
    assert abs(float(theirs.logit_scale.detach().exp()) - 1 / model.recipe.method.temperature) < 1e-3


def test_a_method_that_does_more_than_clip_has_no_hub_folder(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model.method), "encode_texts", lambda self, token_BT: torch.ones(len(token_BT), 16) / 4)
    with pytest.raises(UsageError, match="is more than a CLIP model"):
        export(model, tmp_path / "hub", formats=["hub"])


# Damaged exports ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("fingerprint", "../../x"), ("embed", "16"), ("method", None), ("transform", {}), ("tokenizer", {"kind": "x"})],
)
def test_a_damaged_manifest_is_named(exported: tuple[Path, Agreement], tmp_path: Path, key: str, value: object) -> None:
    shutil.copytree(exported[0], tmp_path / "damaged")
    manifest = json.loads((tmp_path / "damaged" / "tbps.json").read_text())
    (tmp_path / "damaged" / "tbps.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(TbpsError):
        open_model(tmp_path / "damaged")


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_a_manifest_that_is_no_manifest_is_named(exported: tuple[Path, Agreement], tmp_path: Path, text: str) -> None:
    shutil.copytree(exported[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "tbps.json").write_text(text)
    with pytest.raises(WeightsError, match=r"tbps\.json"):
        open_model(tmp_path / "damaged")


def test_a_damaged_graph_is_named(exported: tuple[Path, Agreement], tmp_path: Path) -> None:
    shutil.copytree(exported[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "text.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match=r"text\.onnx: onnxruntime cannot open it"):
        open_model(tmp_path / "damaged")


def test_without_its_data_set_an_export_is_compared_on_drawn_pedestrians(model: Model, tmp_path: Path) -> None:
    found = samples(model, tmp_path, count=4)
    assert found.source == "drawn pedestrians" and len(found.images) == 4 == len(found.captions)
    assert all("a" in caption for caption in found.captions)
