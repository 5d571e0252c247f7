"""What every method keeps, whatever it is: it trains, leaves alone what is frozen, and embeds each item by itself.

Each method runs under its own shipped recipe, with its published losses, on towers of 32 channels. A new
method is found by itself; where its own sizes do not fit such towers, SMALL says others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from support.colours import PERSONS, SIZE, draw, write_colours
from support.training import Spy
from torch import Tensor

import tbps_cli.engine.train as engine
from tbps_cli import methods
from tbps_cli.engine import experiment
from tbps_cli.models import open_model
from tbps_cli.models.model import Model
from tbps_cli.recipe.load import load
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.synthetic.build import build as draw_set
from tbps_cli.weights.weights_file import read_safetensors

RECIPE = """
extends = "{name}"
[data]
name = "synthetic"
image_size = [{size[0]}, {size[1]}]
augment = false
[method]
weights = "random"
{small}
[method.tower]
embed = 32
text_width = 32
text_layers = 2
text_heads = 2
heads = 2
context = 24
{tower}
[optim]
lr = {lr}
eps = 1e-8
schedule = "cosine"
warmup_epochs = 1
scale = {{ new = 1.0, bias = 1.0 }}
[train]
epochs = {epochs}
eval_every = {epochs}
batch = {batch}
precision = "fp32"
select_on = "val"
workers = 0
"""
VIT = "patch = 8\nwidth = 32\nlayers = 2"
RESNET = "width = 8\nlayers = [1, 1, 1, 1]"
PARSER = "moe_layers = 2\nmoe_heads = 2\nreduction = 4"
SMALL = {
    "comoe": PARSER,
    "cskt": "depth = 2\nreduction = 1",
    "dm_adapter": "reduction = 1",
    "eccl": "prompt_depth = 2\nnum_context = 2",
    "ga_dms": 'masking = "importance"\nidentity = 0.0\nmasked = 0.4',
    "php": PARSER,
    "rde": "tse_dim = 64",
    "textreid": 'word_weights = "random"\nword_width = 32\ngru_input = 32\nhidden = 16\nembed = 32\nqueue = 80',
}
TOWERS = {"textreid": RESNET}
NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in methods.names()]


def recipe_of(name: str, folder: Path, *, batch: int, lr: float = 1e-3, epochs: int = 2, sets: tuple[str, ...] = ()):
    path = folder / f"tiny-{name}.toml"
    tower, small = TOWERS.get(name, VIT), SMALL.get(name, "")
    path.write_text(RECIPE.format(name=name, size=SIZE, small=small, tower=tower, lr=lr, epochs=epochs, batch=batch))
    return load(path, sets)


@dataclass
class Short:
    """A training of a few steps: its run folder, and the method's tensors before and after."""

    folder: Path
    before: dict[str, Tensor] = field(repr=False)
    after: dict[str, Tensor] = field(repr=False)


@pytest.fixture(scope="module", params=NAMES)
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    folder = tmp_path_factory.mktemp(request.param)
    root = write_colours(folder / "data", persons=(10, 2, 2), images=2)
    before: dict[str, Tensor] = {}

    def remembering(*given, **options):
        method, note = build(*given, **options)
        before.update({name: value.clone() for name, value in method.state_dict().items()})
        return method, note

    build = experiment.build_method
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TBPS_CACHE_DIR", str(folder / "cache"))
        patch.setattr(experiment, "build_method", remembering)
        recipe = recipe_of(request.param, folder, batch=20)
        run = engine.train(recipe, data_root=root, out=folder / "run", device="cpu")
        yield Short(run, before, read_safetensors(run / "last.safetensors"))


# Frozen and trained -----------------------------------------------------------------------------

IDLE = (".down.bias", ".up.")
"""Of experts: one that no token was sent to has no gradient; biases do not decay, and a drawn `up` is 0."""
STILL = {
    "comoe": IDLE,
    "dm_adapter": IDLE,
    "php": IDLE,
    "rde": ("image_selection.linear.", ".bns.1."),
    "textreid": ("attnpool.k_proj.bias",),
}
"""Trained parameters that may have no effect on any loss: also layers that released code makes and never
reads, and a bias that a softmax cannot see."""


def test_training_leaves_frozen_parameters_bit_identical_and_moves_all_others(short: Short) -> None:
    method = opened(short.folder).method
    quiet, copies = STILL.get(method.config.name, ()), method.training_only
    same = {name for name, _ in method.named_parameters() if torch.equal(short.before[name], short.after[name])}
    frozen = {name for name, _ in method.named_parameters() if method.group_of(name).rate == "frozen"}
    trained = short.after.keys() & dict(method.named_parameters()).keys() - frozen
    assert {name for name in trained & same if not any(part in name for part in quiet)} == set()
    assert {name for name in frozen - same if not name.startswith(copies)} == set(), "copies alone follow by momentum"


# Companions -------------------------------------------------------------------------------------

