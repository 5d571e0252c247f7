"""From a recipe to the parts of a training run, checked cheap things first.

Order: device, data set, both splits, then weights (which may have to be downloaded). Every choice
made for the user is collected with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps_cli import distributed, methods
from tbps_cli.augment.batched import BatchAugmenter, refusal
from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset, Split
from tbps_cli.errors import RecipeError, UsageError, WeightsError
from tbps_cli.loading.loader import Loader
from tbps_cli.loading.noise import add_noise
from tbps_cli.loading.store import Store, open_store
from tbps_cli.methods.base import Method, TextSources
from tbps_cli.models import device as devices
from tbps_cli.models import open_model
from tbps_cli.models.run import run_of
from tbps_cli.nn.block import Block, Transformer
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.resnet import Bottleneck, ResNet
from tbps_cli.recipe.resolve import Facts, resolve
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task


@dataclass
class Components:
    """What training works with, and why it is so."""

    recipe: Recipe
    """Without any "auto"."""
    dataset: Dataset
    train: Split
    device: torch.device
    loader: Loader
    tokenizer: Tokenizer
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Buffers that the method starts with, besides weights (`Method.text_input`)."""
    choices: list[str] = field(default_factory=list)


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


def gather_parts(
    recipe: Recipe,
    *,
    data_root: Path,
    device: str,
    workers: int | None,
    saved: Mapping[str, Any] | None,
    kept: Tokenizer | None = None,
) -> Components:
    """Open the data, resolve the recipe and make the loader.

    saved, kept: settings of a run that is resumed, and the words it has of its own; what was "auto" stays
    what it was there.
    """
    ranks = distributed.environment()
    _require_shares(recipe, ranks.world)
    recipe.method.check_batch(recipe.train.batch // recipe.train.accumulate)
    place = choose_device(device)
    recipe = _as_before(_with_workers(recipe, workers), saved)
    exclude = Path(recipe.data.exclude) if recipe.data.exclude else None
    dataset = open_dataset(recipe.data.name, data_root, exclude=exclude)
    split = _noisy(dataset.split("train"), recipe)
    dataset.split(recipe.train.select_on)  # not there: said now, not after the first epoch
    kind = methods.find(recipe.method.name)
    views = kind.views(recipe.method)
    store = _open_store(recipe, split, views)
    sources = TextSources(
        kept=kept,
        data=recipe.data.name,
        data_root=data_root,
        dataset=dataset,
        seed=recipe.train.seed,
        saved=(saved or {}).get("method", {}),
    )
    text = kind.text_input(recipe.method, sources)
    recipe = recipe.model_copy(update={"method": text.config})
    shapes = store is not None and store.shapes is not None
    recipe, chosen = resolve(recipe, Facts.here(str(place), ranks.world, store is not None, shapes))
    augmenter = None
    if recipe.data.augment_on == "device":
        assert store is not None  # both `_open_store` and `resolve` see to it
        augmenter = BatchAugmenter(store, split.paths, place)
    loader = _loader(recipe, split, views, text.tokenizer, store, augmenter, ranks, pin=place.type == "cuda")
    choices = [str(choice) for choice in chosen]
    if text.choice:
        choices.append(text.choice)
    return Components(recipe, dataset, split, place, loader, text.tokenizer, text.tensors, choices)


def _open_store(recipe: Recipe, split: Split, views: Any) -> Store | None:
    """The pre-decoded images, where the recipe wants them. Raises RecipeError when it insists on what cannot be."""
    data = recipe.data
    against = refusal(views.images) if data.augment_on == "device" else None
    if against is not None:
        raise RecipeError(
            f"data.augment_on = device: {recipe.method.name} cannot be augmented in batches on the device: {against}.",
            "Set data.augment_on=cpu.",
        )
    store = None
    if data.store != "off":
        store = open_store(split.root, data.image_size, next(iter(views.images.values())).resample, split.paths)
    if store is None and (data.store == "on" or data.augment_on == "device"):
        key = "augment_on = device" if data.augment_on == "device" else "store = on"
        size = "x".join(map(str, data.image_size))
        raise RecipeError(
            f"data.{key}, but there are no pre-decoded images of this size"
            + (", as data.store = off." if data.store == "off" else "."),
            f"Make them: tbps prepare-data {data.name} --decode {size}",
        )
    return store


def _require_shares(recipe: Recipe, world: int) -> None:
    micro = recipe.train.batch // recipe.train.accumulate
    if micro % world:
        parts = f"train.batch = {recipe.train.batch}" + (
            f" (in {recipe.train.accumulate} parts)" if recipe.train.accumulate > 1 else ""
        )
        raise RecipeError(
            f"{parts} cannot be shared evenly by {world} processes.",
            f"`batch` counts the pairs of all devices together: set it to a multiple of "
            f"{world * recipe.train.accumulate}.",
        )


def _with_workers(recipe: Recipe, workers: int | None) -> Recipe:
    if workers is None:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"workers": workers})})


def _as_before(recipe: Recipe, saved: Mapping[str, Any] | None) -> Recipe:
    """On resume, "auto" means what it meant when the run began."""
    changes: dict[str, Any] = {}
    for section, key in (("train", "precision"), ("data", "sampler"), ("data", "augment_on")):
        before = (saved or {}).get(section, {}).get(key)
        part = changes.get(section, getattr(recipe, section))
        if before is not None and getattr(part, key) == "auto":
            changes[section] = part.model_copy(update={key: before})
    return recipe.model_copy(update=changes)


def _noisy(split: Split, recipe: Recipe) -> Split:
    if not recipe.data.noise_rate:
        return split
    file = Path(recipe.data.noise_file) if recipe.data.noise_file else None
    return add_noise(split, recipe.data.noise_rate, file)[0]


