"""What the adapters of several methods share. Everything runs the code that users run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from parity.check import Figures
from torch import Tensor

from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.methods.base import Method, MethodConfig, OfficialFiles
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.retrieval.metrics import details_of_similarity
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.masking import mask_words
from tbps_cli.types import Batch, Step, Task

AnyMethod = TypeVar("AnyMethod", bound=Method)
RATE = 1e-9
"""Rates and decays, relative: they are formulas, not sums."""


def official_files(weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> OfficialFiles:
    """A golden folder's weights as if they had come from a foreign checkpoint with these options."""
    return OfficialFiles(weights, options, "golden weights")


def with_heads(config: MethodConfig, sizes: Mapping[str, Any]) -> Any:
    """The configuration with the heads that config.json states, where they are not width // 64."""
    tower = config.sizes
    image, text = sizes.get("vision_heads", tower.image_heads), sizes.get("text_heads", tower.words_heads)
    if (image, text) == (tower.image_heads, tower.words_heads):
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


def batch(images: Mapping[str, Tensor], tokens: Mapping[str, Tensor], person_B: Tensor, picture_B: Tensor) -> Batch:
    """A training batch of given views."""
    return Batch(dict(images), dict(tokens), person_B, picture_B, torch.arange(len(person_B)))


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


def tokenizer(figures: Figures, bpe: Bpe) -> None:
    """tokenizer.json of IRRA: the special ids and, caption by caption, ids and whole rows."""
    figures.exact("vocab_size", bpe.vocabulary)
    figures.exact("mask", bpe.mask_id)
    figures.exact("sot", bpe.start)
    figures.exact("eot", bpe.end)
    cases = figures.use("note", "cases")
    for number, case in enumerate(cases):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        text = entry.use("text")
        entry.exact("ids", bpe.encode(text))
        entry.exact("tokens77", bpe([text])[0])
        entry.close()


def masking(figures: Figures, bpe: Bpe) -> None:
    """mlm_masking.json of IRRA: masked rows and labels from seeded draws."""
    cases = figures.use("rng", "replacement_population", "cases")
    for number, case in enumerate(cases):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        rng = random.Random(entry.use("seed"))
        masked, labels = mask_words(entry.use("tokens"), rng, mask=bpe.mask_id, first_special=bpe.mask_id)
        entry.exact("masked", masked)
        entry.exact("labels", labels)
        entry.close()


def metrics(figures: Figures) -> None:
    """metrics.json of IRRA: a similarity matrix scored in both directions; scores are float32 there."""
    similarity = torch.tensor(figures.use("note", "similarity"))
    query, gallery = figures.use("query_pids"), figures.use("gallery_pids")
    ways = {"t2i": (similarity, query, gallery), "i2t": (similarity.T.contiguous(), gallery, query)}
    expected = figures.sub("expected")
    for way, given in ways.items():
        found = details_of_similarity(*given)
        table = expected.sub(way)
        table.check("cmc", found.cmc(len(table.values["cmc"])))
        for name, value in found.scores()._asdict().items():
            table.check(name, value)


def transforms(tensors: Figures, remarks: Figures) -> None:
    """transforms.* of IRRA: one picture, its evaluation tensor and seeded training tensors."""
    from PIL import Image

    from tbps_cli.data.transforms import CLIP_EVAL, CLIP_TRAIN, PLAIN_TRAIN, Draws, EvalTransform, augment

    size = tuple(remarks.use("note", "torch", "torchvision", "pillow", "size"))
    picture = Image.fromarray(tensors.use("image_uint8_hwc").numpy())
    tensors.check("eval", EvalTransform(size, **CLIP_EVAL)(picture))
    for name, how in (("train_aug", CLIP_TRAIN), ("train_noaug", PLAIN_TRAIN)):
        for seed in tensors.starting(f"{name}.seed"):
            tensors.check(f"{name}.seed{seed}", augment(picture, size, how, Draws(int(seed))))
