"""What PHP and CoMoE put on top of CLIP's tokens: pooling by learned parts, and blocks with experts.

Both modules serve images and captions alike. The released codes hand [B, L, E] tokens to an attention
layer that expects the sequence first, so each of the L positions attends over the items of the batch:
`axis = "batch"` does the same, `"token"` what was probably meant. Parameter names are the released ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.nn.block import Block, LayerNorm
from tbps_cli.nn.draw import draw_linear_uniform, linear_layers
from tbps_cli.nn.dropout import Dropout
from tbps_cli.nn.moe import INPUT_GATE, ExpertMixture

Axis = Literal["token", "batch"]


class ModelNorm(nn.LayerNorm):
    """A layer norm whose weights turn half with the model, unlike CLIP's own, as released."""

    half_parameters = ("weight", "bias")


class PartPool(nn.Module):
    """[B, L, E] tokens of either modality -> [B, parts, E]: PHP's coarse relevant feature mapping.

    Each learned token draws a softmax average of the tokens (no scale inside the softmax), then a
    feed-forward network without a residual. dropout: inside that network, in training only.
    """

    half_parameters = ("part_tokens",)

    def __init__(self, width: int, parts: int, dropout: float) -> None:
        super().__init__()
        self.part_tokens = nn.Parameter(torch.empty(parts, width))
        self.feed = nn.Sequential(
            ModelNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, x_BLE: Tensor) -> Tensor:
        share_BNL = (self.part_tokens @ x_BLE.transpose(1, 2)).softmax(-1)
        # the norm that follows undoes the scale except for its epsilon: kept, since the weights were trained with it
        return self.feed(share_BNL @ x_BLE * x_BLE.shape[-1] ** -0.5)

    def initialise(self, generator: torch.Generator) -> None:
        """Parts from N(0, sqrt(2 / E)), the network as PyTorch draws linear layers."""
        nn.init.normal_(self.part_tokens, std=(2 / self.part_tokens.shape[1]) ** 0.5, generator=generator)
        draw_linear_uniform(linear_layers(self.feed), generator)


class Expert(nn.Module):
    """x + up(gelu(down(norm(x)))), a bottleneck of E / reduction; starts as the identity.

    dropout: after gelu and after `up`, in training only.
    """

    def __init__(self, width: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.norm = ModelNorm(width)
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)
        self.drop = Dropout(dropout)

    def forward(self, x_BLE: Tensor) -> Tensor:
        return x_BLE + self.drop(self.up(self.drop(F.gelu(self.down(self.norm(x_BLE))))))

    def initialise(self, generator: torch.Generator) -> None:
        draw_linear_uniform([self.down], generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)


class ParserBlock(Block):
    """h = x + attn(ln_1(x)), then h + mlp(ln_2(h)) + mixture(ln_3(h)), with a context vector of its own."""

    def __init__(self, width: int, heads: int, axis: Axis, mixture: ExpertMixture) -> None:
        super().__init__(width, heads)
        self.axis = axis
        self.ln_3 = LayerNorm(width)
        self.comb_param = nn.Parameter(torch.empty(width))
        self.feed_forward = mixture

    def parse(self, x_BLE: Tensor, gate: str) -> Tensor:
        """gate: the mixture's token gate to ask. Returns [B, L, E]."""
        h_BLE = self.attend(x_BLE.transpose(0, 1)).transpose(0, 1) if self.axis == "batch" else self.attend(x_BLE)
        return self.feed(h_BLE) + self.feed_forward(self.ln_3(h_BLE), self.comb_param, gate)

    def initialise(self, generator: torch.Generator) -> None:
        """Attention as PyTorch draws its own layer; gates and MLP as linear layers; experts as identities."""
        nn.init.xavier_uniform_(self.attn.in_proj_weight, generator=generator)
        nn.init.normal_(self.comb_param, generator=generator)
        draw_linear_uniform((self.attn.out_proj, self.mlp.c_fc, self.mlp.c_proj), generator)
        nn.init.zeros_(self.attn.in_proj_bias)
        nn.init.zeros_(self.attn.out_proj.bias)
        gates = [gate for gate in self.feed_forward.children() if isinstance(gate, nn.Linear)]
        draw_linear_uniform(gates, generator)
        for expert in self.feed_forward.experts:
            assert isinstance(expert, Expert)
            expert.initialise(generator)


class TokenParser(nn.Module):
    """[B, L, E] tokens -> [B, L, E] through `layers` blocks with experts; no norm at the end."""

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        axis: Axis,
        num_experts: int,
        top_k: int,
        reduction: int,
        dropout: float,
        gates: Sequence[str] = (INPUT_GATE,),
    ) -> None:
        super().__init__()

        def block() -> ParserBlock:
            mixture = ExpertMixture(width, num_experts, top_k, lambda: Expert(width, reduction, dropout), gates)
            return ParserBlock(width, heads, axis, mixture)

        self.resblocks = nn.ModuleList(block() for _ in range(layers))

    def forward(self, x_BLE: Tensor, gate: str = INPUT_GATE) -> Tensor:
        """gate: which of the token gates routes these tokens."""
        for block in self.resblocks:
            assert isinstance(block, ParserBlock)
            x_BLE = block.parse(x_BLE, gate)
        return x_BLE

    def initialise(self, generator: torch.Generator) -> None:
        for block in self.resblocks:
            assert isinstance(block, ParserBlock)
            block.initialise(generator)


def check_parser(embed: int, *, heads: int, num_experts: int, top_k: int, reduction: int, **others: object) -> None:
    """Raises ValueError naming the key when a parser over embeddings of length `embed` cannot be built.

    others: the keywords of `TokenParser` that fit any.
    """
    if embed % heads:
        raise ValueError(f"moe_heads = {heads}: must divide the embedding's length, {embed}")
    if embed % reduction:
        raise ValueError(f"reduction = {reduction}: must divide the embedding's length, {embed}")
    if top_k > num_experts:
        raise ValueError(f"top_k = {top_k}: must be at most num_experts, which is {num_experts}")
