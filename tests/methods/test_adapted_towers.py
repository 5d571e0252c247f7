"""`method.lora` for methods on CLIP's towers: what is trained, what a run keeps, and what is made of it."""

import os
import signal

import numpy as np
import pytest
import torch
from support.ranks import KEYS, TASK, TOWER, pairs
from support.runs import tiny_recipe as recipe_of_run
from support.runs import tiny_run
from support.training import Spy, tiny_recipe, write_data

from tbps_cli import methods
from tbps_cli.engine import optim
from tbps_cli.engine.stops import Interrupted
from tbps_cli.engine.train import train
from tbps_cli.errors import RecipeError
from tbps_cli.exporting.exporter import export
from tbps_cli.methods.config import LoraConfig
from tbps_cli.models import open_model
from tbps_cli.models.model import Model, build
from tbps_cli.models.run import Run
from tbps_cli.recipe.load import load
from tbps_cli.types import Task
from tbps_cli.weights.weights_file import read_safetensors

LORA = 'lora = { rank = 2, alpha = 3.0, where = "qv+mlp" }'
HEADS = {"clip": "learn_temperature = true", "irra": "cross_layers = 1"}
ADAPTABLE = [name for name in methods.names() if issubclass(methods.find(name).Config, LoraConfig)]
TEXTS = ["a man in red", "a woman with a white bag and blue trousers", ""]
CLOSE = 2e-6
"""Of unit rows, when a product is added to the weights or to what they give."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def trained(folder, data, method, name="run", *, lora=LORA, sets=(), **options):
    recipe = tiny_recipe(folder, method, f"{HEADS[method]}\n{lora}", ("optim.lr=1e-2", *sets))
    return train(recipe, data_root=data, out=folder / name, device="cpu", **options)


class Stop(Spy):
    def stepped(self, progress):
        super().stepped(progress)
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("method", ["clip", "irra"])
def test_adapted_towers_train_their_matrices_and_heads_alone_and_resume_bit_identically(tmp_path, data, method) -> None:
    spy = Spy()
    whole = trained(tmp_path, data, method, "whole", observer=spy)
    before, after = (read_safetensors(run / "last.safetensors") for run in (_untrained(tmp_path, data, method), whole))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    heads = {name for name in after if not name.startswith("clip.")}
    thin = {name for name in after if "lora_" in name}
    assert moved == heads | thin and heads
    assert {name.split("resblocks.0.")[1] for name in thin if "visual" not in name} == {
        *(f"attn.lora_{one}_{part}" for part in "qv" for one in "AB"),
        *(f"mlp.{layer}.lora_{one}" for layer in ("c_fc", "c_proj") for one in "AB"),
    }
    with pytest.raises(Interrupted):
        trained(tmp_path, data, method, "cut", observer=Stop())
    cut = read_safetensors(trained(tmp_path, data, method, "cut", resume=True) / "last.safetensors")
    assert cut.keys() == after.keys() and all(torch.equal(cut[name], value) for name, value in after.items())


def _untrained(folder, data, method):
    """A run whose rate is too small to change anything."""
    return trained(folder, data, method, "still", sets=("optim.lr=1e-30", "optim.weight_decay=0.0", "train.epochs=1"))


@pytest.mark.parametrize("method", ["clip", "irra"])
def test_a_run_is_opened_and_exported_with_its_products_in_the_weights(tmp_path, data, method) -> None:
    folder = trained(tmp_path, data, method)
    model = open_model(folder, device="cpu")
    assert model.recipe.method.lora is None and Run(folder).recipe.method.lora.rank == 2
    assert not any("lora" in name for name in model.method.state_dict())
    rows = model.encode_texts(TEXTS)
    apart = _apart(folder).encode_texts(TEXTS)
    assert 0 < np.abs(rows - apart).max() <= CLOSE, "one of both is not what it seems"
    forgotten = _apart(folder, without=True).encode_texts(TEXTS)
    assert np.abs(rows - forgotten).max() > 1e-3
    export(model, tmp_path / "out", formats=["safetensors", "hub"])
    again = open_model(tmp_path / "out", device="cpu")
    assert np.array_equal(again.encode_texts(TEXTS), rows) and again.fingerprint == model.fingerprint
    plain = read_safetensors(tmp_path / "out" / "open_clip_model.safetensors")
    assert not any("lora" in name for name in plain)


def _apart(folder, *, without=False):
    """A run's model whose matrices are beside the weights, as in training; or not there at all."""
    recipe = Run(folder).recipe
    method, state = build(recipe), Run(folder).weights()
    if without:
        state = {name: value.zero_() if "lora_B" in name else value for name, value in state.items()}
    method.load_state_dict(state, strict=False)
    return Model(method, recipe, folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory, data):
    return trained(tmp_path_factory.mktemp("first"), data, "irra")


