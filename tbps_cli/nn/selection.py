"""RDE's token selection embedding: a second vector a side, from the tokens that the global one attends to.

Qin et al., "Noisy-Correspondence Learning for Text-to-Image Person Re-identification", CVPR 2024, arXiv
2308.09911. The tokens with the highest attention go through a small residual MLP, and the largest value of
each channel stays. Differences from the released code: pads that fill a short caption's selection take no
part in batch statistics (there, which of them do is decided by ties of 0 with 0); each caption is cut to
its own number of words (there, one caption without words empties all that follow it in the batch).
Parameter names, two unused layers included, are those of its checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli import distributed
from tbps_cli.nn.draw import draw_linear_uniform
from tbps_cli.nn.norm import BatchNorm1d
from tbps_cli.nn.text_tower import end_of

EPSILON = 1e-8
"""Added to a token's length before dividing by it."""


class RowNorm(BatchNorm1d):
    """[N, D] normalised per channel, in float32, by the batch in training and by running statistics else.

    from_batch: false uses the running statistics in training too and leaves them as they are, so
    that rows do not depend on each other; the affine part is trained either way. The running statistics
    are used for a batch of a single row too, which has no deviation (the released code fails there).
    """

    def __init__(self, width: int, *, from_batch: bool) -> None:
        super().__init__(width)
        self.from_batch = from_batch
        self.train()

    def train(self, mode: bool = True) -> RowNorm:
        return super().train(mode and self.from_batch)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1 and not distributed.sharing():
            alone = F.batch_norm(
                input.float(), self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
            return alone.to(input.dtype)
        return super().forward(input.float()).to(input.dtype)


class RowMlp(nn.Module):
    """Linear to half the outputs, norm, ReLU, linear. The second norm is in the checkpoints and unused."""

    def __init__(self, width: int, out: int, *, from_batch: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, out // 2), nn.Linear(out // 2, out)])
        self.bns = nn.ModuleList([RowNorm(out // 2, from_batch=from_batch), RowNorm(out, from_batch=from_batch)])

    def forward(self, x_NE: Tensor) -> Tensor:
        return self.layers[1](F.relu(self.bns[0](self.layers[0](x_NE))))


class Selection(nn.Module):
    """Selected tokens -> one vector of `out` numbers.

    spare: the image's side has its residual branch under another name, `fc`; its `linear` is unused.
    from_batch: see `RowNorm`.
    """

    def __init__(self, width: int, out: int, *, spare: bool, from_batch: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.fc = nn.Linear(width, out) if spare else None
        self.mlp = RowMlp(width, out, from_batch=from_batch)

    def forward(self, token_BPE: Tensor, place_BK: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Tokens of one side and the positions of the selected ones -> [B, out] float32, not normalised.

        kept_BK: bool, which of the selected positions count; all when left out, at least one a row.
        """
        row_BKE = token_BPE.gather(1, place_BK[..., None].expand(-1, -1, token_BPE.shape[2]))
        row_BKE = (row_BKE / (row_BKE.norm(dim=-1, keepdim=True) + EPSILON)).to(self.linear.weight.dtype)
        if kept_BK is None:
            return self._row_by_row(row_BKE.flatten(0, 1)).unflatten(0, place_BK.shape).amax(1)
        if not self.mlp.bns[0].training:
            out_BKF = self._row_by_row(row_BKE.flatten(0, 1)).unflatten(0, place_BK.shape)
            return out_BKF.masked_fill(~kept_BK[..., None], float("-inf")).amax(1)
        found_NF = self._row_by_row(row_BKE[kept_BK])
        out_BKF = found_NF.new_full((*place_BK.shape, found_NF.shape[-1]), float("-inf"))
        return out_BKF.masked_scatter(kept_BK[..., None], found_NF).amax(1)

    def _row_by_row(self, row_NE: Tensor) -> Tensor:
        branch = self.linear if self.fc is None else self.fc
        return (self.mlp(row_NE) + branch(row_NE)).float()

    def initialise(self, generator: torch.Generator) -> None:
        """PyTorch's own start: linear layers uniform within 1 / sqrt(inputs), norms 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                draw_linear_uniform([module], generator)
            elif isinstance(module, RowNorm):
                module.reset_parameters()


def selected_count(tokens: int, ratio: float) -> int:
    """How many of so many tokens are selected: rounded down, at least 1."""
    return max(1, int(tokens * ratio))


def select_patches(attention_BP: Tensor, count: int) -> Tensor:
    """How much the class token attends to each, [B, 1 + P] -> positions [B, count] of the patches that get most."""
    first_P = torch.arange(attention_BP.shape[1], device=attention_BP.device) == 0
    return attention_BP.masked_fill(first_P, -1.0).topk(count, dim=1).indices


def select_words(
    attention_BT: Tensor, token_BT: Tensor, count: int, *, zero_is_pad: bool = True
) -> tuple[Tensor, Tensor]:
    """How much the end token attends to each, [B, T] -> positions [B, K] of the words that get most, and which count.

    token_BT: the ids. count: K, or T where that is less. zero_is_pad: every id 0 is padding, as
    released, although it is also the word "!"; else padding is what follows the end token.
    A caption without words keeps its end token. Returns (positions, bool [B, K]).
    """
    place_T = torch.arange(token_BT.shape[1], device=token_BT.device)
    end_B1 = end_of(token_BT)[:, None]
    word_BT = (place_T > 0) & ((token_BT != 0) & (place_T != end_B1) if zero_is_pad else place_T < end_B1)
    rank_BT = attention_BT.masked_fill(~word_BT, -1.0).masked_fill(place_T == end_B1, -0.5)
    place_BK = rank_BT.topk(min(count, token_BT.shape[1]), dim=1).indices
    words_B1 = word_BT.sum(1, keepdim=True).clamp(min=1)
    return place_BK, torch.arange(place_BK.shape[1], device=token_BT.device) < words_B1
