"""An export gives the model's own answers, or nothing is kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support import oracles
from support.sets import cuhk_records, write_set

from tbps_cli.errors import MissingExtra, TbpsError, UsageError, WeightsError
from tbps_cli.exporting import graphs
from tbps_cli.exporting import write as module
from tbps_cli.exporting.agree import TOLERANCE, Agreement, Examples, compare
from tbps_cli.exporting.exporter import export
from tbps_cli.exporting.samples import samples
from tbps_cli.models import export_files, onnx_graph, open_model
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.model import Model
from tbps_cli.probing.degrade import degrade
from tbps_cli.probing.probe import probe
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.searching.query import Query
from tbps_cli.searching.search import search_all
from tbps_cli.weights.weights_file import read_metadata, read_safetensors

pytestmark = pytest.mark.xdist_group("export")  # its fixtures take seconds: one worker makes them


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


def test_a_folder_is_degraded_and_probed_as_its_model_is(
    model: Model, exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    records = cuhk_records(persons=(1, 1, 6))
    for record in records:
        record["captions"] = ["A man in a red coat and black trousers.", "He wears a white shirt and blue shorts."]
    write_set(tmp_path / "CUHK-PEDES", records)
    options: dict[str, Any] = {"data": "cuhk-pedes", "data_root": tmp_path}
    rows = [degrade(one, kinds=["occlusion"], **options).document()["curves"] for one in (model, exported[0])]
    assert rows[0] == rows[1]
    margins = [probe(one, **options).margin_N for one in (model, exported[0])]
    assert len(margins[0]) > 20 and np.abs(margins[0] - margins[1]).max() < 1e-5


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


def unsealed(folder: Path) -> None:
    """Let a description be that of an older export, which says nothing of its files, so that they may be changed."""
    facts = json.loads((folder / "tbps.json").read_text())
    kept = {name: value for name, value in facts.items() if name not in (export_files.FILES, export_files.CHECKSUM)}
    (folder / "tbps.json").write_text(json.dumps(kept))


def test_int8_graphs_stay_close_and_are_smaller(
    model: Model, exported: tuple[Path, Agreement], examples: Examples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "int8"
    shutil.copytree(exported[0], out)
    graphs.quantise(out)
    unsealed(out)
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
        facts = export_files.sealed(facts | {"precision": precision, "files": None})
        (out / "tbps.json").write_text(json.dumps(facts))
        opened = ExportedModel(out)
        together = opened.encode_images(examples.images), opened.encode_texts(examples.captions)
        alone = [opened.encode_images([image])[0] for image in examples.images]
        apart = [opened.encode_texts([text])[0] for text in examples.captions]
        assert (np.array_equal(together[0], alone) and np.array_equal(together[1], apart)) == independent
        assert opened.fingerprint.endswith("-alone") == independent, "rows of batches are not taken for these"


@pytest.fixture
def int8(model: Model, examples: Examples, tmp_path: Path, quick: None) -> Path:
    export(model, tmp_path / "int8", quantize="int8", examples=examples, force=True)
    return tmp_path / "int8"


def test_an_int8_export_holds_no_fp32_weights_and_says_how_it_must_be_run(int8: Path) -> None:
    manifest = json.loads((int8 / "tbps.json").read_text())
    assert (manifest["precision"], manifest["formats"]) == ("int8", ["onnx"])
    assert set(manifest["speed"]) == {"images", "captions"} and min(manifest["speed"].values()) > 0
    assert not list(int8.glob("*.safetensors")) and not list(int8.glob("*.data"))
    assert "one image or caption at a time" in (int8 / "README.md").read_text()


@pytest.mark.usefixtures("quick")
def test_int8_graphs_that_are_slower_here_are_kept_only_if_that_is_asked_for(
    model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([(1.0, 1.0), (4.0, 0.5)] * 2)
    monkeypatch.setattr("tbps_cli.exporting.write.seconds", lambda *_: next(times))
    with pytest.raises(TbpsError, match=r"with int8, images take 4\.0 times as long") as refused:
        export(model, tmp_path / "out", quantize="int8", examples=examples)
    assert "--force" in str(refused.value.hint) and not (tmp_path / "out").exists()
    agreement = export(model, tmp_path / "out", quantize="int8", examples=examples, force=True)
    assert "with int8, images take 4.0 times as long on this machine; what it saves is size" in caplog.text
    assert json.loads((tmp_path / "out" / "tbps.json").read_text())["speed"] == {"images": 0.25, "captions": 2.0}
    assert agreement is not None and agreement.document()["speed"] == {"images": 0.25, "captions": 2.0}


@pytest.mark.usefixtures("quick")
def test_int8_is_scored_on_the_run_s_own_data_set_and_refused_where_it_loses_too_much(
    model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(1, 1, 6)))
    monkeypatch.setattr(model, "data", "cuhk-pedes")
    monkeypatch.setattr("tbps_cli.exporting.write.seconds", lambda *_: (1.0, 1.0))
    options: dict[str, Any] = {"quantize": "int8", "examples": examples, "data_root": tmp_path, "max_drop": 100.0}
    agreement = export(model, tmp_path / "int8", **options)
    assert agreement is not None and agreement.scores is not None
    told = json.loads((tmp_path / "int8" / "tbps.json").read_text())["scores"]
    assert told == agreement.scores.document() and told["split"] == "cuhk-pedes test"
    true = evaluate(model, "cuhk-pedes", data_root=tmp_path).scores
    assert told["before"] == {"R1": round(true.R1, 3), "mAP": round(true.mAP, 3)}
    assert f"R@1 {told['after']['R1']:.2f}" in (tmp_path / "int8" / "README.md").read_text()

    worse = iter([true, true._replace(mAP=true.mAP - 3)])
    monkeypatch.setattr("tbps_cli.exporting.int8_rules._scores", lambda *_: next(worse))
    with pytest.raises(TbpsError, match=r"int8 loses 3\.00 percentage points"):
        export(model, tmp_path / "no", **(options | {"max_drop": 2.9}))
    assert not (tmp_path / "no").exists()
    with pytest.raises(UsageError, match="--max-drop"):
        export(model, tmp_path / "no", **(options | {"max_drop": -1.0}))


def test_images_given_as_objects_become_rgb_as_files_do(exported: tuple[Path, Agreement], model: Model) -> None:
    clear = Image.new("RGBA", (20, 50), (10, 20, 30, 0))
    encoder = ExportedModel(exported[0])
    assert np.abs(encoder.encode_images([clear]) - model.encode_images([clear])).max() < 1e-4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["model", "exported"])
def test_a_process_that_forks_after_use_can_go_on_embedding(
    kind: str, exported: tuple[Path, Agreement], model: Model
) -> None:
    """In a process of its own: threads of OpenMP that were used before a fork hang after it."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(model.path if kind == "model" else exported[0])],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "4"},
    )  # fmt: skip
    assert done.stdout.split() == ["equal", "status", "0"], done.stderr


