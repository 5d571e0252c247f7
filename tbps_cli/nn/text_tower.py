"""CLIP's causal text transformer. Parameter names are OpenAI's (flat: no prefix of their own)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tbps_cli.nn.block import Hooks, LayerNorm, Transformer, token_at
from tbps_cli.nn.packing import pack


class TextTower(nn.Module):
    """[B, T] ids -> [B, T, E] projected tokens. The caption's feature is the token at its end id.

    No padding mask is needed: pads follow the end token and the causal mask hides them.
    """

    half_parameters = ("text_projection",)

    def __init__(
        self,
        *,
        context: int,
        vocabulary: int,
        width: int,
        layers: int,
        embed: int,
        block: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(layers, block)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))

    def text_tokens(self, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Projected tokens at every position, [B, T, E]."""
        return self.projected(self.transformer(self.embedded(token_BT, hooks), causal=True, hooks=hooks))

    def end_token(self, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
        """[B, T] -> [B, E], the projected token at each caption's end alone: the last block computes no other."""
        x_BTD = self.embedded(token_BT, hooks)
        return self.projected(self.transformer(x_BTD, causal=True, hooks=hooks, place_B=end_of(token_BT)))[:, 0]

    def packed_ends(self, token_BT: Tensor) -> Tensor:
        """`end_token` without any padding: for blocks of CLIP's own kind, which draw nothing."""
        packing = pack(end_of(token_BT))
        x_BTD = self.embedded(token_BT[:, : packing.real_BT.shape[1]])
        return self.projected(self.transformer.packed_ends(packing.gather(x_BTD), packing))

    def text_tokens_with_looks(self, token_BT: Tensor, hooks: Hooks | None = None) -> tuple[Tensor, Tensor]:
        """`text_tokens`, and where each end token looks in the last block, averaged over the heads, [B, T]."""
        x_BTD = self.embedded(token_BT, hooks)
        x_BTD, look_BT = self.transformer.forward_with_looks(x_BTD, end_of(token_BT), causal=True, hooks=hooks)
        return self.projected(x_BTD), look_BT

    def embedded(self, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Words and positions before the first block, [B, T, D]."""
        dtype = self.text_projection.dtype
        x_BTD = self.token_embedding(token_BT).to(dtype)
        if hooks and hooks.embedded:
            x_BTD = hooks.embedded(x_BTD)
        return x_BTD + self.positional_embedding[: x_BTD.shape[1]].to(dtype)

    def projected(self, x_BTD: Tensor) -> Tensor:
        """`ln_final` and the projection, on whatever tokens are given."""
        return self.ln_final(x_BTD) @ self.text_projection


def end_of(token_BT: Tensor) -> Tensor:
    """[B, T] ids -> [B] position of the end token: the first occurrence of the highest id."""
    return token_BT.argmax(dim=-1)


def at_end(x_BTE: Tensor, token_BT: Tensor) -> Tensor:
    """[B, T, E] tokens -> [B, E], each caption's token at its end id."""
    return token_at(x_BTE, end_of(token_BT)).squeeze(1)


def used(token_BT: Tensor) -> Tensor:
    """The ids without the columns past the longest caption of the batch.

    A causal tower gives every remaining position the same vector: what is cut could not be seen.
    """
    return token_BT[:, : int(end_of(token_BT).max()) + 1]
