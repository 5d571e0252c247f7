"""TBPS-CLIP's own checkpoints, as its training loop writes them: one file with an EasyDict and numpy numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict
from safetensors.torch import load_file
from support.sets import cuhk_records, save_image
from torch import Tensor

from tbps_cli import methods
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import WeightsError
from tbps_cli.methods.tbps_clip import TbpsClip
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.models.model import Model
from tbps_cli.nn.sizes import Tower
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.types import Task
from tbps_cli.weights.foreign import OfficialFiles

GOLDEN = Path(__file__).parents[1] / "golden"
HEADS = ["method.tower.heads=4", "method.tower.text_heads=2"]
"""The golden weights have other heads than width / 64, which no checkpoint says."""
REAL = Tower(width=64, layers=1, patch=16, embed=32, text_width=64, text_layers=1)
"""A small tower over the real vocabulary, so that sentences can be embedded."""


def state(version: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / version / "weights.safetensors")


def settings(version: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / version / "config.json").read_text())["config"])


def write(path: Path, tensors: Mapping[str, Tensor], experiment: Mapping[str, Any]) -> Path:
    """`checkpoint_best.pth` of the released training loop: one optimiser group a parameter, rates of numpy."""
    rate = np.float64(1e-4)
    groups = [
        {"params": [number], "lr": rate, "weight_decay": 0.02, "ratio": 1.0, "name": name}
        for number, name in enumerate(tensors)
    ]
    config = {
        "device": "cuda:0",
        "misc": {"seed": 1},
        "experiment": dict(experiment),
        "schedule": {"lr": 1e-4, "niter_per_ep": 212, "betas": [0.9, 0.98]},
        "model": {"ckpt_type": "saved", "saved_path": "../../etc/passwd", "softlabel_ratio": 0.5, "use_gather": True},
        "distributed": {"rank": 0, "world_size": 4, "local_rank": 0},
        "anno_dir": "/home/author/anno",
    }
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": groups}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": dict(tensors), "optimizer": optimizer, "config": EasyDict(config)}, path)
    return path


def opened(path: Path, sets: list[str] | None = None) -> Model:
    model = open_model(path, device="cpu", sets=sets or [])
    assert isinstance(model, Model)
    return model


@pytest.mark.parametrize("version", ["tbps_clip", "tbps_clip_simplified"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_an_official_file_gives_the_published_embeddings(tmp_path: Path, version: str, as_folder: bool) -> None:
    said = settings(version)
    file = write(tmp_path / "logs" / "checkpoint_best.pth", state(version), said)
    model = opened(file.parent if as_folder else file, HEADS)
    inputs, outputs = (load_file(GOLDEN / version / f"{name}.safetensors") for name in ("inputs", "outputs"))
    image = model.image_arrays(inputs["image"]) - outputs["image_features_norm"].numpy()
    text = model.text_arrays(inputs["token_ids"]) - outputs["text_features_norm"].numpy()
    assert max(abs(image).max(), abs(text).max()) <= 2e-5
    assert (model.name, model.transform.size) == ("tbps_clip", tuple(said["input_resolution"]))
    assert (model.data, model.selected_on, model.batch_dependent) == ("cuhk-pedes", None, None)


def small(full: bool) -> dict[str, Tensor]:
    """An official state over the real vocabulary."""
    more: dict[str, Any] = {} if full else {"citc": 0.0, "simclr": 0.0, "second_view": False}
    method = TbpsClip(TbpsClip.Config(name="tbps_clip", tower=REAL, **more), Task((64, 64)))
    method.initialise(torch.Generator().manual_seed(3))
    return {str(method.official.foreign(name)): value for name, value in method.state_dict().items()}


def official_set(folder: Path) -> None:
    """A data set as TBPS-CLIP's code reads it: images, train_reid.json and test_reid.json."""
    records = cuhk_records()
    for seed, record in enumerate(records):
        save_image(folder / "imgs" / record["file_path"], seed)
    for split in ("train", "test"):
        part = [{**record, "captions_bt": record["captions"]} for record in records if record["split"] == split]
        (folder / f"{split}_reid.json").write_text(json.dumps(part), encoding="utf-8")


@pytest.mark.parametrize("full", [True, False])
def test_an_official_file_is_evaluated_and_converted_without_a_change(tmp_path: Path, full: bool) -> None:
    official_set(tmp_path / "data" / "CUHK-PEDES")
    dataset = open_dataset("cuhk-pedes", tmp_path / "data")
    file = write(tmp_path / "checkpoint_best.pth", small(full), {"ss": full, "input_resolution": [64, 64]})
    before = evaluate(opened(file), dataset, "test")
    run = convert(file, tmp_path / "run")
    after = evaluate(opened(run.folder), dataset, "test")
    assert (before.document()["queries"], before.document()["gallery"]) == (8, 4)
    assert np.array_equal(before.embedded.text_QE, after.embedded.text_QE)
    assert np.array_equal(before.embedded.image_GE, after.embedded.image_GE)
    assert before.document()["text_to_image"] == after.document()["text_to_image"]
    assert (run.recipe.train.batch, run.recipe.optim.betas) == (320, (0.9, 0.98))
    assert "author" not in (run.folder / "recipe.toml").read_text()


