"""What the adapters of several methods share. Everything runs the code that users run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from parity.check import TOLERANCE, Figures
from torch import Tensor

from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.losses.contrastive import sdm
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.retrieval.metrics import details_of_similarity
from tbps_cli.types import Batch, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

AnyMethod = TypeVar("AnyMethod", bound=Method)
RATE = 1e-9
"""Rates and decays, relative: they are formulas, not sums."""


def official_files(weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> OfficialFiles:
    """A golden folder's weights as if they had come from a foreign checkpoint with these options."""
    return OfficialFiles(weights, options, "golden weights")


def with_heads(config: MethodConfig, sizes: Mapping[str, Any]) -> Any:
    """The configuration with the heads that config.json states, where they are not width // 64."""
    tower = config.sizes
    image, text = sizes.get("vision_heads", tower.image_heads), sizes.get("text_heads", tower.text_tower_heads)
    if (image, text) == (tower.image_heads, tower.text_tower_heads):
        return config
    return config.model_copy(update={"tower": tower.model_copy(update={"heads": image, "text_heads": text})})


def load(kind: type[AnyMethod], config: MethodConfig, task: Task, weights: Mapping[str, Tensor]) -> AnyMethod:
    """The method with the official weights, in training mode. Raises when a name is unknown or missing."""
    method = kind(config, task)
    tensors, unknown = kind.official.to_ours(weights)
    if unknown:
        raise ValueError(f"no row of the key table knows {unknown}")
    own = method.state_dict()
    method.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items() if name in own})
    extra = sorted(set(tensors) - set(own))
    if extra:
        raise ValueError(f"the model has no {extra}")
    return method


def batch(images: Mapping[str, Tensor], tokens: Mapping[str, Tensor], person_B: Tensor, image_B: Tensor) -> Batch:
    """A training batch of given views."""
    return Batch(dict(images), dict(tokens), person_B, image_B, torch.arange(len(person_B)))


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """What training minimises."""
    return torch.stack([loss.reshape(()) for loss in losses.values()]).sum()


def activations(method: Method, names: Mapping[str, str], call: Callable[[], object]) -> dict[str, Tensor]:
    """Outputs of modules while `call` runs: figure name -> module name of ours, last call wins."""
    kept: dict[str, Tensor] = {}

    def keep(figure: str) -> Callable[..., None]:
        return lambda module, given, out: kept.__setitem__(figure, out.detach())

    handles = [method.get_submodule(module).register_forward_hook(keep(figure)) for figure, module in names.items()]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return kept


def named_official(method: Method) -> dict[str, torch.nn.Parameter]:
    """Parameters under their published names."""
    return {method.official.foreign(name) or name: value for name, value in method.named_parameters()}


@torch.no_grad()
def embeddings(out: Figures, method: Method, data: Batch, tolerance: float = TOLERANCE) -> Tensor:
    """Both embeddings before and after normalisation; returns the cosines of captions to images."""
    features = method.features(data)
    image_BE, text_BE = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
    out.check("image_features", features["image"], tolerance)
    out.check("text_features", features["text"], tolerance)
    out.check("image_features_norm", image_BE)
    out.check("text_features_norm", text_BE)
    out.check("similarity_t2i", text_BE @ image_BE.T)
    return text_BE @ image_BE.T


@torch.no_grad()
def persons(out: Figures, method: Any, data: Batch) -> None:
    """IRRA's family: the temperature, the classifier's scores where there is one, the figures of the log."""
    features = method.features(data)
    out.check("temperature", method.config.temperature)
    if method.classifier is not None:
        out.check("image_logits", method.classifier(features["image"]))
        out.check("text_logits", method.classifier(features["text"]))
    for name, value in method.metrics(features, data).items():
        out.check(name, value)


@torch.no_grad()
def losses(out: Figures, method: Any, data: Batch, names: Mapping[str, str]) -> None:
    """Each loss (names: ours -> the golden one), their sum, and sdm with images for persons."""
    features = method.features(data)
    found = method.losses(features, data, Step())
    for name, value in found.items():
        out.loss(f"loss.{names[name]}", value)
    out.loss("total.all", total(found))
    pair, temperature = (features["image"], features["text"]), method.config.temperature
    by_image = sdm(*pair, data.person_B, temperature=temperature, image_B=data.image_B)
    out.loss("loss.sdm_with_image_ids", by_image)


