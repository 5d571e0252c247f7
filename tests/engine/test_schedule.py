"""The rates of every schedule against the published code's, and by hand where that is quicker to read."""

import json
import math
from pathlib import Path

import pytest

from tbps_cli.engine import schedule
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Step

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/irra/optim.json").read_text())["lr_per_epoch"]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_rates_of_sixty_epochs_equal_irras(name: str) -> None:
    kind, warmup = name.split("/")
    optim = OptimSection.model_validate(
        {"lr": 1e-5, "schedule": kind, "warmup_epochs": 5, "warmup_method": warmup, "milestones": (20, 50)}
    )
    ours = [schedule.rate(optim, 1e-5, Step(epoch=epoch, epochs=60)) for epoch in range(60)]
    assert ours == pytest.approx(GOLDEN[name], rel=1e-12)
    assert [schedule.factor(optim, 60, epoch) * 1e-5 for epoch in range(60)] == pytest.approx(ours, rel=1e-12)


def test_the_target_rate_is_the_same_for_every_group() -> None:
    optim = OptimSection(lr=1.0, schedule="cosine", target_lr=0.25)
    last = Step(epoch=10, epochs=10)
    assert schedule.rate(optim, 1.0, last) == schedule.rate(optim, 5.0, last) == 0.25


def test_the_rate_moves_within_an_epoch_only_when_the_unit_is_a_step() -> None:
    middle = Step(epoch=1, iteration=5, iterations=10, epochs=2)
    assert schedule.rate(OptimSection(lr=1.0, schedule="linear"), 1.0, middle) == 0.5
    assert schedule.rate(OptimSection(lr=1.0, schedule="linear", unit="step"), 1.0, middle) == 0.25


def _per_step(epochs: int, iterations: int, scale: float = 1.0) -> list[float]:
    optim = OptimSection(lr=1e-4, schedule="cosine-per-step", warmup_epochs=1, lr_start=1e-6, lr_end=5e-6)
    return [
        schedule.rate(optim, 1e-4 * scale, Step(epoch, iteration, iterations, epochs))
        for epoch in range(epochs)
        for iteration in range(iterations)
    ]


def test_the_cosine_per_step_starts_at_its_start_and_reaches_the_base_rate_on_the_last_warm_step() -> None:
    rates = _per_step(epochs=5, iterations=10)
    assert rates[0] == pytest.approx(1e-6) and rates[9] == rates[10] == pytest.approx(1e-4)
    assert rates[4] == pytest.approx(1e-6 + 4 * (1e-4 - 1e-6) / 9)
    assert rates[-1] == pytest.approx(5e-6 + (1e-4 - 5e-6) / 2 * (1 + math.cos(math.pi * 39 / 40)))


def test_a_group_factor_scales_the_whole_cosine_per_step() -> None:
    assert _per_step(3, 4, scale=5.0) == pytest.approx([5 * rate for rate in _per_step(3, 4)])


def test_a_warm_up_of_one_step_begins_at_the_start() -> None:
    assert _per_step(epochs=2, iterations=1)[0] == pytest.approx(1e-6)
