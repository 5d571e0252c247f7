"""Transformer bricks with OpenAI CLIP's parameter names.

Pre-norm residual blocks: `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`. A method that changes CLIP
replaces the block (`Transformer(block=...)`) or edits tokens between blocks (`Hooks`); there is no
second copy of the towers. How tokens lie and which are wanted is a `TokenLayout`, which blocks pass on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tbps_cli.nn.token_layout import PADDED, OneOfEachRow, TokenLayout, split_heads

Activation = Literal["quickgelu", "gelu"]
PACKED = "qkv"
"""Queries, keys and values, in the order of the rows of `in_proj_weight`."""


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 whatever comes in, returned in the input's type."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        # Exported and compiled graphs keep the formula, which their runtimes know and fuse.
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return x * torch.sigmoid(1.702 * x)
        if x.requires_grad:
            made: Tensor = _QuickGELU.apply(x)  # type: ignore[no-untyped-call]
            return made
        return (1.702 * x).sigmoid_().mul_(x)  # the same bits, in one block of memory


class _QuickGELU(torch.autograd.Function):
    """The same for training on a CPU: five passes over memory instead of eight, and nothing kept but x.

    The derivative is that of SiLU at 1.702 x, which has a kernel of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(gradients[0], 1.702 * ctx.saved_tensors[0])


def activation(name: Activation) -> nn.Module:
    """The activation of a tower's MLPs."""
    return QuickGELU() if name == "quickgelu" else nn.GELU()


class Attention(nn.Module):
    """Multi-head attention with packed projections (`in_proj_weight` in the order q, k, v).

    width: model width D; heads must divide it; the scores are scaled by (D / heads) ** -0.5.
    dropout: on the attention probabilities, in training only.
    """

    half_parameters: tuple[str, ...] = ("in_proj_weight", "in_proj_bias")

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, layout: TokenLayout = PADDED, *, context: Tensor | None = None) -> Tensor:
        """What the wanted tokens of `x` attend to, the tokens as the layout says they lie.

        context: [B, S, D], the tokens that are attended to instead of `x` itself.
        """
        if layout.all_wanted and context is None:
            # one product and one copy into rows for all three
            query, key, value = layout.rows(self.project(x, "qkv")).chunk(3, dim=-1)
        else:
            query = self.project(layout.wanted(x), "q")
            key, value = layout.rows(self.project(x if context is None else context, "kv")).chunk(2, dim=-1)
        drop = self.dropout if self.training else 0.0
        return self.out_proj(layout.attend(query, key, value, self.heads, drop))

    @torch.no_grad()
    def probabilities(self, x_BLD: Tensor, layout: OneOfEachRow) -> Tensor:
        """How much the wanted token of each row attends to each, the mean of the heads: [B, L] float32, no gradient."""
        query_BH1K = split_heads(self.project(layout.wanted(x_BLD), "q"), self.heads)
        key_BHLK = split_heads(self.project(x_BLD, "k"), self.heads)
        score_BHL = (query_BH1K @ key_BHLK.transpose(-1, -2)).float().squeeze(2) * query_BH1K.shape[-1] ** -0.5
        seen_BL = layout.seen(x_BLD.shape[1])
        if seen_BL is not None:
            score_BHL = score_BHL.masked_fill(~seen_BL[:, None], float("-inf"))
        return score_BHL.softmax(-1).mean(1)

    def project(self, x: Tensor, parts: str) -> Tensor:
        """Projections of tokens side by side; parts: "qkv", or neighbours among these."""
        if parts == PACKED:
            return F.linear(x, self.in_proj_weight, self.in_proj_bias)
        first, width = PACKED.index(parts), x.shape[-1]
        rows = slice(first * width, (first + len(parts)) * width)
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])