def test_onnxruntime_reports_nothing_to_its_maker(
    exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    ExportedModel(exported[0]).open_text()  # it is imported when a graph is opened
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


FORK = """
import os, signal, sys
import numpy as np
from PIL import Image
import tbps_cli
encoder = tbps_cli.load(sys.argv[1])
images = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (96, 32, 3), np.uint8)) for n in range(64)]
texts = ["a man in red"] * 64
before = encoder.encode_images(images), encoder.encode_texts(texts)
child = os.fork()
if child == 0:
    signal.alarm(60)
    after = encoder.encode_images(images), encoder.encode_texts(texts)
    same = all(np.abs(one - other).max() < 1e-5 for one, other in zip(before, after))
    print("equal" if same else "different")
    sys.exit()  # the way that closes everything
_, status = os.waitpid(child, 0)
print("status", status)
"""


class Stub:
    """Writes no graphs, so that what follows can be tested in no time."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def __call__(self, method: object, folder: Path, *_: object, **__: object) -> None:
        for path in self.source.glob("*.onnx*"):
            shutil.copy(path, folder)


@pytest.fixture
def quick(exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "write_graphs", Stub(exported[0]))


def test_weights_that_are_missing_beside_their_graph_are_named(
    exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    unsealed(folder)
    weights = folder / "image.onnx.data"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"image\.onnx\.data, which holds the weights of image\.onnx, is damaged"):
        ExportedModel(folder).encode_images([red_image()])
    weights.unlink()
    with pytest.raises(WeightsError, match=r"image\.onnx\.data, which holds the weights of image\.onnx, is missing"):
        ExportedModel(folder).encode_images([red_image()])


def test_a_graph_may_not_take_its_weights_from_outside_its_folder(
    exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    unsealed(folder)
    (folder / "image.onnx.data").rename(tmp_path / "outside.data")
    graph = onnx.load(folder / "image.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.data"
    onnx.save(graph, folder / "image.onnx")
    with pytest.raises(WeightsError, match=r"image\.onnx"):
        ExportedModel(folder).encode_images([red_image()])


def test_names_that_onnxruntime_cannot_open_are_refused_before_any_work(
    exported: tuple[Path, Agreement], model: Model, tmp_path: Path
) -> None:
    strange = tmp_path / os.fsdecode(b"e\xff")
    shutil.copytree(exported[0], strange)
    with pytest.raises(WeightsError, match="not valid UTF-8"):
        ExportedModel(strange)
    with pytest.raises(WeightsError, match=r"--out .* not valid UTF-8"):
        export(model, tmp_path / os.fsdecode(b"new\xff"))


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), -1.0])
def test_a_tolerance_that_allows_anything_or_nothing_is_refused(model: Model, tolerance: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        export(model, tmp_path / "out", tolerance=tolerance)


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
    ours = open_model(tmp_path / "hub", device="cpu")  # as its card says
    assert np.abs(ours.encode_images(examples.images) - model.encode_images(examples.images)).max() <= 1e-5
    assert np.abs(ours.encode_texts(examples.captions) - model.encode_texts(examples.captions)).max() <= 1e-5


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
    unsealed(tmp_path / "damaged")
    (tmp_path / "damaged" / "text.onnx").write_bytes(b"no graph")
    damaged = open_model(tmp_path / "damaged")
    assert damaged.encode_images([red_image()]).shape == (1, 16), "the image graph does not need it"
    with pytest.raises(WeightsError, match=r"text\.onnx: onnxruntime cannot open it"):
        damaged.encode_texts(["a man"])
    (tmp_path / "damaged" / "text.onnx").unlink()
    with pytest.raises(WeightsError, match=r"text\.onnx: onnxruntime cannot open it: there is no such file"):
        open_model(tmp_path / "damaged")


def test_a_sentence_opens_no_image_graph_and_an_image_no_text_graph(
    exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    session = onnx_graph._session

    def spied(path: Path, purpose: str, **more: bool) -> object:
        opened.append(path.name)
        return session(path, purpose, **more)

    monkeypatch.setattr(onnx_graph, "_session", spied)
    ExportedModel(exported[0]).encode_texts(["a man"])
    assert opened == ["text.onnx"]
    ExportedModel(exported[0]).encode_images([red_image()])
    assert opened == ["text.onnx", "image.onnx"]


def test_a_damaged_text_graph_is_told_before_a_folder_is_embedded(
    exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    shutil.copytree(exported[0], tmp_path / "damaged")
    unsealed(tmp_path / "damaged")
    (tmp_path / "damaged" / "text.onnx").write_bytes(b"no graph")
    (tmp_path / "photos").mkdir()
    red_image().save(tmp_path / "photos" / "1.png")
    with pytest.raises(WeightsError, match=r"text\.onnx: onnxruntime cannot open it"):
        search_all(tmp_path / "damaged", tmp_path / "photos", [Query("a man")])
    assert not (tmp_path / "cache" / "indexes").exists()


@pytest.mark.parametrize(
    ("name", "whole"),
    [  # without image.onnx the folder is a checkpoint with weights, which PyTorch opens
        *((name, True) for name in ("text.onnx", "text.onnx.data", "image.onnx", "image.onnx.data")),
        *((name, False) for name in ("text.onnx", "text.onnx.data", "image.onnx.data")),
    ],
)
def test_a_server_does_not_start_with_an_export_that_was_altered(
    exported: tuple[Path, Agreement], tmp_path: Path, name: str, whole: bool
) -> None:
    """Otherwise whoever asks first is told, of a gallery that is served."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from tbps_cli.serving.server import Address, Given, serve

    folder = tmp_path / "altered"
    shutil.copytree(exported[0], folder)
    (tmp_path / "photos").mkdir()
    red_image().save(tmp_path / "photos" / "red.png")
    if whole:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)
    else:
        (folder / name).unlink()

    def started(url: str, service: object) -> None:
        raise AssertionError("it answers")

    with pytest.raises(WeightsError, match=name.removesuffix(".data")):
        serve(folder, Given([str(tmp_path / "photos")]), Address(port=0), ready=started)