@pytest.mark.xdist_group("adapted")
@pytest.mark.parametrize(
    ("lora", "goes_on"),
    [
        (LORA, True),
        ('lora = { rank = 2, alpha = 6.0, where = "qv+mlp" }', False),
        ("lora = { rank = 1 }", False),
        ("", False),
    ],
)
def test_training_from_an_adapted_run_starts_from_what_it_found_whatever_the_new_settings(
    tmp_path, data, first, lora, goes_on
) -> None:
    still = ("optim.lr=1e-30", "optim.weight_decay=0.0", "train.epochs=1")
    second = trained(tmp_path, data, "irra", "second", lora=lora, sets=still, init=first)
    rows, theirs = (open_model(folder, device="cpu").encode_texts(TEXTS) for folder in (second, first))
    assert np.abs(rows - theirs).max() <= CLOSE
    state, given = (read_safetensors(folder / "last.safetensors") for folder in (second, first))
    name = "clip.transformer.resblocks.0.attn.in_proj_weight"
    assert torch.equal(state[name], given[name]) == goes_on


def test_the_matrices_have_a_rate_of_their_own() -> None:
    recipe = load("clip", ["method.lora={rank=4}", "optim.scale.lora=10"])
    with torch.device("meta"):
        method = methods.find("clip")(recipe.method, Task((384, 128)))
    found = optim.settings(method, recipe.optim)
    rates = {setting.lr for name, setting in found.items() if "lora_" in name}
    assert [10 * recipe.optim.lr] == pytest.approx(list(rates))
    assert all(setting.frozen for name, setting in found.items() if "lora_" not in name)
    with pytest.raises(RecipeError, match=r"optim\.scale\.lora: method clip has no parameters"):
        plain = load("clip", ["optim.scale.lora=10"])
        with torch.device("meta"):
            optim.settings(methods.find("clip")(plain.method, Task((384, 128))), plain.optim)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.lora.rank=513", "has a rank of 513, more than the narrower tower's width of 512"),
        ("method.lora.rank=0", "method.lora.rank = 0 must be at least 1"),
        ("method.lora.alpha=0", "method.lora.alpha = 0 must be above 0"),
        ("method.lora.where=qkvx", 'must name places among q, k, v, o and mlp in this order, as in "qkvo+mlp"'),
        ("method.lora.where=mlp+q", "must name places among q, k, v, o and mlp"),
        ("method.lora.where=", "must name places among q, k, v, o and mlp"),
        ("method.lora.ranks=4", "method.lora.ranks = 4 is not a setting of clip"),
        ("method.lora=4", "method.lora = 4 must be a table"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(setting, said) -> None:
    with pytest.raises(RecipeError) as told:
        load("clip", [setting])
    assert said in told.value.message and "\n" not in told.value.message
    assert told.value.message.startswith("--set: method.lora")


def test_a_resnet_has_no_blocks_to_adapt_and_other_methods_say_whose_key_it_is() -> None:
    with pytest.raises(RecipeError, match=r"--set: method\.lora = \{\} adapts a vision transformer"):
        load("clip", ["method.lora={}", "method.tower=RN50"])
    with pytest.raises(RecipeError) as told:
        load("textreid", ["method.lora={rank=4}"])
    assert "is a key of method clip" in told.value.hint


@pytest.mark.parametrize("name", ADAPTABLE)
def test_every_method_on_clips_towers_can_be_adapted(name) -> None:
    """Under LoRA its matrices are trained, CLIP's own tensors are not, and what else it has is trained as without."""
    keys = {"name": name, "tower": TOWER, **KEYS.get(name, {})}
    plain, adapted = (build_method(name, {**keys, "lora": lora}) for lora in (None, {"rank": 2}))
    before = {key: plain.group_of(key) for key, _ in plain.named_parameters()}
    after = {key: adapted.group_of(key) for key, _ in adapted.named_parameters()}
    own = {f"clip.{key}" for key in adapted.clip.plain_names()}
    thin = {key for key in after if "lora_" in key}
    assert thin and {after[key].rate for key in thin} == {"lora"}
    assert {after[key].rate for key in own & after.keys()} == {"frozen"}
    rest = after.keys() - thin - own
    assert rest == before.keys() - own and all(after[key] == before[key] for key in rest)
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if "lora_B" in key:
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(len(key)))
    data = pairs(5, 0)
    rows = [adapted.encode_images(data.images["image"]), adapted.encode_texts(data.tokens["text"])]
    adapted.fold()
    folded = [adapted.encode_images(data.images["image"]), adapted.encode_texts(data.tokens["text"])]
    assert max(float((one - other).abs().max()) for one, other in zip(rows, folded, strict=True)) <= 1e-5
    assert adapted.state_dict().keys() == plain.state_dict().keys() and adapted.config == plain.config


def build_method(name, keys):
    kind = methods.find(name)
    method = kind(kind.Config(**keys), TASK)
    method.initialise(torch.Generator().manual_seed(3))
    return method.eval().requires_grad_(requires_grad=False)


def test_an_adapted_model_starts_as_the_plain_one(tmp_path) -> None:
    plain = tiny_run(tmp_path / "plain", recipe_of_run("plain"))
    adapted = tiny_run(tmp_path / "adapted", recipe_of_run("adapted", lora={"rank": 2}))
    one, other = (open_model(run.folder, device="cpu").encode_texts(TEXTS) for run in (plain, adapted))
    assert np.array_equal(one, other)
