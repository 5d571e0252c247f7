"""PyTorch's optimisers without its compiler, which they import at their first use though nothing is compiled.

That import takes two seconds of processor time, as long as importing PyTorch itself, at the start of every training.
Each function here is PyTorch's own, without what is wrapped around it for `torch.compile`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import optim


class _Plain(optim.Optimizer):
    own_step: Callable[..., Any]

    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        return self.own_step(closure)


class SGD(_Plain, optim.SGD):
    own_step = inspect.unwrap(optim.SGD.step)


class Adam(_Plain, optim.Adam):
    own_step = inspect.unwrap(optim.Adam.step)


class AdamW(_Plain, optim.AdamW):
    own_step = inspect.unwrap(optim.AdamW.step)
