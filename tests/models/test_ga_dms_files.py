"""GA-DMS's folders as its code writes them: three files of one run, `module.` in front, IRRA's tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.runs import GOLDEN
from torch import Tensor

from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert_file
from tbps_cli.models.model import Model
from tbps_cli.weights.weights_file import read_safetensors

FOLDER = GOLDEN.parent / "ga_dms"
INPUTS, OUTPUTS = (load_file(FOLDER / f"{name}.safetensors") for name in ("inputs", "outputs"))
OPTIONS = """\
dataset_name: Testing-WebPerson
finetune: ''
img_size: !!python/tuple
- 96
- 32
loss_names: sdm+mlm
milestones: !!python/tuple
- 20
- 40
mlm_loss_weight: 0.3
nam: {nam}
pretrain: true
stride_size: 16
temperature: 0.02
world_size: 8
"""


def folder(place: Path, nam: str = "true", files: tuple[str, ...] = ("best0.pth", "best1.pth", "best2.pth")) -> Path:
    """A pre-training's; what a file holds besides the first's tensors shows which of them was read."""
    place.mkdir(parents=True)
    weights = load_file(FOLDER / "weights.safetensors")
    for number, name in enumerate(files):
        state = {f"module.{key}": value for key, value in weights.items()}
        state["module.base_model.text_projection"] = weights["base_model.text_projection"] * (1 + number)
        kept = {
            "model": state,
            "optimizer": {"state": {}},
            "scheduler": {},
            "num_epoch": 30,
            "iteration": 0,
            "epoch": 9,
        }
        torch.save(kept, place / name)
    if nam:
        (place / "configs.yaml").write_text(OPTIONS.format(nam=nam))
    return place


def opened(path: Path, **options: object) -> Model:
    # of the golden folder's tower two heads are written in its config.json, as no file of weights says it
    heads = json.loads((FOLDER / "config.json").read_text())["model"]
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    for block in model.method.clip.transformer.blocks:
        block.attn.heads = heads["text_heads"]
    return model


def distance(model: Model) -> float:
    image = model.image_arrays(INPUTS["images"]) - OUTPUTS["image_features_norm"].numpy()
    text = model.text_arrays(INPUTS["caption_ids"]) - OUTPUTS["text_features_norm"].numpy()
    return float(max(abs(image).max(), abs(text).max()))


def projection(model: Model) -> Tensor:
    return (
        model.method.clip.text_projection.detach()
        / load_file(FOLDER / "weights.safetensors")["base_model.text_projection"]
    )


@pytest.mark.parametrize(("nam", "name"), [("true", "ga_dms"), ("false", "irra"), ("", "irra")])
def test_a_folder_gives_the_published_embeddings_under_the_name_that_it_states(tmp_path, nam: str, name: str) -> None:
    place = folder(tmp_path / "run", nam, ("best0.pth",))
    model = opened(place, sets=() if nam else ["data.image_size=[96,32]"])
    assert model.name == name and distance(model) <= 2e-5


@pytest.mark.parametrize(("data", "factor"), [("cuhk-pedes", 1), ("icfg-pedes", 2), ("rstpreid", 3), (None, 1)])
def test_the_data_set_chooses_among_the_three_files(tmp_path: Path, data: str | None, factor: int) -> None:
    model = opened(folder(tmp_path / "run"), sets=[f"data.name={data}"] if data else ())
    assert model.name == "ga_dms"
    assert torch.allclose(projection(model), torch.tensor(float(factor)))


@pytest.mark.parametrize(("nam", "wish"), [("true", "irra"), ("false", "ga_dms"), ("true", "ga_dms")])
def test_the_user_may_say_whose_a_file_is(tmp_path: Path, nam: str, wish: str) -> None:
    run = convert_file(folder(tmp_path / "run", nam) / "best0.pth", tmp_path / "out", method=wish).run
    assert run.recipe.method.name == wish
    assert distance(opened(run.folder)) <= 2e-5


def test_a_converted_run_keeps_the_heads_of_masked_words_and_how_words_are_masked(
    tmp_path: Path, lines: Callable[[], str]
) -> None:
    run = convert_file(folder(tmp_path / "run") / "best0.pth", tmp_path / "out").run
    method = run.recipe.method.model_dump()
    assert (method["masking"], method["masked"], method["identity"]) == ("importance", 0.3, 0.0)
    state = read_safetensors(run.weights_file)
    assert {name.split(".")[0] for name in state} == {"clip", "cross", "mlm_head"}
    assert len(state) == len(load_file(FOLDER / "weights.safetensors"))
    assert f"{len(state)} tensors matched ga_dms" in lines() and "left out" not in lines()
