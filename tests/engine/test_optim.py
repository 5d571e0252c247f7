"""Which parameters train, and at which rate."""

import pytest
import torch
from torch import nn

from tbps_cli.engine import optim, schedule
from tbps_cli.errors import RecipeError
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Group, Step, Task


class Small(Method):
    def __init__(self, frozen: tuple[str, ...] = ("tower.weight",)) -> None:
        super().__init__(MethodConfig(name="small"), Task((8, 8)))
        self.tower = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.frozen = frozen

    def group_of(self, name: str) -> Group:
        if name in self.frozen:
            return Group("frozen")
        rate = "new" if name == "head.weight" else "bias" if "bias" in name else "tower"
        return Group(rate, decay="bias" not in name)


SECTION = OptimSection(kind="adam", lr=0.1, weight_decay=0.01, scale={"new": 5.0, "bias": 2.0})


def test_every_parameter_has_the_rate_and_the_decay_of_its_group() -> None:
    found = optim.settings(Small(), SECTION)
    assert {name: (setting.lr, setting.weight_decay, setting.frozen) for name, setting in found.items()} == {
        "tower.weight": (0.0, 0.0, True),
        "tower.bias": (0.2, 0.0, False),
        "head.weight": (0.5, 0.01, False),
        "head.bias": (0.2, 0.0, False),
    }


def test_frozen_parameters_are_left_out_and_take_no_gradient() -> None:
    method = Small()
    optimizer = optim.build(method, SECTION)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(method.tower.weight) not in held and not method.tower.weight.requires_grad
    assert len(held) == 3 and len(optim.trained(method)) == 3


def test_adam_adds_the_decay_to_the_gradient_and_adamw_does_not() -> None:
    moved = {}
    for kind in ("adam", "adamw"):
        method = Small(frozen=())
        nn.init.ones_(method.head.weight)
        optimizer = optim.build(method, OptimSection(kind=kind, lr=0.1, weight_decay=0.5))
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        moved[kind] = method.head.weight[0, 0].item()
    assert moved["adam"] == pytest.approx(0.9, abs=1e-6) and moved["adamw"] == pytest.approx(0.95)


def test_the_rates_of_all_groups_follow_the_schedule() -> None:
    section = OptimSection(lr=0.1, schedule="linear", scale={"new": 5.0})
    optimizer = optim.build(Small(), section)
    assert schedule.set_rates(optimizer, section, Step(epoch=1, epochs=2)) == pytest.approx(0.05)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"bias": 0.05, "new": 0.25}
    )


def test_a_scale_for_a_group_that_nobody_is_in_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"optim\.scale\.towr"):
        optim.settings(Small(), OptimSection(scale={"towr": 2.0}))


def test_a_method_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(RecipeError, match="no parameter left to train"):
        optim.build(Small(frozen=("tower.weight", "tower.bias", "head.weight", "head.bias")), SECTION)
