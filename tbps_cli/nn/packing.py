"""Captions of different lengths, one behind the other, without the padding between them.

Norms, projections and MLPs look at each token alone, so they run on the packed tokens; only attention puts
them back into rows. A caption of CUHK-PEDES has 30 tokens on average, the longest of 64 has 60.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where the tokens of a batch [B, T] lie among its N real ones."""

    place_N: Tensor
    """Position of each in the flattened batch, ascending."""
    real_BT: Tensor
    """Which positions are real ones."""
    last_B: Tensor
    """Which of the N is each caption's last."""

    def gather(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [N, D]"""
        return x_BTD.flatten(0, 1).index_select(0, self.place_N)

    def spread(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [B, T, D], zeros where nothing is real."""
        flat = x_ND.new_zeros(self.real_BT.numel(), x_ND.shape[1]).index_copy(0, self.place_N, x_ND)
        return flat.view(*self.real_BT.shape, -1)


def pack(end_B: Tensor) -> Packing:
    """The packing of captions by the position of their last token.

    How many tokens there are decides shapes, so the CPU has to know: on a GPU this waits once.
    """
    length_B = end_B.cpu() + 1
    real_BT = torch.arange(int(length_B.max())) < length_B[:, None]
    parts = real_BT.flatten().nonzero()[:, 0], real_BT, length_B.cumsum(0) - 1
    return Packing(*(part.to(end_B.device, non_blocking=True) for part in parts))