def files(tensors: Mapping[str, Tensor], **options: object) -> OfficialFiles:
    return OfficialFiles(dict(tensors), options, "checkpoint_best.pth")


def test_the_configuration_says_what_was_trained() -> None:
    said = settings("tbps_clip") | {"dropout": 0.2, "eda_alpha": 0.0, "back_trans": False, "ss_ratio": 0.7}
    found = TbpsClip.recognise(files(state("tbps_clip"), experiment=said, model={"softlabel_ratio": 0.25}))
    assert found is not None
    assert (found.text_dropout, found.word_deletion, found.back_translation) == (0.2, 0.0, 0.0)
    assert (found.nitc, found.simclr, found.citc, found.second_view, found.soft_labels) == (1.0, 0.7, 0.1, True, 0.25)
    assert (found.simclr_hidden, found.simclr_embed, found.identity, found.masked) == (24, 40, 0.0, 0.0)


@pytest.mark.parametrize("version", ["tbps_clip", "tbps_clip_simplified"])
@pytest.mark.parametrize("options", [{}, {"experiment": 3, "model": []}, {"experiment": {"ritc_eps": -1, "ss": None}}])
def test_without_usable_options_the_head_tells_the_version(version: str, options: dict[str, object]) -> None:
    weights = state(version)
    size = {"img_size": settings(version)["input_resolution"]}
    found = TbpsClip.recognise(files(weights, **options, **size))
    full = version == "tbps_clip"
    assert found is not None
    assert (found.simclr, found.citc, found.second_view) == ((0.4, 0.1, True) if full else (0.0, 0.0, False))
    assert TbpsClip.recognise_task(files(weights, **options, **size), found).image_size == tuple(size["img_size"])


def test_the_files_own_image_size_counts_unless_the_user_says_another() -> None:
    tensors, said = small(False), {"experiment": {"input_resolution": [64, 64]}}
    config = TbpsClip.recognise(files(tensors, **said))
    assert TbpsClip.recognise_task(files(tensors, **said), config) == Task((64, 64))
    assert TbpsClip.recognise_task(files(tensors, **said, img_size=[128, 32]), config) == Task((128, 32))
    with torch.device("meta"):
        real = TbpsClip(TbpsClip.Config(name="tbps_clip"), Task((224, 224)))
    shapes = files({str(real.official.foreign(name)): value for name, value in real.state_dict().items()})
    config = TbpsClip.recognise(shapes)
    assert config is not None and config.tower == "ViT-B-16"
    assert TbpsClip.recognise_task(shapes, config) == Task((224, 224))


def test_heads_that_only_training_uses_may_be_absent_or_there_in_full() -> None:
    tensors, said = state("tbps_clip"), settings("tbps_clip")
    extra = load_file(GOLDEN / "tbps_clip" / "weights_extra.safetensors")
    bare = {name: value for name, value in tensors.items() if not name.startswith("simclr_mlp")}
    whole = TbpsClip.recognise(files(tensors | extra, experiment=said | {"id": True, "mlm": True}))
    assert whole is not None and (whole.identity, whole.masked, whole.cross_layers) == (1.0, 1.0, 2)
    assert TbpsClip.recognise(files(bare, experiment=said)) is not None


def test_only_this_method_claims_its_files_and_it_claims_no_others() -> None:
    size = {"img_size": [64, 48]}
    for name in methods.names():
        try:
            found = methods.find(name).recognise(files(state("tbps_clip"), **size))
        except WeightsError:
            found = None
        assert (found is not None) == (name == "tbps_clip"), name
    others = {path.parent.name: load_file(path) for path in GOLDEN.glob("*/weights.safetensors")}
    others = {name: tensors for name, tensors in others.items() if not name.startswith("tbps_clip")}
    others["clip"] = {name.removeprefix("base_model."): value for name, value in others["irra"].items()}
    for name, tensors in others.items():
        assert TbpsClip.recognise(files(tensors, img_size=[96, 32])) is None, name


@pytest.mark.parametrize("extra", ["encode_text.adapter.weight", "base_model.visual.proj", "visual.adapter.weight"])
def test_a_file_with_tensors_of_another_method_is_left_to_it(extra: str) -> None:
    tensors = state("tbps_clip") | {extra: torch.zeros(1)}
    assert TbpsClip.recognise(files(tensors, img_size=[64, 48])) is None


def test_a_missing_tensor_is_named_as_the_file_would_have_it(tmp_path: Path) -> None:
    tensors = small(True)
    del tensors["encode_text.ln_final.weight"]
    with pytest.raises(WeightsError, match=r"ln_final\.weight"):
        open_model(write(tmp_path / "a.pth", tensors, {"input_resolution": [64, 64]}), device="cpu")
    tensors = small(True)
    del tensors["visual.ln_post.bias"]
    with pytest.raises(WeightsError, match=r"1 of 3\d tensors of tbps_clip are missing \(first: visual\.ln_post\.bias"):
        open_model(write(tmp_path / "b.pth", tensors, {"input_resolution": [64, 64]}), device="cpu")
