"""Every "auto" of a recipe becomes a value, with the reason beside it.

This is the one place where a recipe is changed between its file and the run, which keeps the result: so the
run's `recipe.toml` says what was really done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tbps_cli import methods
from tbps_cli.amounts import amount
from tbps_cli.data.open import find_layout
from tbps_cli.machine import available_cpus
from tbps_cli.methods.config import MethodConfig
from tbps_cli.recipe.schema import DataSection, Recipe

if TYPE_CHECKING:
    from tbps_cli.methods.base import Views

Precision = Literal["fp32", "bf16", "fp16"]

_MOST_WORKERS = 8


@dataclass(frozen=True)
class Facts:
    """What a choice may depend on.

    device: "cpu", "cuda" or "mps"; bf16: whether the device itself computes in it; cpus: processors that
    this process may use; world: processes that share them; store: whether pre-decoded images
    that fit the recipe were found; shapes: whether these know how large the images were; unbatched: why
    the method's images cannot be augmented in batches, None when they can.
    """

    device: str = "cpu"
    bf16: bool = False
    cpus: int = 1
    world: int = 1
    store: bool = False
    shapes: bool = True
    unbatched: str | None = None

    @classmethod
    def here(
        cls,
        device: str,
        *,
        world: int = 1,
        store: bool = False,
        shapes: bool = True,
        unbatched: str | None = None,
        cpu_bf16: bool = False,
    ) -> Facts:
        """The facts of this machine for a device such as "cuda:1"; cpu_bf16: whether its processor computes in bf16."""
        import torch

        kind = device.partition(":")[0]
        bf16 = torch.cuda.is_bf16_supported() if kind == "cuda" else cpu_bf16 and kind == "cpu"
        return cls(kind, bf16, available_cpus(), world, store, shapes, unbatched)


@dataclass(frozen=True)
class AutoValue:
    """One value that was chosen for the user, and why."""

    key: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value} ({self.reason})"


def resolve(
    recipe: Recipe, facts: Facts, *, method: MethodConfig | None = None, workers: int | None = None
) -> tuple[Recipe, list[AutoValue]]:
    """The recipe without any "auto", and each choice with its reason; other values stay as they are.

    method: in place of `recipe.method`, with what follows from weights and vocabulary; workers: in place of
    `train.workers`.
    """
    data, train = recipe.data, recipe.train
    config = recipe.method if method is None else method
    kind = methods.find(config.name)
    views = kind.views(config)
    choices: list[AutoValue] = []
    if train.precision == "auto":
        choices.append(AutoValue("train.precision", *_precision(facts, recipe)))
    place = data.augment_on
    if place == "auto":
        place, reason = _augment_on(config.name, views, data, facts)
        choices.append(AutoValue("data.augment_on", place, reason))
    if train.workers == "auto" and workers is None:
        choices.append(AutoValue("train.workers", *_workers(facts, place)))
    if data.sampler == "auto":
        choices.append(AutoValue("data.sampler", views.sampler, f"what {config.name} is published with"))
    if data.store == "auto":
        choices.append(AutoValue("data.store", *_store(facts)))
    layout = find_layout(data.name)
    for key, value in kind.choose(config, layout.name if layout else data.name, data.noise_rate).items():
        choices.append(AutoValue(f"method.{key}", *value))

    changes: dict[str, dict[str, object]] = {"data": {}, "method": {}, "train": {}}
    if workers is not None:
        changes["train"]["workers"] = workers
    for choice in choices:
        section, _, key = choice.key.partition(".")
        changes[section][key] = choice.value
    sections = {
        "data": data.model_copy(update=changes["data"]),
        "method": config.model_copy(update=changes["method"]),
        "train": train.model_copy(update=changes["train"]),
    }
    return recipe.model_copy(update=sections), choices


def _precision(facts: Facts, recipe: Recipe) -> tuple[Precision, str]:
    if facts.device == "cpu" and facts.bf16:
        if recipe.published is None:
            return "bf16", "this processor multiplies in bf16; the weights stay fp32"
        return "fp32", "so that scores compare with the published ones; bf16 is faster on this processor"
    if facts.device != "cuda":
        return "fp32", f"the device is {facts.device}"
    if facts.bf16:
        return "bf16", "this GPU computes in bf16; the weights stay fp32"
    return "fp16", "this GPU has no bf16; fp16 with loss scaling, the weights stay fp32"


def _augment_on(method: str, views: Views, data: DataSection, facts: Facts) -> tuple[Literal["cpu", "device"], str]:
    if not facts.store or data.store == "off":
        return "cpu", "exactly as published; batches on the device need decoded images"
    if facts.unbatched is not None:
        return "cpu", f"exactly as published; {method} cannot be augmented in batches: {facts.unbatched}"
    if facts.device != "cuda":
        return "cpu", "exactly as published; device is faster, with other draws of the same distribution"
    if not any(how.whole for how in views.images.values()):
        return "device", "in whole batches, with other draws of the published distribution; cpu is exact"
    if not facts.shapes:
        return "cpu", "exactly as published; device needs images decoded again, by tbps prepare-data --decode"
    return "device", "in whole batches, with other draws, strong views cut from the resized image; cpu is exact"


def _workers(facts: Facts, augment_on: str) -> tuple[int, str]:
    share = max(1, facts.cpus // facts.world)
    whose = amount(facts.cpus, "processor") + (f" for {facts.world} processes" if facts.world > 1 else "")
    if facts.store and facts.device == "cpu":
        return 0, "the images are decoded already"
    if facts.store and augment_on == "device":
        return min(2, share), "for captions and draws; the device makes the images"
    if facts.device == "cpu":
        return min(_MOST_WORKERS, share // 2), f"half of {whose}; training needs the rest"
    return min(_MOST_WORKERS, share), f"{whose}, at most {_MOST_WORKERS}"


def _store(facts: Facts) -> tuple[str, str]:
    if facts.store:
        return "on", "decoded images of this size were found"
    return "off", "no decoded images of this size; prepare-data --decode makes them"
