"""Dropout whose draws belong to rows, however a batch is cut into chunks and over ranks.

PyTorch's dropout draws for a tensor, so half a batch on each of two devices drops other entries than the
whole batch on one. Here a call takes one number from PyTorch's generator, and whether an entry stays
follows from that number and the entry's place, the row counted within the global batch. Whoever cuts a
batch seeds the generator alike for every piece and says with `start_at` where the piece begins. Devices
draw the same, and so does a block that activation checkpointing computes again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tbps_cli.augment.rng import GOLDEN, mixed, shifted

# A tensor, not a number: a compiled graph is then not made again for every place.
_first = torch.zeros((), dtype=torch.int64)

_STEPS = (GOLDEN, -4417276706812531889, 1609587929392839161, -8796714831421723037, 2870177450012600261)
"""What one place further along each axis adds to an entry's number: odd, with well mixed bits."""


def start_at(row: int) -> None:
    """State which row of the global batch the next tensors begin with."""
    _first.fill_(row)


def keep_mask(shape: Sequence[int], share: float, device: torch.device) -> Tensor:
    """Which entries of a tensor with rows as its first axis stay; true with probability 1 - share.

    64 bits are mixed as in SplitMix64 (`augment/rng.py`), and the upper 31 are compared.
    """
    bits = torch.randint(2**62, (), device=device)
    for axis, (size, step) in enumerate(zip(shape, _STEPS, strict=False)):
        place = torch.arange(size, device=device)
        place = (place + _first if axis == 0 else place) * step
        bits = bits + place.view(-1, *[1] * (len(shape) - axis - 1))
    return shifted(mixed(bits), 33) >= round(share * 2**31)


class Dropout(nn.Dropout):
    """[B, ...] with some entries 0 and the others divided by 1 - p, in training only."""

    def forward(self, input: Tensor) -> Tensor:
        return dropped(input, self.p) if self.training and self.p else input


def dropped(x: Tensor, share: float) -> Tensor:
    """The tensor without a share of its entries, the others scaled so that the mean stays."""
    return x * keep_mask(x.shape, share, x.device).to(x.dtype) / (1 - share)


def attention(query_BHLK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, share: float, *, causal: bool) -> Tensor:
    """Attention with dropout on its probabilities, in plain steps: the fused kernels draw for whole tensors."""
    score_BHLS = (query_BHLK @ key_BHSK.transpose(-1, -2)).float() * query_BHLK.shape[-1] ** -0.5
    if causal:
        ahead_LS = torch.ones(score_BHLS.shape[-2:], dtype=torch.bool, device=score_BHLS.device).triu(1)
        score_BHLS = score_BHLS.masked_fill(ahead_LS, float("-inf"))
    return dropped(score_BHLS.softmax(-1).to(value_BHSK.dtype), share) @ value_BHSK


def row_seeds(rows: int) -> list[int]:
    """A seed for each of the next rows, for draws that are made one by one: the same however the batch is cut."""
    bits = torch.randint(2**62, ()) + (torch.arange(rows) + _first) * _STEPS[0]
    seeds: list[int] = shifted(mixed(bits), 1).tolist()
    return seeds
