"""How the learning rate changes over a run: a pure function of the recipe and of where we stand.

Nothing here has a state, so a resumed run needs none. The five schedules and the two warm-ups are
those of IRRA's released code (all of its family uses them, once an epoch); `cosine-per-step` is
TBPS-CLIP's, which starts and ends at rates of its own and moves at every step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from torch.optim import Optimizer

from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Step


def rate(optim: OptimSection, base: float, at: Step) -> float:
    """The learning rate of a group at a step.

    base: the group's own rate, `optim.lr` times its factor.
    at: `at.epochs` is the length of the run; within the epoch only `unit = "step"` looks at the iteration.
    Source: IRRA, solver/lr_scheduler (target_lr is the same absolute rate for all groups); TBPS-CLIP.
    """
    if optim.schedule == "cosine-per-step":
        return base * _cosine_per_step(optim, at)
    now = at.epoch + (at.iteration / at.iterations if optim.unit == "step" else 0)
    if now < optim.warmup_epochs:
        return base * _warmup(optim, now)
    # a run that ends inside its warm-up never gets here, so the length is above 0
    share = (now - optim.warmup_epochs) / max(1, at.epochs - optim.warmup_epochs)
    return _AFTER[optim.schedule](optim, base, now, share)


def factor(optim: OptimSection, epochs: int, epoch: int) -> float:
    """The rate of the base group in an epoch (from 0), as a factor on `optim.lr`."""
    return rate(optim, optim.lr, Step(epoch=epoch, epochs=epochs)) / optim.lr


def set_rates(optimizer: Optimizer, optim: OptimSection, at: Step) -> float:
    """Give every group of an optimiser of `optim.build` its rate. Returns the base group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate(optim, group["initial_lr"], at)
    return rate(optim, optim.lr, at)


def _warmup(optim: OptimSection, now: float) -> float:
    """Linear from the first factor up to 1, or constant at the first factor."""
    if optim.warmup_method == "constant":
        return optim.warmup_factor
    share = now / optim.warmup_epochs
    return optim.warmup_factor * (1 - share) + share


def _cosine_per_step(optim: OptimSection, at: Step) -> float:
    """As a factor: evenly from lr_start to lr over the warm-up (both reached), then half a cosine to lr_end."""
    start, end = (value or 0.0 for value in (optim.lr_start, optim.lr_end))
    warm = optim.warmup_epochs * at.iterations
    if at.overall < warm:
        share = at.overall / (warm - 1) if warm > 1 else 0.0
        return (start + (optim.lr - start) * share) / optim.lr
    # the last step stays above lr_end: the count of steps is the divisor, not the last index
    turn = math.pi * (at.overall - warm) / max(1, at.epochs * at.iterations - warm)
    return (end + (optim.lr - end) / 2 * (1 + math.cos(turn))) / optim.lr


def _cosine(optim: OptimSection, base: float, now: float, share: float) -> float:
    return optim.target_lr + (base - optim.target_lr) * (1 + math.cos(math.pi * share)) / 2


def _step(optim: OptimSection, base: float, now: float, share: float) -> float:
    return base * optim.gamma ** bisect_right(optim.milestones, now)


def _exp(optim: OptimSection, base: float, now: float, share: float) -> float:
    return base * optim.power**share


def _linear(optim: OptimSection, base: float, now: float, share: float) -> float:
    return base * (1 - share)


def _poly(optim: OptimSection, base: float, now: float, share: float) -> float:
    return optim.target_lr + (base - optim.target_lr) * optim.power ** (1 - share)


def _constant(optim: OptimSection, base: float, now: float, share: float) -> float:
    return base


_AFTER: dict[str, Callable[[OptimSection, float, float, float], float]] = {
    "cosine": _cosine,
    "step": _step,
    "exp": _exp,
    "linear": _linear,
    "poly": _poly,
    "constant": _constant,
}
