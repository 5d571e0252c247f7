"""How the tokens of a batch lie, and which of them a block has to compute.

A block is attention, then an MLP. Norms, projections and MLPs look at each token alone, so they take tokens
however these lie; what differs is attention, which a layout does (`attend`). Rows of one length are the usual
way. Captions may also lie one behind the other without the padding between them: one of CUHK-PEDES has 30
tokens on average, the longest of 64 has 60. Where a feature is a single token, the last block computes no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tbps_cli.nn import dropout
from tbps_cli.nn.row_attention import row_attention


class TokenLayout(Protocol):
    """Where tokens lie, and which of them are wanted from a block."""

    all_wanted: ClassVar[bool]

    @property
    def whole(self) -> TokenLayout:
        """The same tokens, all of them wanted."""

    def wanted(self, x: Tensor) -> Tensor:
        """The wanted ones out of all tokens."""

    def rows(self, x: Tensor) -> Tensor:
        """All tokens as rows of one length, [B, L, X], as attention needs them."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, drop: float = 0.0) -> Tensor:
        """Attention before the output projection: rows [B, L, D] of the wanted tokens and of all -> the wanted tokens.

        drop: share of the probabilities that are dropped; only a `Padded` layout can.
        """


@dataclass(frozen=True)
class Padded:
    """[B, L, D], all wanted. causal: a token attends to itself and to those before it."""

    all_wanted: ClassVar[bool] = True
    causal: bool = False

    @property
    def whole(self) -> Padded:
        return self

    def wanted(self, x: Tensor) -> Tensor:
        return x

    def rows(self, x: Tensor) -> Tensor:
        return x

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, drop: float = 0.0) -> Tensor:
        query, key, value = (split_heads(x, heads) for x in (query, key, value))
        if drop:
            return join_heads(dropout.attention(query, key, value, drop, causal=self.causal))
        return join_heads(row_attention(query, key, value, causal=self.causal))


PADDED = Padded()
CAUSAL_PADDED = Padded(causal=True)


@dataclass(frozen=True)
class OneOfEachRow:
    """[B, L, D], of each row the token at one position wanted: [B, 1, D]."""

    all_wanted: ClassVar[bool] = False
    place_B: Tensor
    causal: bool = False

    @property
    def whole(self) -> Padded:
        return CAUSAL_PADDED if self.causal else PADDED

    def wanted(self, x: Tensor) -> Tensor:
        return token_at(x, self.place_B)

    def rows(self, x: Tensor) -> Tensor:
        return x

    def seen(self, length: int) -> Tensor | None:
        """Which of `length` tokens the wanted one may attend to, bool [B, length]; None: all."""
        if not self.causal:
            return None
        return torch.arange(length, device=self.place_B.device) <= self.place_B[:, None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, drop: float = 0.0) -> Tensor:
        assert not drop
        seen_BL = self.seen(key.shape[1])
        mask_B11L = None if seen_BL is None else seen_BL[:, None, None]
        query, key, value = (split_heads(x, heads) for x in (query, key, value))
        return join_heads(row_attention(query, key, value, seen=mask_B11L))


@dataclass(frozen=True)
class Packed:
    """[N, D], the N real tokens of B captions of at most T, one caption behind the other, causal; all wanted."""

    all_wanted: ClassVar[bool] = True
    place_N: Tensor
    """Position of each in the flattened batch [B * T], ascending; some may be padding, which no real token sees."""
    real_BT: Tensor
    """Which positions of the batch are real tokens."""
    last_B: Tensor
    """Which of the N is each caption's last."""

    @property
    def whole(self) -> Packed:
        return self

    def wanted(self, x: Tensor) -> Tensor:
        return x

    def rows(self, x: Tensor) -> Tensor:
        """[N, X] -> [B, T, X], zeros where nothing is real."""
        flat = x.new_zeros(self.real_BT.numel(), x.shape[1]).index_copy(0, self.place_N, x)
        return flat.view(*self.real_BT.shape, -1)

    def gather(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [N, D]"""
        return x_BTD.flatten(0, 1).index_select(0, self.place_N)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, drop: float = 0.0) -> Tensor:
        assert not drop
        query, key, value = (split_heads(x, heads) for x in (query, key, value))
        return self.gather(join_heads(row_attention(query, key, value, causal=True)))


@dataclass(frozen=True)
class EndsOfPacked:
    """[N, D] as in `Packed`, each caption's last token wanted: [B, 1, D]. It attends to its whole caption."""

    all_wanted: ClassVar[bool] = False
    packed: Packed

    @property
    def whole(self) -> Packed:
        return self.packed

    def wanted(self, x: Tensor) -> Tensor:
        return x[self.packed.last_B, None]

    def rows(self, x: Tensor) -> Tensor:
        return self.packed.rows(x)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, drop: float = 0.0) -> Tensor:
        assert not drop
        query, key, value = (split_heads(x, heads) for x in (query, key, value))
        seen_B11T = self.packed.real_BT[:, None, None]
        return join_heads(row_attention(query, key, value, seen=seen_B11T))


def pack(end_B: Tensor, *, coarse: int | None = None) -> Packed:
    """How captions lie without padding, from the position of their last token.

    How many tokens there are decides shapes, so the CPU has to know: on a GPU this waits once. coarse: the longest that
    a row may be; then as much padding stays as makes the numbers of tokens and of columns multiples of a step, so that
    few shapes occur: oneDNN, which does bfloat16 on a CPU, makes code for each and keeps it, 10 MB a step otherwise.
    """
    length_B = end_B.cpu() + 1
    longest = int(length_B.max())
    if coarse is not None:
        longest = min(-(-longest // _STEP) * _STEP, coarse)
    real_BT = torch.arange(longest) < length_B[:, None]
    taken_BT = real_BT
    if coarse is not None:
        more = -int(length_B.sum()) % (_STEP * _STEP)
        taken_BT = real_BT | (~real_BT & ((~real_BT).flatten().cumsum(0).view_as(real_BT) <= more))
    last_B = taken_BT.sum(1).cumsum(0) - taken_BT.sum(1) + length_B - 1
    parts = taken_BT.flatten().nonzero()[:, 0], real_BT, last_B
    return Packed(*(part.to(end_B.device, non_blocking=True) for part in parts))


_STEP = 8
"""Lengths of rows are multiples of it in coarse shapes, numbers of tokens multiples of its square."""


def token_at(x_BLD: Tensor, place_B: Tensor) -> Tensor:
    """[B, L, D] -> [B, 1, D], the token at one position a row."""
    # gather, not take_along_dim: that one fixes the batch of an exported graph
    return x_BLD.gather(1, place_B[:, None, None].expand(-1, 1, x_BLD.shape[-1]))


def split_heads(x_BLD: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, D / H]"""
    return x_BLD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_BHLK: Tensor) -> Tensor:
    """[B, H, L, K] -> [B, L, H * K]"""
    return x_BHLK.transpose(1, 2).flatten(2)
