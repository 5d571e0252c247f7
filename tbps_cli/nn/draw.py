"""How layers are drawn before training: the rules that several of the released codes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWN_IN_PLACE = frozenset(("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"))
_DRAWN = frozenset(("randn", "rand"))


@runtime_checkable
class DrawsItself(Protocol):
    """A part of a method that draws its own parameters."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter anew from the generator."""


@contextmanager
def shapes_alone() -> Iterator[None]:
    """What is made inside has names and shapes, but neither memory nor values."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Random numbers without their values, for tensors that have none: to draw those PyTorch imports its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, options = getattr(func, "__name__", ""), kwargs or {}
        if name in _DRAWN_IN_PLACE:
            return args[0] if args else options.get("tensor", options.get("self"))
        return func(*args, **options) if name not in _DRAWN else torch.empty(*args, **options)


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