def _loader(
    recipe: Recipe,
    split: Split,
    views: Any,
    tokenizer: Tokenizer,
    store: Store | None,
    augmenter: BatchAugmenter | None,
    ranks: distributed.Ranks,
    *,
    pin: bool,
) -> Loader:
    """The loader of micro-batches: with accumulation, the losses see `batch / accumulate` pairs at a time."""
    data, train = recipe.data, recipe.train
    assert isinstance(train.workers, int) and data.sampler != "auto"
    return Loader(
        split,
        views,
        tokenizer,
        data.image_size,
        batch=train.batch // train.accumulate,
        seed=train.seed,
        workers=train.workers,
        rank=ranks.rank,
        world=ranks.world,
        sampler=data.sampler,
        per_identity=data.per_identity,
        drop_last=views.drop_last,
        augmented=data.augment,
        store=store,
        augmenter=augmenter,
        max_pixels=data.max_pixels,
        pin=pin,
    )


# The method and where it starts ---------------------------------------------------------------


def build_method(
    parts: Components, init: Path | None, resumed: Mapping[str, Any] | None = None
) -> tuple[Method, list[str]]:
    """The method on its device, started from `--init`, from the recipe's weights or from random draws.

    resumed: the settings of a run whose checkpoint follows, so that no weights need to be fetched.
    Returns it with sentences about where it starts.
    """
    clip = None
    if resumed is not None:
        _same_tower(parts, resumed)
    elif init is None and parts.recipe.method.weights != "random":
        clip = _clip_weights(parts)
    recipe = parts.recipe
    task = Task(recipe.data.image_size, parts.train.identities, len(parts.train))
    method = methods.find(recipe.method.name)(recipe.method, task)
    method.initialise(torch.Generator().manual_seed(recipe.train.seed))
    notes = []
    if clip is not None:
        notes.append(f"weights: {len(method.load_weights(clip))} tensors from {recipe.method.weights}")
    elif init is not None and resumed is None:
        notes.append(start_from(method, init))
    method.load_state_dict(parts.tensors, strict=False)
    if recipe.train.precision == "fp16-pure":
        to_half(method)
    if recipe.train.checkpointing:
        _recompute(method)
    if recipe.train.compile:
        compile_blocks(method)
    method.to(parts.device)
    distributed.broadcast([*method.parameters(), *method.buffers()])
    for module in method.modules():
        if isinstance(module, ResNet):
            # the faster order for convolutions; PyTorch documents the keyword, its stubs lack it
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method, notes


def _recompute(method: Method) -> None:
    """Make every transformer keep its blocks' inputs alone. Raises RecipeError when there is none."""
    transformers = [module for module in method.modules() if isinstance(module, Transformer)]
    if not transformers:
        raise RecipeError(
            f"train.checkpointing: {method.config.name} has no transformer whose blocks could be computed again.",
            "Use train.chunk, or a smaller train.batch.",
        )
    for transformer in transformers:
        transformer.checkpointing = True


def compile_blocks(method: Method, backend: str = "inductor") -> None:
    """Let PyTorch compile each repeated block: those of one kind and width share what is made of the first.

    Whole towers would take minutes, and break where sizes depend on what the captions say.
    """
    torch._inductor.config.fallback_random = True  # dropout draws what it draws without compiling
    # one graph for each kind, width, causality, mode and once more when lengths vary; past the limit a block is eager
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for module in method.modules():
        if isinstance(module, Block | Bottleneck):
            module.compile(backend=backend)


def _same_tower(parts: Components, resumed: Mapping[str, Any]) -> None:
    """Take over the activation that the run's weights decided, when nothing else differs in the tower."""
    config = parts.recipe.method
    tower = resumed.get("method", {}).get("tower")
    if isinstance(tower, dict) and isinstance(config.tower, str):
        activation = tower.get("activation", config.sizes.activation)
        _set_activation(parts, activation)


def _set_activation(parts: Components, activation: Any) -> None:
    config = parts.recipe.method
    if activation != config.sizes.activation:
        tower = config.sizes.model_copy(update={"activation": activation})
        parts.recipe = parts.recipe.model_copy(update={"method": config.model_copy(update={"tower": tower})})


def _clip_weights(parts: Components) -> dict[str, Tensor]:
    """The towers' weights; the recipe takes over the activation that they were trained with."""
    from tbps_cli.weights.pretrained import clip_state

    config = parts.recipe.method
    state, activation = clip_state(config.weights, config.tower if isinstance(config.tower, str) else "")
    if activation != config.sizes.activation:
        parts.choices.append(f"method.tower.activation: {activation} ({config.weights} was trained with it)")
        _set_activation(parts, activation)
    return state


def start_from(method: Method, checkpoint: Path) -> str:
    """Copy what fits by name and shape from any run or official checkpoint. Returns a sentence about it.

    Raises WeightsError when nothing fits.
    """
    given, own = _tensors_of(checkpoint), method.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise WeightsError(f"--init {checkpoint}: none of its {len(given)} tensors fits {method.config.name}.")
    method.load_state_dict(fitting, strict=False)
    fresh = [name for name in own if name not in fitting]
    rest = f"; new: {', '.join(fresh[:4])}{', …' if len(fresh) > 4 else ''}" if fresh else ""
    return f"init: {len(fitting)} of {len(own)} tensors from {checkpoint}{rest}"


def _tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a run, heads included, or those of an official checkpoint under our names."""
    run = run_of(checkpoint)
    if run is not None:
        return run.weights()
    other = open_model(checkpoint, device="cpu").method
    if other is None:
        raise WeightsError(f"--init {checkpoint}: an exported graph cannot be trained.", "Give the run it came from.")
    return dict(other.state_dict())