SENTENCES = [
    "shirt",
    "A person in a red shirt and blue trousers.",
    "Someone wears white trousers and a black shirt.",
    "and a shirt and trousers " * 20,
    "person in trousers",
]
"""From one word to more than a context holds, all of words that training has seen."""
APART = 5e-6
"""Matrix products of other sizes round otherwise; nothing else may differ."""


def opened(folder: Path) -> Model:
    model = open_model(folder, device="cpu")
    assert isinstance(model, Model)
    return model


def images() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    colours = [("red", "blue"), ("white", "black"), ("green", "green"), ("black", "orange"), ("blue", "red")]
    return [draw(top, low, rng) for top, low in colours]


@pytest.mark.parametrize("side", ["texts", "images"])
def test_an_embedding_is_the_same_alone_in_company_and_in_any_order(short: Short, side: str) -> None:
    model = opened(short.folder)
    assert model.batch_dependent is None, "the default form of a method must not depend on the batch"
    items, encode = (SENTENCES, model.encode_texts) if side == "texts" else (images(), model.encode_images)
    together = encode(items)
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    rows = np.abs(together[:, None] - together[None]).max(2)
    assert rows[~np.eye(len(items), dtype=bool)].min() > 100 * APART, "all items look alike: nothing would be seen"
    alone = np.concatenate([encode([item]) for item in items])
    assert np.abs(alone - together).max() < APART
    order = np.random.default_rng(3).permutation(len(items))
    assert np.abs(encode([items[place] for place in order]) - together[order]).max() < APART
    assert np.abs(encode(items, batch=2) - together).max() < APART
    crowd = encode([*items, *items[::-1], *items])
    assert np.abs(crowd[: len(items)] - together).max() < APART
    assert np.abs(crowd[len(items) : 2 * len(items)] - together[::-1]).max() < APART


def test_bfloat16_embeds_the_images_of_every_method(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps_cli.models.model.has_bf16", lambda: True)
    model = opened(short.folder)
    exact, *_, quick = model.image_ways()
    prepared = np.stack([model.transform(image) for image in images()])
    row_BE, near_BE = exact.embed(prepared), quick.embed(prepared)
    assert near_BE.dtype == np.float32 and np.abs(np.linalg.norm(near_BE, axis=1) - 1).max() < 1e-5
    assert (row_BE * near_BE).sum(1).min() > 0.99
    assert np.array_equal(exact.embed(prepared), row_BE)


# Protocol ---------------------------------------------------------------------------------------


def test_the_score_of_an_honest_run_has_no_label(short: Short) -> None:
    protocol = evaluate(short.folder, data_root=short.folder.parent / "data", device="cpu").protocol
    assert protocol.labels == [], protocol.guard


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", methods.names())
def test_no_method_is_accused_on_drawn_pedestrians(
    name: str, seed: int, pedestrians: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained a little, scored by dot products: nothing sets the score apart, whatever the method and the seed."""
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    recipe = recipe_of(name, tmp_path, batch=40, sets=(f"train.seed={seed}",))
    run = engine.train(recipe, data_root=pedestrians, out=tmp_path / "run", device="cpu")
    protocol = evaluate(run, data_root=pedestrians, device="cpu").protocol
    assert protocol.labels == [], protocol.guard


@pytest.fixture(scope="module")
def pedestrians(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pedestrians")
    draw_set(root / "synthetic", identities=60, seed=0, workers=1)
    return root


# Learning ---------------------------------------------------------------------------------------


class Course(NamedTuple):
    """How a tiny method is trained from scratch: rate, epochs, and what differs from its recipe."""

    lr: float = 3e-3
    epochs: int = 20
    sets: tuple[str, ...] = ("method.temperature=0.1",)
    """0.02 belongs to CLIP's trained cosines: a tower from scratch collapses under it."""


COURSES = {
    "cskt": Course(lr=1e-2, epochs=40),
    "dm_adapter": Course(lr=1e-2, epochs=40),
    "eccl": Course(lr=1e-2, epochs=40, sets=("optim.scale.lora=1",)),
    "rde": Course(lr=1e-3, epochs=40, sets=()),
    "tbps_clip": Course(epochs=30, sets=()),
    "textreid": Course(epochs=60, sets=()),
}
CHANCE = 100 / PERSONS[1]
"""R@1 in percent when images are ranked at random: all persons of val have as many."""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_training_from_scratch_raises_r1_far_above_chance(
    name: str, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    course, spy, started = COURSES.get(name, Course()), Spy(), time.process_time()
    recipe = recipe_of(name, tmp_path, batch=40, lr=course.lr, epochs=course.epochs, sets=course.sets)
    engine.train(recipe, data_root=colours, out=tmp_path / "run", device="cpu", observer=spy)
    score, seconds = spy.evaluations[-1].scores.R1, time.process_time() - started
    first, last = spy.steps[0].losses["loss"], spy.steps[-1].losses["loss"]
    print(f"\n| `{name}` | {course.epochs} | {first:.1f} → {last:.1f} | {score:.0f} % | {seconds:.0f} s |")
    assert last < first
    assert score >= 4 * CHANCE, f"R@1 is {score:.1f} %, chance {CHANCE:.1f} %"
