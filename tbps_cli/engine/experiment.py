"""From a recipe to an experiment: everything that a training works with, decided before anything is built.

`prepare` opens the data, reads where the weights start, and resolves every "auto". That is the one place where the
user's recipe becomes the run's; the parts are built from it afterwards, and nothing changes any more. Cheap checks
come first: the recipe, the device, the data set and its images, and only then weights, which may be a download.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tbps_cli import distributed, methods, places
from tbps_cli.augment.batched import refusal
from tbps_cli.choices import KEY, Choices
from tbps_cli.data.types import Dataset, Split
from tbps_cli.engine.components import build_loader, build_method
from tbps_cli.engine.start import Start, find_init, find_start
from tbps_cli.engine.state import State, continued, require_same_data
from tbps_cli.engine.training_data import find_store, open_data
from tbps_cli.errors import RecipeError, UsageError
from tbps_cli.features.image_ways import has_bf16
from tbps_cli.loading.loader import Loader
from tbps_cli.methods.base import Method, TextSources
from tbps_cli.models import device as devices
from tbps_cli.models.run import Run
from tbps_cli.recipe.resolve import Facts, resolve
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """What a training is told beside its recipe.

    out: the folder of the run. init: a checkpoint whose weights are the start. workers: instead of `train.workers`.
    tower_is_set: the user stated `method.tower`, so that it does not follow `init`.
    """

    data_root: Path
    out: Path
    init: Path | None = None
    device: str = "auto"
    workers: int | None = None
    tower_is_set: bool = True

    def command(self, *words: str | Path) -> str:
        """`tbps train` with the run's own recipe, further words and what was told of this machine: for hints."""
        told: list[str | Path] = [] if self.data_root == places.data_root() else ["--data-root", self.data_root]
        told += [] if self.device == "auto" else ["--device", self.device]
        return shlex.join(map(str, ["tbps", "train", self.out / "recipe.toml", *words, *told]))


@dataclass(frozen=True)
class Experiment:
    """Everything that a training works with. Nothing of it changes while it trains but the method's weights."""

    recipe: Recipe
    """Without any "auto"."""
    given: Recipe
    """As the user gave it."""
    options: Options
    dataset: Dataset
    train: Split
    data_facts: Mapping[str, Any]
    """What a checkpoint keeps of the training annotation (`TrainingData.facts`)."""
    device: torch.device
    tokenizer: Tokenizer
    loader: Loader
    method: Method
    choices: tuple[str, ...]
    """What was chosen for the user, one sentence each with its reason."""
    note: str
    """Where the weights come from."""
    start_choices: Choices
    """What was chosen by scores before this training began."""
    origin: str = ""
    """Where on the hub the training's first weights come from, with commit and hash; empty for others."""


def prepare(
    recipe: Recipe,
    options: Options,
    saved: State | None = None,
    decoding: Callable[[int, int], None] | None = None,
) -> Experiment:
    """Decide everything about a training, then build its parts.

    saved: the checkpoint of a run that goes on. Its recipe is resolved already and stays what it was.
    decoding: called with (images decoded, images to decode), where that has to be done first.
    Raises TbpsError for whatever the user can mend.
    """
    given = recipe
    if saved is not None:
        recipe = continued(saved, given, options.out)
    kind = methods.find(recipe.method.name)
    views = kind.views(recipe.method)
    unbatched = refusal(views.images)
    _check(recipe, unbatched)
    init = find_init(options.init, recipe.data.name) if saved is None else None  # a resumed run brings its own weights
    device = choose_device(options.device)

    data = open_data(recipe, options.data_root)
    facts_of_data = data.facts()
    if saved is not None:
        require_same_data(saved, facts_of_data, options.out)
    store = find_store(recipe.data, data, views, decoding)
    if saved is None:
        start = find_start(recipe.method, init, tower_is_set=options.tower_is_set)
    else:
        start = Start(recipe.method)
    sources = TextSources(
        kept=Run(options.out).tokenizer() if saved is not None else None,
        data=recipe.data.name,
        data_root=options.data_root,
        dataset=data.dataset,
        seed=recipe.train.seed,
        saved=dict(recipe.method) if saved is not None else {},
    )
    text = kind.text_input(start.config, sources)
    facts = Facts.here(
        str(device),
        world=distributed.environment().world,
        store=store is not None,
        shapes=store is not None and store.shapes is not None,
        unbatched=unbatched,
        cpu_bf16=has_bf16(),
    )
    recipe, chosen = resolve(recipe, facts, method=text.config, workers=options.workers)

    # All is decided: from here on things are built, and `recipe` stays as it is.
    method, note = build_method(recipe, data.train, start, text, options.data_root)
    return Experiment(
        recipe=recipe,
        given=given,
        options=options,
        dataset=data.dataset,
        train=data.train,
        data_facts=facts_of_data,
        device=device,
        tokenizer=text.tokenizer,
        loader=build_loader(recipe, data.train, views, text.tokenizer, store, device),
        method=method,
        choices=tuple(filter(None, [*map(str, chosen), *start.choices, text.choice])),
        note=note,
        start_choices=start.chosen if saved is None else Choices.read({KEY: saved.start}),
        origin=start.origin if saved is None else saved.origin,
    )


def _check(recipe: Recipe, unbatched: str | None) -> None:
    """Refuse what the recipe alone, or it and the number of processes, rule out."""
    train, world = recipe.train, distributed.environment().world
    micro = train.batch // train.accumulate
    if micro % world:
        parts = f" (in {train.accumulate} parts)" if train.accumulate > 1 else ""
        raise RecipeError(
            f"train.batch = {train.batch}{parts} cannot be shared evenly by {world} processes.",
            f"`batch` counts the pairs of all devices together: set it to a multiple of {world * train.accumulate}.",
        )
    recipe.method.check_batch(micro)
    if recipe.data.augment_on == "device" and unbatched is not None:
        raise RecipeError(
            f"data.augment_on = device: {recipe.method.name} cannot be augmented in batches on the device: "
            f"{unbatched}.",
            "Set data.augment_on=cpu.",
        )


def choose_device(wish: str) -> torch.device:
    """The device of this process; the choice is logged with its reason.

    Under torchrun "cuda" is the device of the local rank. Raises UsageError when it is not there.
    """
    ranks = distributed.environment()
    device = devices.choose(wish)
    if device.type != "cuda" or device.index is not None:
        return device
    if ranks.local >= torch.cuda.device_count():
        raise UsageError(
            f"process {ranks.local + 1} has no CUDA device: there are {torch.cuda.device_count()}.",
            "Start at most one process for each device, or use --device cpu.",
        )
    return torch.device("cuda", ranks.local)
