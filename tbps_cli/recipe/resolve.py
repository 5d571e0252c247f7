"""Every "auto" of a recipe becomes a value, with the reason beside it.

The run keeps the resolved recipe, so that it says what was really done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from tbps_cli import methods
from tbps_cli.data.open import find_layout
from tbps_cli.recipe.schema import Recipe

Precision = Literal["fp32", "bf16", "fp16"]

_MOST_WORKERS = 8


@dataclass(frozen=True)
class Facts:
    """What a choice may depend on.

    device: "cpu", "cuda" or "mps"; bf16: whether the device computes in it; cpus: processors that
    this process may use; world: processes that share them; store: whether pre-decoded images
    that fit the recipe were found; shapes: whether these know how large the images were.
    """

    device: str = "cpu"
    bf16: bool = False
    cpus: int = 1
    world: int = 1
    store: bool = False
    shapes: bool = True

    @classmethod
    def here(cls, device: str, world: int = 1, store: bool = False, shapes: bool = True) -> Facts:
        """The facts of this machine for a device such as "cuda:1"."""
        import torch

        kind = device.partition(":")[0]
        bf16 = kind == "cuda" and torch.cuda.is_bf16_supported()
        return cls(kind, bf16, available_cpus(), world, store, shapes)


@dataclass(frozen=True)
class Choice:
    """One value that was chosen for the user, and why."""

    key: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value} ({self.reason})"


def available_cpus() -> int:
    """The processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def resolve(recipe: Recipe, facts: Facts) -> tuple[Recipe, list[Choice]]:
    """The recipe without any "auto", and each choice with its reason; other values stay as they are."""
    choices: list[Choice] = []
    if recipe.train.precision == "auto":
        choices.append(Choice("train.precision", *_precision(facts)))
    place = recipe.data.augment_on
    if place == "auto":
        place, reason = _augment_on(recipe, facts)
        choices.append(Choice("data.augment_on", place, reason))
    if recipe.train.workers == "auto":
        choices.append(Choice("train.workers", *_workers(facts, place)))
    if recipe.data.sampler == "auto":
        choices.append(Choice("data.sampler", *_sampler(recipe)))
    if recipe.data.store == "auto":
        choices.append(Choice("data.store", *_store(facts)))
    choices.extend(_of_method(recipe))
    changes: dict[str, dict[str, object]] = {"data": {}, "method": {}, "train": {}}
    for choice in choices:
        section, _, key = choice.key.partition(".")
        changes[section][key] = choice.value
    sections = {
        "data": recipe.data.model_copy(update=changes["data"]),
        "method": recipe.method.model_copy(update=changes["method"]),
        "train": recipe.train.model_copy(update=changes["train"]),
    }
    return recipe.model_copy(update=sections), choices


def _of_method(recipe: Recipe) -> list[Choice]:
    layout = find_layout(recipe.data.name)
    name = layout.name if layout else recipe.data.name
    found = methods.find(recipe.method.name).choose(recipe.method, name, recipe.data.noise_rate)
    return [Choice(f"method.{key}", value, reason) for key, (value, reason) in found.items()]


def _precision(facts: Facts) -> tuple[Precision, str]:
    if facts.device != "cuda":
        return "fp32", f"the device is {facts.device}"
    if facts.bf16:
        return "bf16", "this GPU computes in bf16; the weights stay fp32"
    return "fp16", "this GPU has no bf16; fp16 with loss scaling, the weights stay fp32"


def _augment_on(recipe: Recipe, facts: Facts) -> tuple[Literal["cpu", "device"], str]:
    from tbps_cli.augment.batched import refusal

    if not facts.store or recipe.data.store == "off":
        return "cpu", "exactly as published; whole batches need pre-decoded images"
    images = methods.find(recipe.method.name).views(recipe.method).images
    against = refusal(images)
    if against is not None:
        return "cpu", f"exactly as published; {recipe.method.name} cannot be augmented in batches: {against}"
    if facts.device != "cuda":
        return "cpu", "exactly as published; device is faster, with other draws of the same distribution"
    if not any(how.whole for how in images.values()):
        return "device", "in whole batches, with other draws of the published distribution; cpu is exact"
    if not facts.shapes:
        return "cpu", "exactly as published; device needs images decoded anew, by tbps prepare-data --decode"
    return "device", "in whole batches, with other draws, strong views cut from the resized image; cpu is exact"


def _workers(facts: Facts, augment_on: str) -> tuple[int, str]:
    share = max(1, facts.cpus // facts.world)
    whose = f"{facts.cpus} processors" + (f" for {facts.world} processes" if facts.world > 1 else "")
    if facts.store and facts.device == "cpu":
        return 0, "the images are decoded already"
    if facts.store and augment_on == "device":
        return min(2, share), "for captions and draws; the device makes the images"
    if facts.device == "cpu":
        return min(_MOST_WORKERS, share // 2), f"half of {whose}; training needs the rest"
    return min(_MOST_WORKERS, share), f"{whose}, at most {_MOST_WORKERS}"


def _sampler(recipe: Recipe) -> tuple[str, str]:
    views: Any = methods.find(recipe.method.name).views(recipe.method)
    wish = getattr(views, "sampler", "random")
    return wish, f"what {recipe.method.name} is published with"


def _store(facts: Facts) -> tuple[str, str]:
    if facts.store:
        return "on", "pre-decoded images of this size were found"
    return "off", "no pre-decoded images of this size; tbps prepare-data --decode makes them"