@pytest.mark.parametrize("name", ["text.onnx", "text.onnx.data", "image.onnx", "image.onnx.data"])
def test_a_file_that_is_not_the_exported_one_is_named(
    exported: tuple[Path, Agreement], tmp_path: Path, name: str
) -> None:
    """One bit, so that it opens without a word and gives other embeddings."""
    folder = tmp_path / "altered"
    shutil.copytree(exported[0], folder)
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    opened = open_model(folder)
    with pytest.raises(WeightsError, match=rf"{name} is not what was exported: its SHA-256"):
        opened.encode_images([red_image()]) if "image" in name else opened.encode_texts(["a man"])
    (folder / name).write_bytes(content + b"x")
    with pytest.raises(WeightsError, match=rf"{name} is not what was exported: .* bytes instead of"):
        opened.encode_images([red_image()]) if "image" in name else opened.encode_texts(["a man"])


def test_a_file_is_hashed_once_and_again_when_it_has_changed(
    exported: tuple[Path, Agreement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashed = tmp_path / "copy", []
    shutil.copytree(exported[0], folder)
    real = export_files._hash
    monkeypatch.setattr(export_files, "_hash", lambda path: hashed.append(path.name) or real(path))
    monkeypatch.setattr("tbps_cli.remembered._SETTLED", 0)
    for _ in range(3):
        open_model(folder).encode_texts(["a man"])
    assert hashed == ["clip_tokenizer.json", "text.onnx", "text.onnx.data"]
    os.utime(folder / "text.onnx", (1, 1))
    open_model(folder).encode_texts(["a man"])
    assert hashed == ["clip_tokenizer.json", "text.onnx", "text.onnx.data", "text.onnx"]


def test_a_description_that_was_edited_is_refused_and_an_older_one_without_hashes_is_not(
    exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(exported[0], folder)
    facts = json.loads((folder / "tbps.json").read_text())
    mean = [0.5, 0.5, 0.5]
    (folder / "tbps.json").write_text(json.dumps(facts | {"transform": facts["transform"] | {"mean": mean}}))
    with pytest.raises(WeightsError, match=r"tbps\.json was changed after the export"):
        open_model(folder)
    swapped = dict.fromkeys(facts["files"], facts["files"]["text.onnx"])
    for files in (swapped, {}, {"image.onnx": 3}, [1]):
        (folder / "tbps.json").write_text(json.dumps(export_files.sealed(facts | {"files": files})))
        with pytest.raises(WeightsError, match=r"image\.onnx|clip_tokenizer\.json"):
            open_model(folder).encode_images([red_image()])
    older = {name: value for name, value in facts.items() if name not in ("files", "checksum")}
    (folder / "tbps.json").write_text(json.dumps(older))
    assert open_model(folder).encode_images([red_image()]).shape == (1, 16)


def test_an_onnxruntime_that_is_too_old_is_told_with_what_to_type(
    exported: tuple[Path, Agreement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.1")
    with pytest.raises(WeightsError, match=r"needs onnxruntime 1\.32 or newer, and 1\.9\.1 is installed") as refused:
        open_model(exported[0]).encode_texts(["a man"])
    assert refused.value.hint == "Type: pip install 'onnxruntime>=1.32'"
    for version in ("1.32.0", "1.40.0.dev2026", "2.0.0"):
        monkeypatch.setattr(onnxruntime, "__version__", version)
        assert onnx_graph.import_onnxruntime("a test") is onnxruntime
    wanted = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"onnxruntime>={onnx_graph.OLDEST[0]}.{onnx_graph.OLDEST[1]}" in wanted["dependencies"]


def test_an_onnxruntime_that_cannot_be_imported_is_not_called_missing(
    exported: tuple[Path, Agreement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was built for an older numpy: its module raises an ImportError without words."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(WeightsError, match=r"1\.32 or newer, and the installed one cannot be imported: it was") as told:
        open_model(exported[0]).encode_texts(["a man"])
    assert told.value.hint == "Type: pip install 'onnxruntime>=1.32'"


def test_what_writes_graphs_is_looked_for_before_the_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.1")
    with pytest.raises(
        WeightsError, match=r"^tbps export --format onnx needs onnxruntime 1\.32 or newer, and 1\.9\.1 "
    ):
        export(tmp_path / "no run is needed", tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("tbps_cli.exporting.exporter.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MissingExtra, match=r"^tbps export --format onnx needs onnxscript, which is not installed"):
        export(tmp_path / "no run is needed", tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.toml", "tbps.json"])
def test_an_export_without_graphs_is_refused_where_a_file_of_it_was_changed(
    model: Model, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "weights"
    export(model, folder, formats=["safetensors"])
    assert isinstance(open_model(folder, device="cpu"), Model)
    content = (folder / name).read_bytes()
    changed = {
        "recipe.toml": content.replace(b"bilinear", b"bicubic") + b"\n",
        "tbps.json": content.replace(b"16", b"61"),
    }
    (folder / name).write_bytes(changed.get(name, content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]))
    with pytest.raises(WeightsError, match=rf"{name} (is not what was exported|was changed after the export)"):
        open_model(folder, device="cpu")
    if name == "model.safetensors":
        with pytest.raises(WeightsError, match=rf"{name} is not what was exported"):
            open_model(folder / name, device="cpu")


@pytest.mark.parametrize("change", ["altered", "missing"])
def test_a_vocabulary_that_is_not_the_exported_one_is_named(
    exported: tuple[Path, Agreement], tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tbps-lite the vocabulary lies there alone."""
    monkeypatch.setattr("tbps_cli.models.exported.find_spec", lambda name: None)
    folder = tmp_path / change
    shutil.copytree(exported[0], folder)
    file = folder / "clip_tokenizer.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content) if change == "altered" else file.unlink()
    said = "is not what was exported: its SHA-256" if change == "altered" else "holds the vocabulary of sentences, is"
    with pytest.raises(WeightsError, match=rf"clip_tokenizer\.json.* {said}"):
        open_model(folder)


@pytest.mark.usefixtures("quick")
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "fuse", full)
    with pytest.raises(TbpsError, match=r"--out .*out cannot be written: No space left on device"):
        export(model, tmp_path / "out", formats=["onnx"], fused=True, examples=examples)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_torch_export_is_never_opened(tmp_path: Path) -> None:
    """Its reader falls back to a free unpickler."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(TbpsError, match=r"model\.pt2"):
        open_model(tmp_path / "model.pt2")
    used = [
        path for path in (Path(__file__).parents[2] / "tbps_cli").rglob("*.py") if "export.load(" in path.read_text()
    ]
    assert used == []


def red_image() -> Image.Image:
    return Image.new("RGB", (16, 32), "red")


def test_without_its_data_set_an_export_is_compared_on_drawn_pedestrians(model: Model, tmp_path: Path) -> None:
    found = samples(model, tmp_path, count=4)
    assert found.source == "drawn pedestrians" and len(found.images) == 4 == len(found.captions)
    assert all("a" in caption for caption in found.captions)