class Mlp(nn.Module):
    """Two linear layers, four times as wide inside."""

    def __init__(self, width: int, act: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.act = activation(act)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    """One residual block of CLIP. A method's own blocks override `feed` (adapters, mixtures beside the MLP).

    However tokens lie (`layout`) and whichever are wanted, only attention has to know.
    """

    token_wise: ClassVar[bool] = True
    """Whether `feed` looks at each token alone, so that tokens may be left out. A subclass where not says false."""

    def __init__(self, width: int, heads: int, act: Activation = "quickgelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.ln_1 = LayerNorm(width)
        self.mlp = Mlp(width, act)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor, layout: TokenLayout = PADDED) -> Tensor:
        """All tokens in, the wanted ones out."""
        return self.feed(self.attend(x, layout))

    def attend(self, x: Tensor, layout: TokenLayout = PADDED) -> Tensor:
        """The first half: attention with its residual."""
        return layout.wanted(x) + self.attn(self.ln_1(x), layout)

    def feed(self, x: Tensor) -> Tensor:
        """The second half: the MLP with its residual, and what stands beside it."""
        return x + self.mlp(self.ln_2(x))

    def initialise_additions(self, generator: torch.Generator) -> None:
        """Draw what a subclass has beside CLIP's own parameters; called after those are drawn."""

    @property
    def may_skip_tokens(self) -> bool:
        """Whether tokens that are not wanted may be left out now; dropout's draws belong to whole rows."""
        return self.token_wise and not (self.training and self.attn.dropout)


@dataclass(frozen=True)
class Hooks:
    """Where a method may edit the tokens of a tower without a tower of its own."""

    embedded: Callable[[Tensor], Tensor] | None = None
    """On the embedded sequence: image tower before `ln_pre`, text tower before the position table."""
    before_block: Callable[[int, Tensor], Tensor] | None = None
    """Before block i, i from 0."""


class Transformer(nn.Module):
    """`layers` blocks, each built by `block(i)`.

    `checkpointing` recomputes each block in the backward pass: about a third more time, a fraction
    of the memory, the same numbers.
    """

    def __init__(self, layers: int, block: Callable[[int], Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(block(index) for index in range(layers))
        self.checkpointing = False

    @property
    def blocks(self) -> list[Block]:
        """The blocks, from the first."""
        return cast(list[Block], list(self.resblocks))

    @property
    def may_skip_tokens(self) -> bool:
        """Whether every block may leave out tokens now: padding then takes no part in anything."""
        return all(block.may_skip_tokens for block in self.blocks)

    def forward(self, x: Tensor, layout: TokenLayout = PADDED, hooks: Hooks | None = None) -> Tensor:
        """All tokens in, the wanted ones out; where it may, the last block computes no others."""
        x = self._before_last(x, layout, hooks)
        if layout.all_wanted or self.blocks[-1].may_skip_tokens:
            return self._run(self.blocks[-1], x, layout)
        return layout.wanted(self._run(self.blocks[-1], x, layout.whole))

    def forward_with_attention(
        self, x_BLD: Tensor, layout: OneOfEachRow, hooks: Hooks | None = None
    ) -> tuple[Tensor, Tensor]:
        """All tokens, [B, L, D], and how much the wanted one attends to each in the last block, [B, L]."""
        last, x_BLD = self.blocks[-1], self._before_last(x_BLD, layout, hooks)
        return self._run(last, x_BLD, layout.whole), last.attn.probabilities(last.ln_1(x_BLD), layout)

    def _before_last(self, x: Tensor, layout: TokenLayout, hooks: Hooks | None) -> Tensor:
        """What the last block gets."""
        edit = hooks.before_block if hooks else None
        for index, block in enumerate(self.blocks):
            if edit is not None:
                x = edit(index, x)
            if index < len(self.resblocks) - 1:
                x = self._run(block, x, layout.whole)
        return x

    def _run(self, block: Block, x: Tensor, layout: TokenLayout) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            made: Tensor = checkpoint(block, x, layout, use_reentrant=False)
            return made
        return block(x, layout)


def init_blocks(transformer: Transformer, width: int, generator: torch.Generator) -> None:
    """Draw a transformer as CLIP does: normal, scaled by width and depth; biases of attention 0.

    Source: OpenAI CLIP, `initialize_parameters`; used by IRRA's cross-modal transformer too.
    """
    shrink = (2 * len(transformer.resblocks)) ** -0.5
    for block in transformer.blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5, generator=generator)
        nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * shrink, generator=generator)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5, generator=generator)
        nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * shrink, generator=generator)
        nn.init.zeros_(block.attn.in_proj_bias)
        nn.init.zeros_(block.attn.out_proj.bias)
        for layer in (block.mlp.c_fc, block.mlp.c_proj):
            bound = float(layer.in_features) ** -0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
