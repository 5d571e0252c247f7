"""Our optimisers are PyTorch's, to the bit, and leave its compiler alone."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from tbps_cli.engine import plain_optimizers

KINDS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "Adam": {"lr": 0.1, "weight_decay": 0.01, "fused": True},
    "AdamW": {"lr": 0.1, "weight_decay": 0.01},
}


@pytest.mark.parametrize("name", KINDS)
def test_steps_groups_and_states_are_those_of_pytorch(name: str) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    optimizers = []
    for model, kind in ((ours, getattr(plain_optimizers, name)), (theirs, getattr(torch.optim, name))):
        optimizer = kind([{"params": [model.weight]}], **KINDS[name])
        optimizer.add_param_group({"params": [model.bias], "lr": 0.01})
        for step in range(5):
            if step == 3:
                fresh = kind([{"params": [model.weight]}, {"params": [model.bias]}], **KINDS[name])
                fresh.load_state_dict(optimizer.state_dict())
                optimizer = fresh
            optimizer.zero_grad()
            model(torch.linspace(0, 1, 10).view(2, 5)).square().sum().backward()
            optimizer.step()
        optimizers.append(optimizer)
    assert isinstance(optimizers[0], getattr(torch.optim, name))
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


def test_a_step_of_training_imports_no_compiler() -> None:
    code = (
        "import sys, torch\nfrom tbps_cli.engine.plain_optimizers import AdamW\nmodel = torch.nn.Linear(2, 2)\n"
        "optimizer = AdamW(model.parameters())\nmodel(torch.ones(1, 2)).sum().backward()\noptimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\noptimizer.zero_grad()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
