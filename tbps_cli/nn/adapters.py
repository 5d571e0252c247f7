"""Bottleneck adapters beside the MLP of a frozen block.

CSKT's dual adapters: a norm of their own, down, ReLU, up, times a constant. DM-Adapter's: a mixture
of such adapters in the same place. Both branches read the same tokens, after attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.nn.block import Activation, Block, LayerNorm
from tbps_cli.nn.moe import ExpertMixture

STD = 0.02
"""Standard deviation of every new linear layer, `up` included: an adapter does not start as zero."""


class Adapter(nn.Module):
    """D -> D / reduction -> D with a ReLU between; `reduction` must divide the width."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        if width % reduction:
            raise ValueError(f"width {width} does not divide by the adapter's reduction {reduction}")
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights, zero biases."""
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=STD, generator=generator)
            nn.init.zeros_(layer.bias)


class AdapterBlock(Block):
    """x + attn(ln_1(x)) = h, then h + mlp(ln_2(h)) + scale * adapter(ln_3(h))."""

    def __init__(self, width: int, heads: int, act: Activation, *, reduction: int, scale: float) -> None:
        super().__init__(width, heads, act)
        self.ln_3 = LayerNorm(width)
        self.adapter_mlp = Adapter(width, reduction)
        self.scale = scale

    def feed(self, x_BLD: Tensor) -> Tensor:
        return x_BLD + self.mlp(self.ln_2(x_BLD)) + self.scale * self.adapter_mlp(self.ln_3(x_BLD))

    def initialise_additions(self, generator: torch.Generator) -> None:
        self.adapter_mlp.initialise(generator)


class MixtureBlock(Block):
    """h + mlp(ln_2(h)) + scale * mixture(ln_3(h)), h after attention; the experts are adapters.

    task_param: a learned vector [D] of the block, by which its gates tell it from the other blocks.
    """

    token_wise = False  # how the experts are loaded is counted over all tokens

    def __init__(
        self, width: int, heads: int, act: Activation, *, num_experts: int, top_k: int, reduction: int, scale: float
    ) -> None:
        super().__init__(width, heads, act)
        self.ln_3 = LayerNorm(width)
        self.feed_forward = ExpertMixture(width, num_experts, top_k, lambda: Adapter(width, reduction))
        self.task_param = nn.Parameter(torch.zeros(width))
        self.scale = scale

    def feed(self, x_BLD: Tensor) -> Tensor:
        return x_BLD + self.mlp(self.ln_2(x_BLD)) + self.scale * self.feed_forward(self.ln_3(x_BLD), self.task_param)

    def initialise_additions(self, generator: torch.Generator) -> None:
        """Draw gates, vector and `down`; `up` starts at 0, so the block starts as CLIP's own.

        Source: DM-Adapter's released code, which zeroes `up` in the first 12 blocks only.
        """
        mixture = self.feed_forward
        nn.init.normal_(self.task_param, generator=generator)
        for gate in (mixture.input_gate, mixture.task_gate):
            assert isinstance(gate, nn.Linear)
            nn.init.normal_(gate.weight, std=STD, generator=generator)
        for expert in mixture.experts:
            assert isinstance(expert, Adapter)
            nn.init.kaiming_uniform_(expert.down.weight, a=5**0.5, generator=generator)
            for zero in (expert.down.bias, expert.up.weight, expert.up.bias):
                nn.init.zeros_(zero)
