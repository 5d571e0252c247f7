"""Masked words: the loss of predicting a hidden word from its sentence and the image.

The mean over the labelled words of a whole batch is split in two steps, per caption and over the
batch, so that chunks and ranks can be joined in between without changing it: an average of the
chunks' averages would weigh words by how many their chunk has.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def caption_cost(score_NV: Tensor, word_N: Tensor, row_N: Tensor, captions: int) -> Tensor:
    """Summed cross-entropy of each caption's masked words, [captions], nats, float32.

    score_NV: scores over the vocabulary at the N labelled places. word_N: the hidden words' ids.
    row_N: which caption each place belongs to, 0..captions-1.
    """
    cost_N = F.cross_entropy(score_NV.float(), word_N, reduction="none")
    return cost_N.new_zeros(captions).index_add(0, row_N, cost_N)


def caption_hits(score_NV: Tensor, word_N: Tensor, row_N: Tensor, captions: int) -> Tensor:
    """How many masked words of each caption are guessed right, [captions], float32, no gradient."""
    hit_N = (score_NV.argmax(1) == word_N).float()
    return hit_N.new_zeros(captions).index_add(0, row_N, hit_N)


def caption_figures(score_NV: Tensor, label_BT: Tensor) -> dict[str, Tensor]:
    """Cost and hits of each caption under the names that features use, from the scores at its labels, row by row."""
    row_N, word_N = label_BT.nonzero()[:, 0], label_BT[label_BT != 0]
    return {
        "masked_cost": caption_cost(score_NV, word_N, row_N, len(label_BT)),
        "masked_hits": caption_hits(score_NV, word_N, row_N, len(label_BT)),
    }


def per_word(value_B: Tensor, label_BT: Tensor) -> Tensor:
    """Per-caption sums -> the mean over all labelled words of the batch, a scalar.

    label_BT: ids of the hidden words, 0 elsewhere. A batch without any label gives 0.
    Source: IRRA, "Implicit Relation Reasoning"; its paper divides by the vocabulary too, its code does not.
    """
    return value_B.sum() / (label_BT != 0).sum().clamp(min=1)
