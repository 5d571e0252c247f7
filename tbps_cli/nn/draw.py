"""How layers are drawn before training: the rules that several of the released codes share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class DrawsItself(Protocol):
    """A part of a method that draws its own parameters."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter anew from the generator."""


def draw_linear_uniform(layers: Iterable[nn.Linear], generator: torch.Generator) -> None:
    """Weights and biases uniform within 1 / sqrt(inputs), as PyTorch draws a linear layer."""
    for layer in layers:
        bound = layer.in_features**-0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def draw_linear_normal(layers: Iterable[nn.Linear], generator: torch.Generator) -> None:
    """Weights normal with standard deviation sqrt(2 / outputs), biases 0, as TextReID's released code does."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=(2 / layer.out_features) ** 0.5, generator=generator)
        nn.init.zeros_(layer.bias)


def linear_layers(*modules: nn.Module) -> list[nn.Linear]:
    """Every linear layer in the modules, in their order."""
    return [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
