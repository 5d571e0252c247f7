"""The checkpoint of `--resume`: all that a run needs to go on as if nothing had happened.

Order, draws and rates follow from the place in the run alone, so what is kept is the place, the
method with its buffers, the optimiser, the running means of the epoch and the best so far. Beside
these stand the recipe and a mark of the annotation, so that a run goes on with what it began with.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tbps_cli.errors import DataError, RecipeError, WeightsError
from tbps_cli.models.run import STATE
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build
from tbps_cli.recipe.schema import Recipe
from tbps_cli.weights.weights_file import read_state, write_state

FILE = STATE
VERSION = 1

# What may differ between the killed run and the resumed one without changing a result.
_HARMLESS = {
    "": ("name", "note"),
    "train": ("workers", "log_every", "save_every", "loggers", "eval_batch"),
    "data": ("store",),
}

# Our own temporary names, and those under which safetensors first writes what it is told to write.
_HALF_WRITTEN = re.compile(r"\..*\.tmp|\.tmp[A-Za-z0-9]{6}")


@dataclass
class TrainingProgress:
    """How far a run has come. Epochs and iterations count from 0 and name the *next* step."""

    epoch: int = 0
    iteration: int = 0
    steps: int = 0
    """Optimiser steps taken."""
    best: float | None = None
    best_epoch: int | None = None
    """Counted from 1."""
    best_scores: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    finished: bool = False


@dataclass
class State:
    """One checkpoint: the place, the recipe's settings, and the parts' own states."""

    place: TrainingProgress
    recipe: dict[str, Any]
    """The resolved one."""
    logs: dict[str, int]
    parts: dict[str, Any]
    """method, optimizer, scaler, meter; empty once the run is finished."""
    given: dict[str, Any] = field(default_factory=dict)
    """The recipe as the user gave it, with every "auto"."""
    data: dict[str, Any] = field(default_factory=dict)
    """Of the training annotation: its `mark`, and how many captions and images it has; empty in older checkpoints."""
    origin: str = ""
    """Of the first weights, when they came from the hub."""
    start: dict[str, Any] = field(default_factory=dict)
    """What was chosen by scores before training began, as `Choices.document` has it."""


def save(folder: Path, state: State) -> None:
    """Write the checkpoint in the place of the previous one, which survives any failure."""
    write_state(folder / FILE, {"version": VERSION, **{key: _plain(value) for key, value in vars(state).items()}})


def load(folder: Path) -> State | None:
    """The checkpoint of a run folder; None when there is none.

    Raises WeightsError when the file is damaged or of another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = read_state(path)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise WeightsError(f"{path} is not a checkpoint of this version.", "Train again under another --out.")
    return State(
        TrainingProgress(**content["place"]),
        content["recipe"],
        content["logs"],
        content["parts"],
        content.get("given", {}),
        content.get("data", {}),
        content.get("origin", ""),
        content.get("start", {}),
    )


def sweep(folder: Path) -> None:
    """Remove half-written files that a killed process left behind."""
    for path in folder.glob(".*"):
        if _HALF_WRITTEN.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain values, for keeping and comparing."""
    return recipe.model_dump(mode="json", exclude={"published"})


def continued(saved: State, recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run that goes on: its own, in which every "auto" means what it meant when it began.

    recipe: as the user gives it now; what changes no result is taken from it. Raises RecipeError naming the keys
    when anything else differs.
    """
    require_same(saved, recipe, folder)
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in saved.recipe.items()}
    now = recipe.model_dump(mode="json", exclude_none=True)
    for section, keys in _HARMLESS.items():
        (values[section] if section else values).update(
            {key: value for key, value in (now[section] if section else now).items() if key in keys}
        )
    if "published" in now:
        values["published"] = now["published"]
    return build(Draft(values, {}, str(folder / FILE)))


def require_same(saved: State, recipe: Recipe, folder: Path) -> None:
    """Raises RecipeError naming the keys when a run was made by other settings than these.

    A value counts as the same when it is the one that was given then, or the one that this became.
    """
    given, resolved, now = _flat(saved.given), _flat(saved.recipe), _flat(settings(recipe))
    # a key that tbps did not have yet when the run began: the run went by what is now its default
    whole = _flat(settings(build(Draft(saved.recipe, {}, str(folder / FILE)))))
    resolved |= {key: value for key, value in whole.items() if key not in resolved}
    harmless = {f"{section}.{key}".removeprefix(".") for section, keys in _HARMLESS.items() for key in keys}
    differing = [
        f"{key} = {now.get(key)!r} (the run has {resolved.get(key)!r})"
        for key in sorted(given.keys() | resolved.keys() | now.keys())
        if key not in harmless and now.get(key) not in ("auto", given.get(key), resolved.get(key))
    ]
    if not differing:
        return
    if saved.place.finished:
        raise RecipeError(
            f"{folder} is finished, with other settings: " + "; ".join(differing) + ".",
            f"A finished run cannot be extended. Start a new run from its weights: --init {folder}",
        )
    raise RecipeError(
        f"{folder} was made by another recipe: " + "; ".join(differing) + ".",
        f"Resume it with its own: tbps train {folder / 'recipe.toml'} --out {folder} --resume; "
        "or start another run with --init and another --out.",
    )


def require_same_data(saved: State, data: Mapping[str, Any], folder: Path) -> None:
    """Raises DataError when the training annotation is not the one that a run began with.

    data: what is known of it now, as `State.data`.
    """
    if not saved.data or saved.data["mark"] == data["mark"]:
        return
    counts = [f"{saved.data[key]:,} {key} then, {data[key]:,} now" for key in ("captions", "images")]
    raise DataError(
        f"{folder} was trained on other data: the training annotation has changed since ({'; '.join(counts)}).",
        f"Restore the annotation, or start a new run from its weights: --init {folder}",
    )


def is_finite(method: torch.nn.Module) -> bool:
    """Whether every parameter is a number; a checkpoint of anything else would be worthless."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in method.parameters())


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, TrainingProgress) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables -> dotted keys; keys without a value are the same as missing ones."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
