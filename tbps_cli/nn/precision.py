"""The papers' pure half precision: half weights where OpenAI's loader made them so.

No autocast and no master weights: parameters and optimiser states of the converted tensors are
half themselves. Float32 stay layer norms, embeddings and position tables.
"""

from __future__ import annotations

import torch
from torch import nn


def to_half(model: nn.Module) -> nn.Module:
    """Convert linear, convolution and attention tensors (where a module says `half_parameters`, these) in place.

    Source: `convert_weights` of OpenAI CLIP, as IRRA and its descendants call it.
    """
    for module in model.modules():
        usual = ("weight", "bias") if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) else ()
        _halve(module, getattr(module, "half_parameters", usual))
    return model


def _halve(module: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        parameter = getattr(module, name, None)
        if isinstance(parameter, nn.Parameter):
            parameter.data = parameter.data.to(torch.float16)