def ranked(out: Figures, text_image: Tensor, person_B: Tensor, tolerance: float = TOLERANCE) -> None:
    """The scores of the batch as its own gallery, in both directions."""
    for way, score in {"t2i": text_image, "i2t": text_image.T.contiguous()}.items():
        found = details_of_similarity(score, person_B, person_B)
        out.check(f"metrics.{way}.cmc_1_to_5", found.cmc(5), tolerance)
        for name, value in found.scores()._asdict().items():
            out.check(f"metrics.{way}.{name}", value, tolerance)


def gradients(figures: Figures, prefix: str, method: Method, loss: Tensor, tolerance: float = 2e-5) -> None:
    """Compare `prefix` + official parameter name with the gradient of a loss."""
    method.zero_grad(set_to_none=True)
    loss.backward()
    own = named_official(method)
    for name in figures.starting(prefix):
        if name in own:
            grad = own[name].grad
            figures.gradient(prefix + name, torch.zeros_like(own[name]) if grad is None else grad, tolerance)
    method.zero_grad(set_to_none=True)


def irra_optim(lr: float, **more: Any) -> OptimSection:
    """The rules that IRRA's whole family trains by; more: further keys, or other values."""
    rules: dict[str, Any] = {"eps": 1e-3, "weight_decay": 4e-5, "scale": {"new": 5.0, "bias": 2.0}, "warmup_epochs": 5}
    return OptimSection(kind="adam", lr=lr, **rules | more)


def steps(
    method: Method, data: Batch, optim: OptimSection, count: int, epochs: int, *, per_epoch: bool = True
) -> tuple[list[float], list[float]]:
    """Optimiser steps on one batch; the schedule moves an epoch a step. Returns (losses, base rates)."""
    optimizer = engine_optim.build(method, optim)
    losses, rates = [], []
    for number in range(count):
        at = Step(epoch=number if per_epoch else 0, iteration=0 if per_epoch else number, epochs=epochs)
        rates.append(schedule.set_rates(optimizer, optim, at))
        loss = total(method(data, at))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        method.after_step()
        losses.append(loss.item())
    return losses, rates


def parameters(figures: Figures, prefix: str, method: Method, tolerance: float = 2e-5) -> None:
    """Compare `prefix` + official parameter name with the parameters as they are now."""
    own = named_official(method)
    for name in figures.starting(prefix):
        if name in own:
            figures.check(prefix + name, own[name], tolerance)


def groups(figures: Figures, name: str, method: Method, optim: OptimSection) -> None:
    """A list of {name, lr, weight_decay, frozen?}: one line for all, none may be missing on either side."""
    expected: Sequence[Mapping[str, Any]] = figures.use(name)
    found = engine_optim.settings(method, optim)
    own = {method.official.foreign(ours) or ours: setting for ours, setting in found.items()}
    line = figures.prefix + name
    if set(own) != {entry["name"] for entry in expected}:
        other = sorted(set(own) ^ {entry["name"] for entry in expected})
        figures.report.fail(line, f"{len(other)} names differ (first: {other[0]})")
        return
    worst = 0.0
    for entry in expected:
        setting = own[entry["name"]]
        if setting.frozen != bool(entry.get("frozen", False)):
            figures.report.fail(line, f"{entry['name']} is {'frozen' if setting.frozen else 'trained'}")
            return
        if not setting.frozen:
            worst = max(worst, _apart(setting.lr, entry["lr"]), _apart(setting.weight_decay, entry["weight_decay"]))
    figures.report.judge(line, worst, RATE)


def _apart(ours: float, expected: float) -> float:
    return abs(ours - expected) / abs(expected) if expected else abs(ours)


def schedules(figures: Figures, optim: OptimSection) -> None:
    """A table "schedule/warm-up" -> rates per epoch of the base group."""
    for name in figures:
        kind, _, warmup = name.partition("/")
        changes = {"schedule": kind, "warmup_method": warmup, "milestones": (20, 50)}
        section = OptimSection.model_validate(optim.model_dump() | changes)
        expected = figures.values[name]
        ours = [section.lr * schedule.factor(section, len(expected), epoch) for epoch in range(len(expected))]
        figures.check(name, ours, RATE, relative=True)
