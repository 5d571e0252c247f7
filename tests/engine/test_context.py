"""How long captions may be: from the weights' table of positions, or longer, through every part of the tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import golden_state, irra_folder
from support.training import Spy, tiny_recipe, write_data
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.engine import start
from tbps_cli.engine.train import train
from tbps_cli.exporting.exporter import export
from tbps_cli.models import open_model
from tbps_cli.models.model import Model
from tbps_cli.models.run import Run
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower
from tbps_cli.weights import pretrained
from tbps_cli.weights.weights_file import read_safetensors

TINY = Tower(width=64, layers=1, patch=8, embed=64, text_width=64, text_layers=1)
TABLE = "method.tower={patch=8, width=64, layers=1, embed=64, text_width=64, text_layers=1}"
STILL = "train.epochs=1", "data.augment=false", "optim.lr=1e-30"
"""A training that leaves the weights as they were."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def clip_weights(path: Path, context: int = 77) -> Path:
    clip = Clip(TINY.model_copy(update={"context": context}), (16, 16))
    clip.initialise(torch.Generator().manual_seed(5))
    torch.save(dict(clip.state_dict()), path)
    return path


def trained(folder: Path, data: Path, *sets: str, **options: object) -> tuple[Path, Spy]:
    spy = Spy()
    recipe = tiny_recipe(folder, "irra", sets=(TABLE, *STILL, *sets))
    run = train(recipe, data_root=data, out=folder / "run", device="cpu", workers=0, observer=spy, **options)
    return run, spy


def linear(table_TD: Tensor, length: int) -> Tensor:
    """Half-pixel centres, clamped at both ends; a slow loop in float64."""
    rows = len(table_TD)
    made = []
    for place in range(length):
        at = min(max((place + 0.5) * rows / length - 0.5, 0.0), rows - 1.0)
        low = min(int(at), rows - 2)
        made.append(table_TD[low].double() * (1 - (at - low)) + table_TD[low + 1].double() * (at - low))
    return torch.stack(made).float()


def test_a_longer_table_is_made_linearly_and_said(tmp_path: Path, data: Path) -> None:
    weights = clip_weights(tmp_path / "clip.pt")
    run, spy = trained(tmp_path, data, f"method.weights={weights}", "method.context=168")
    given = torch.load(weights)["positional_embedding"]
    made = read_safetensors(run / "last.safetensors")["clip.positional_embedding"]
    assert made.shape == (168, 64)
    assert (made - linear(given, 168)).abs().max() < 1e-6
    assert torch.equal(made[[0, -1]], given[[0, -1]])
    (note,) = [note for note in spy.notes if note.startswith("weights:")]
    assert "their 77 text positions are lengthened to 168, linearly: no published score" in note
    assert Run(run).recipe.method.context == 168


def test_the_context_follows_the_weights_unless_it_is_set(tmp_path: Path, data: Path) -> None:
    weights = clip_weights(tmp_path / "long.pt", 100)
    run, spy = trained(tmp_path, data, f"method.weights={weights}")
    assert Run(run).recipe.method.sizes.context == 100
    assert f"method.context: 100 (the positions in {weights})" in spy.plans[0].choices
    assert not any("text positions" in note for note in spy.notes)
    (tmp_path / "second").mkdir()
    second, spy = trained(tmp_path / "second", data, init=run)
    assert Run(second).recipe.method.sizes.context == 100
    assert any(f"method.context: 100 (as in --init {run})" in choice for choice in spy.plans[0].choices)
    given, made = (read_safetensors(folder / "last.safetensors") for folder in (run, second))
    assert torch.equal(given["clip.positional_embedding"], made["clip.positional_embedding"])


def test_another_checkpoints_positions_are_brought_to_longer_captions_and_taller_images(
    tmp_path: Path, data: Path
) -> None:
    first, _ = trained(tmp_path, data, "data.image_size=[32, 16]")
    (tmp_path / "second").mkdir()
    second, spy = trained(tmp_path / "second", data, "data.image_size=[48, 24]", "method.context=90", init=first)
    given, made = (read_safetensors(folder / "last.safetensors") for folder in (first, second))
    assert (made["clip.positional_embedding"] - linear(given["clip.positional_embedding"], 90)).abs().max() < 1e-6
    image = "clip.visual.positional_embedding"
    laid = given[image][1:].reshape(1, 4, 2, 64).permute(0, 3, 1, 2)
    resized = F.interpolate(laid, size=(6, 3), mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(made[image], torch.cat([given[image][:1], resized]))
    (note,) = [note for note in spy.notes if note.startswith("init:")]
    assert "; new: " not in note
    assert "77 text positions are lengthened to 90" in note


@pytest.mark.slow
def test_a_long_caption_counts_in_training_search_and_the_exported_graph(tmp_path: Path, data: Path) -> None:
    weights = clip_weights(tmp_path / "clip.pt")
    run, _ = trained(tmp_path, data, f"method.weights={weights}", "method.context=100")
    model = open_model(run, device="cpu")
    assert isinstance(model, Model)
    long, end = "a man in a red coat " * 13, "with a black umbrella"
    assert (model.tokenizer.context, model.cut_count([long + end, long * 2])) == (100, 1)
    one, other = model.encode_texts([long, long + end])
    assert np.abs(one - other).max() > 1e-6
    export(model, tmp_path / "exported", formats=["onnx", "safetensors"], data_root=data)
    graph = open_model(tmp_path / "exported")
    assert graph.tokenizer.context == 100
    assert np.abs(graph.encode_texts([long, long + end]) - [one, other]).max() < 1e-5
    assert graph.cut_count([long * 2]) == 1


# Where training starts --------------------------------------------------------------------------


def test_only_the_head_of_clips_weights_is_read_before_the_method_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = clip_weights(tmp_path / "clip.pt")
    asked: list[bool] = []
    read = pretrained.read_tensors

    def spied(path: Path, *, skip: object = (), values: bool = True) -> object:
        asked.append(values)
        return read(path, skip=skip, values=values)

    monkeypatch.setattr(pretrained, "read_tensors", spied)
    config = tiny_recipe(tmp_path, "irra", sets=(TABLE, f"method.weights={weights}")).method
    found = start.find_start(config, None, tower_is_set=True)
    assert asked == [False]
    assert found.clip is not None
    assert found.clip.state()["visual.conv1.weight"].device.type == "cpu"
    assert asked == [False, True]


@pytest.mark.parametrize("half", [True, False])
def test_the_towers_of_a_person_pretrained_file_are_a_start_like_clips(tmp_path: Path, half: bool) -> None:
    """NAM and HAM publish towers alone, below `module.base_model.`; QuickGELU, as in all of IRRA's family."""
    folder = irra_folder(tmp_path / "nam", golden_state(), half=half)
    file = pretrained.clip_file(str(folder / "best.pth"), "ViT-B-16")
    assert (file.activation, file.context) == ("quickgelu", 77)
    state = file.state()
    towers = {name.removeprefix("base_model.") for name in golden_state() if name.startswith("base_model.")}
    assert state.keys() == towers
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_a_folder_of_three_checkpoints_starts_training_with_that_of_its_data_set(tmp_path: Path) -> None:
    folder = irra_folder(tmp_path / "nam", golden_state(), half=False)
    for number in range(3):
        (folder / f"best{number}.pth").write_bytes((folder / "best.pth").read_bytes())
    (folder / "best.pth").unlink()
    init = start.find_init(folder, "rstpreid")
    assert init is not None
    assert init.source.source.path.name == "best2.pth"
