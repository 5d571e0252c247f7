"""Heads that only training uses: which person, which masked word, which view. Names are IRRA's and TBPS-CLIP's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps_cli.nn.block import LayerNorm, QuickGELU
from tbps_cli.nn.draw import draw_linear_uniform, linear_layers


class Classifier(nn.Linear):
    """[B, E] features in any precision -> [B, N] float32 scores of N training identities."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype)).float()

    def initialise(self, generator: torch.Generator) -> None:
        """Weights from N(0, 0.001), the second number being the standard deviation; biases 0."""
        nn.init.normal_(self.weight, std=0.001, generator=generator)
        nn.init.zeros_(self.bias)


class WordHead(nn.Module):
    """[..., E] -> [..., V] scores over the vocabulary: linear, QuickGELU, layer norm, linear.

    layers: depth of the transformer below, by which its weights are drawn.
    """

    def __init__(self, width: int, vocabulary: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.dense = nn.Linear(width, width)
        self.act = QuickGELU()
        self.ln = LayerNorm(width)
        self.fc = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.ln(self.act(self.dense(x))))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw as IRRA's released code does."""
        width = self.dense.in_features
        nn.init.normal_(self.dense.weight, std=(2 * width) ** -0.5, generator=generator)
        nn.init.normal_(self.fc.weight, std=width**-0.5 * (2 * self.layers) ** -0.5, generator=generator)
        for layer in (self.dense, self.fc):
            nn.init.uniform_(layer.bias, -(width**-0.5), width**-0.5, generator=generator)


class ContrastHead(nn.Sequential):
    """[B, E] -> [B, out]: linear, ReLU, linear; what a self-supervised loss compares views by."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def initialise(self, generator: torch.Generator) -> None:
        """Weights and biases uniform within 1 / sqrt(inputs), as PyTorch draws a linear layer."""
        draw_linear_uniform(linear_layers(self), generator)
