"""Transformer bricks with OpenAI CLIP's parameter names.

Pre-norm residual blocks: `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`. A method that changes CLIP
replaces the block (`Transformer(block=...)`) or edits tokens between blocks (`Hooks`); there is no
second copy of the towers. Attention runs through PyTorch's fused kernel; where one token of a row looks
is computed in plain steps, and only for the block that is asked for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tbps_cli.nn import dropout
from tbps_cli.nn.packing import Packing

Activation = Literal["quickgelu", "gelu"]


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 whatever comes in, returned in the input's type."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: Activation) -> nn.Module:
    """The activation of a tower's MLPs."""
    return QuickGELU() if name == "quickgelu" else nn.GELU()


class Attention(nn.Module):
    """Multi-head attention with packed projections (`in_proj_weight` in the order q, k, v).

    width: model width D; heads must divide it; the scores are scaled by (D / heads) ** -0.5.
    dropout: on the attention probabilities, in training only.
    """

    half_parameters = ("in_proj_weight", "in_proj_bias")

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

    def forward(
        self,
        query_BLD: Tensor,
        other_BSD: Tensor | None = None,
        *,
        causal: bool = False,
        seen_BS: Tensor | None = None,
        place_B: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from `query` to itself, or to `other` (keys and values); [B, L, D] in and out.

        seen_BS: which of the others a row's queries may look at; all without it. With `place_B`, one
        position a row, also the probabilities with which that token looks at the others, averaged over
        the heads: [B, S] float32, without gradient.
        """
        query, key, value = self._project(query_BLD, other_BSD)
        if self.training and self.dropout:
            mixed = dropout.attention(query, key, value, self.dropout, causal=causal)
        else:
            mask_B11S = None if seen_BS is None else seen_BS[:, None, None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B11S, is_causal=causal)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if place_B is None else (out, _looks(query, key, place_B, causal))

    def packed(self, x_ND: Tensor, packing: Packing, *, ends: bool = False) -> Tensor:
        """Causal attention within each caption of packed tokens, [N, D]; of their last tokens alone, [B, D]."""
        if not ends:
            asked, key, value = self._spread(F.linear(x_ND, self.in_proj_weight, self.in_proj_bias), packing, 3)
            mixed = F.scaled_dot_product_attention(asked, key, value, is_causal=True)
            return self.out_proj(packing.gather(mixed.transpose(1, 2).flatten(2)))
        asked = self._asked(x_ND[packing.last_B, None])
        key, value = self._spread(self._known(x_ND), packing, 2)
        seen_B11T = packing.real_BT[:, None, None]
        mixed = F.scaled_dot_product_attention(self._split(asked), key, value, attn_mask=seen_B11T)
        return self.out_proj(mixed.flatten(1))

    def _spread(self, x_NX: Tensor, packing: Packing, parts: int) -> list[Tensor]:
        return [self._split(part) for part in packing.spread(x_NX).chunk(parts, dim=-1)]

    def _project(self, query: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if other is None:
            packed = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
            return self._split(packed[0]), self._split(packed[1]), self._split(packed[2])
        key, value = self._known(other).chunk(2, dim=-1)
        return self._split(self._asked(query)), self._split(key), self._split(value)

    def _asked(self, x: Tensor) -> Tensor:
        """Queries of tokens."""
        width = x.shape[-1]
        return F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])

    def _known(self, x: Tensor) -> Tensor:
        """Keys and values of tokens, side by side."""
        width = x.shape[-1]
        return F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@torch.no_grad()
def _looks(query_BHLK: Tensor, key_BHSK: Tensor, place_B: Tensor, causal: bool) -> Tensor:
    place_B1 = place_B[:, None]
    # gather, not take_along_dim: that one fixes the batch of an exported graph
    query_BH1K = query_BHLK.gather(
        2, place_B1[:, None, :, None].expand(-1, query_BHLK.shape[1], -1, query_BHLK.shape[3])
    )
    scores_BHS = (query_BH1K @ key_BHSK.transpose(-1, -2)).float().squeeze(2) * query_BHLK.shape[-1] ** -0.5
    if causal:
        ahead_BS = torch.arange(key_BHSK.shape[2], device=place_B.device) > place_B1
        scores_BHS = scores_BHS.masked_fill(ahead_BS[:, None], float("-inf"))
    return scores_BHS.softmax(-1).mean(1)


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
    """One residual block of CLIP. Subclasses add adapters or mixtures beside the MLP."""

    alone = True
    """Whether the second half looks at each token alone, so that one can pass without the others."""

    def __init__(self, width: int, heads: int, act: Activation = "quickgelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.ln_1 = LayerNorm(width)
        self.mlp = Mlp(width, act)
        self.ln_2 = LayerNorm(width)

    def forward(
        self,
        x_BLD: Tensor,
        *,
        causal: bool = False,
        place_B: Tensor | None = None,
        packing: Packing | None = None,
        ends: bool = False,
    ) -> Tensor:
        """[B, L, D] in and out; with `place_B`, one position a row, that token alone comes out, [B, 1, D].

        With `packing` captions without their padding, [N, D] in and out; of `ends` the last tokens alone, [B, D].
        """
        if packing is not None:
            kept_XD = x_BLD[packing.last_B] if ends else x_BLD
            return self.feed(kept_XD + self.attn.packed(self.ln_1(x_BLD), packing, ends=ends))
        if place_B is None:
            return self.feed(self.attend(x_BLD, causal=causal))
        if not self.alone or (self.training and self.attn.dropout):  # dropout's draws belong to whole rows
            return token_at(self.feed(self.attend(x_BLD, causal=causal)), place_B)
        return self.feed(self.attend_at(x_BLD, place_B, causal=causal))

    def attend_at(self, x_BLD: Tensor, place_B: Tensor, *, causal: bool = False) -> Tensor:
        """`attend` for one token a row, which looks at all (causal: at those before it), [B, 1, D]."""
        normed_BLD = self.ln_1(x_BLD)
        seen_BL = None
        if causal:
            seen_BL = torch.arange(x_BLD.shape[1], device=x_BLD.device) <= place_B[:, None]
        attended = self.attn(token_at(normed_BLD, place_B), normed_BLD, seen_BS=seen_BL)
        return token_at(x_BLD, place_B) + attended

    def attend(self, x_BLD: Tensor, *, causal: bool = False) -> Tensor:
        """The first half: attention with its residual."""
        attended = self.attn(self.ln_1(x_BLD), causal=causal)
        return x_BLD + attended

    def feed(self, x_BLD: Tensor) -> Tensor:
        """The second half: the MLP with its residual (what adapters stand beside)."""
        return x_BLD + self.mlp(self.ln_2(x_BLD))

    def initialise_additions(self, generator: torch.Generator) -> None:
        """Draw what a subclass has beside CLIP's own parameters; called after those are drawn."""

    def forward_with_looks(self, x_BLD: Tensor, place_B: Tensor, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        """`forward`, and where the token at `place_B` looks: probabilities over the row, [B, L]."""
        attended, look_BL = self.attn(self.ln_1(x_BLD), causal=causal, place_B=place_B)
        return self.feed(x_BLD + attended), look_BL


def token_at(x_BLD: Tensor, place_B: Tensor) -> Tensor:
    """[B, L, D] -> [B, 1, D], the token at one position a row."""
    return x_BLD.gather(1, place_B[:, None, None].expand(-1, 1, x_BLD.shape[-1]))


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

    def __init__(self, layers: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(block(index) for index in range(layers))
        self.checkpointing = False

    def forward(
        self, x_BLD: Tensor, *, causal: bool = False, hooks: Hooks | None = None, place_B: Tensor | None = None
    ) -> Tensor:
        """[B, L, D] in and out; with `place_B` one token a row, [B, 1, D], and no other from the last block."""
        return self._through(len(self.resblocks), x_BLD, causal, hooks, place_B)

    def _through(
        self, count: int, x_BLD: Tensor, causal: bool, hooks: Hooks | None, place_B: Tensor | None = None
    ) -> Tensor:
        for index in range(count):
            block, x_BLD = self.resblocks[index], self._edit(index, x_BLD, hooks)
            if place_B is not None and index == count - 1 and isinstance(block, Block):
                return self._run(block, x_BLD, causal=causal, place_B=place_B)
            x_BLD = self._run(block, x_BLD, causal=causal)
        return x_BLD if place_B is None else token_at(x_BLD, place_B)

    def _run(self, block: nn.Module, x: Tensor, **given: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            made: Tensor = checkpoint(block, x, **given, use_reentrant=False)
        else:
            made = block(x, **given)
        return made

    def packed_ends(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """Captions without their padding -> the last token of each, [B, D]."""
        last = len(self.resblocks) - 1
        for index, block in enumerate(self.resblocks):
            x_ND = self._run(block, x_ND, packing=packing, ends=index == last)
        return x_ND

    def forward_with_looks(
        self, x_BLD: Tensor, place_B: Tensor, *, causal: bool = False, hooks: Hooks | None = None
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and where the token at `place_B` looks in the last block, averaged over the heads, [B, L]."""
        before, last = len(self.resblocks) - 1, self.resblocks[-1]
        assert isinstance(last, Block)
        x_BLD = self._edit(before, self._through(before, x_BLD, causal, hooks), hooks)
        return last.forward_with_looks(x_BLD, place_B, causal=causal)

    def _edit(self, index: int, x_BLD: Tensor, hooks: Hooks | None) -> Tensor:
        return hooks.before_block(index, x_BLD) if hooks and hooks.before_block else x_BLD


def init_blocks(transformer: Transformer, width: int, generator: torch.Generator) -> None:
    """Draw a transformer as CLIP does: normal, scaled by width and depth; biases of attention 0.

    Source: OpenAI CLIP, `initialize_parameters`; used by IRRA's cross-modal transformer too.
    """
    shrink = (2 * len(transformer.resblocks)) ** -0.5
    for block in transformer.resblocks:
        assert isinstance(block, Block)
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5, generator=generator)
        nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * shrink, generator=generator)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5, generator=generator)
        nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * shrink, generator=generator)
        nn.init.zeros_(block.attn.in_proj_bias)
        nn.init.zeros_(block.attn.out_proj.bias)
        for layer in (block.mlp.c_fc, block.mlp.c_proj):
            bound = float(layer.in_features) ** -0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
