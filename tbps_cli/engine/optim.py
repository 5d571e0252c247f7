"""The optimiser of a recipe: which parameters train, at which rate, with which decay.

A method says for each parameter which rate it takes and whether it decays (`Method.group_of`); the
recipe says what those names mean in numbers. One group of the optimiser for each pair that occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from tbps_cli.engine.plain_optimizers import SGD, Adam, AdamW
from tbps_cli.errors import RecipeError
from tbps_cli.methods.base import Method
from tbps_cli.recipe.schema import OptimSection

FROZEN = "frozen"


@dataclass(frozen=True)
class Setting:
    """How one parameter is trained, in numbers; `frozen` ones are not."""

    lr: float
    weight_decay: float
    group: str

    @property
    def frozen(self) -> bool:
        return self.group == FROZEN


def settings(method: Method, optim: OptimSection) -> dict[str, Setting]:
    """Parameter name -> its base rate and decay, for every parameter of the method.

    Raises RecipeError when `optim.scale` names a group that no parameter is in.
    """
    found: dict[str, Setting] = {}
    for name, _ in method.named_parameters():
        group = method.group_of(name)
        lr = 0.0 if group.rate == FROZEN else optim.lr * optim.scale.get(group.rate, 1.0)
        decay = optim.weight_decay if group.decay else optim.weight_decay_bias
        found[name] = Setting(lr, 0.0 if group.rate == FROZEN else decay, group.rate)
    _refuse_unknown_groups(optim, {setting.group for setting in found.values()}, method)
    return found


def build(method: Method, optim: OptimSection) -> Optimizer:
    """The optimiser over the method's trained parameters; the others get `requires_grad = False`.

    Every group keeps its base rate as "initial_lr", for `schedule.set_rates`. Raises RecipeError
    when nothing is left to train.
    """
    chosen = settings(method, optim)
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        setting = chosen[name]
        parameter.requires_grad_(not setting.frozen)
        if not setting.frozen:
            groups.setdefault((setting.group, setting.lr, setting.weight_decay), []).append(parameter)
    if not groups:
        raise RecipeError(f"method {method.config.name} has no parameter left to train under this recipe.")
    return _optimizer(
        [
            {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": decay, "name": group}
            for (group, lr, decay), parameters in groups.items()
        ],
        optim,
    )


def trained(method: Method) -> list[nn.Parameter]:
    """The parameters that receive gradients, in the order of their names' registration."""
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


def _optimizer(groups: list[dict[str, object]], optim: OptimSection) -> Optimizer:
    fused = True if _fusible(groups) else None
    if optim.kind == "sgd":
        return SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused)
    # adam adds the decay to the gradient, adamw to the weight: two methods, not two spellings
    kind = Adam if optim.kind == "adam" else AdamW
    return kind(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)


def _fusible(groups: list[dict[str, object]]) -> bool:
    """Whether one kernel may do the whole step: float32 on CUDA or a CPU (there eight times as fast as the loop).

    Half weights are left out: the fused kernel computes in float32 and would not lose the small
    updates that the papers' pure half loses, so the recipe would mean something else.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    return all(
        parameter.device.type in ("cuda", "cpu") and parameter.dtype == torch.float32 for parameter in parameters
    )


def _refuse_unknown_groups(optim: OptimSection, known: set[str], method: Method) -> None:
    unknown = sorted(set(optim.scale) - known - {"tower", "new", "bias"})
    if unknown:
        raise RecipeError(
            f"optim.scale.{unknown[0]}: method {method.config.name} has no parameters in a group {unknown[0]!r}.",
            f"Its groups are {', '.join(sorted(known - {FROZEN}))}.",
        )
