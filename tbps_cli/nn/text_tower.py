"""CLIP's causal text transformer. Parameter names are OpenAI's (flat: no prefix of their own)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tbps_cli.nn.block import Block, Hooks, LayerNorm, Transformer
from tbps_cli.nn.token_layout import CAUSAL_PADDED, EndsOfPacked, OneOfEachRow, pack, token_at


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
        block: Callable[[int], Block],
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(layers, block)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))

    def text_tokens(self, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Projected tokens at every position, [B, T, E]."""
        return self.projected(self.transformer(self.embedded(token_BT, hooks), CAUSAL_PADDED, hooks))

    def end_token(self, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
        """[B, T] -> [B, E], the projected token at each caption's end; where it may, nothing else is computed."""
        # The shapes of a traced graph cannot depend on what the ids say: it keeps all T columns.
        if torch.compiler.is_compiling():
            return self._end_of_rows(token_BT, hooks)
        # Hooks edit rows, and one caption has no padding once its row is cut.
        if hooks or len(token_BT) == 1 or not self.transformer.may_skip_tokens:
            return self._end_of_rows(used(token_BT), hooks)
        on_cpu_in_half = token_BT.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        packed = pack(end_of(token_BT), coarse=token_BT.shape[1] if on_cpu_in_half else None)
        x_BTD = self.embedded(token_BT[:, : packed.real_BT.shape[1]])
        return self.projected(self.transformer(packed.gather(x_BTD), EndsOfPacked(packed)))[:, 0]

    def _end_of_rows(self, token_BT: Tensor, hooks: Hooks | None) -> Tensor:
        layout = OneOfEachRow(end_of(token_BT), causal=True)
        return self.projected(self.transformer(self.embedded(token_BT, hooks), layout, hooks))[:, 0]

    def text_tokens_with_attention(self, token_BT: Tensor) -> tuple[Tensor, Tensor]:
        """`text_tokens`, and how much each end token attends to each in the last block, [B, T]."""
        layout = OneOfEachRow(end_of(token_BT), causal=True)
        x_BTD, attention_BT = self.transformer.forward_with_attention(self.embedded(token_BT), layout)
        return self.projected(x_BTD), attention_BT

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
