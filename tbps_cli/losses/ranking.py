"""Costs of each pair of a batch, for methods that weigh or leave out pairs one by one.

RDE (Qin et al., CVPR 2024, arXiv 2308.09911) has the triplet alignment loss, which looks at all negatives
through a log-sum-exp, and compares it with the hardest-negative triplet and with two softmax losses. Each
function returns one number a pair, both directions together, in float32. The released code sums
exponentials and caps the sum at 1e36; a log-sum-exp gives the same and cannot overflow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.losses.contrastive import check_sizes, unit

_OneWay = Callable[[Tensor, Tensor], Tensor]
_EXCLUDED = -1e9
"""Similarity of an excluded entry: its weight in a softmax is 0. Finite, so that a row of nothing else has a
gradient of 0 and not of NaN."""


def tal(image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, tau: float = 0.015, margin: float = 0.1) -> Tensor:
    """Triplet alignment: a soft average of the positives against a soft maximum of all negatives.

    image_BE, text_BE: embeddings of any length, row i belonging to row i; made unit length here.
    person_B: identities, int64; rows with equal numbers are positives.
    tau: softness of both, in units of the cosine; margin: in the same units.
    Returns [B], at least 0; a batch without negatives costs nothing. Raises ValueError when batch
    sizes differ. Source: RDE, equations 7 and 8; its loss is the *sum* over the batch.
    """

    def one_way(score_BB: Tensor, match_BB: Tensor) -> Tensor:
        negative_B = tau * (score_BB / tau).masked_fill(match_BB, _EXCLUDED).logsumexp(1)
        return (margin - _soft_positive(score_BB, match_BB, tau) + negative_B).clamp(min=0)

    return _both_ways(one_way, image_BE, text_BE, person_B)


def trl(image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, tau: float = 0.015, margin: float = 0.1) -> Tensor:
    """The triplet loss with the hardest negative, whose similarity counts as 0 at least; see `tal`.

    Source: RDE's ablation, where it collapses under noise.
    """

    def one_way(score_BB: Tensor, match_BB: Tensor) -> Tensor:
        hardest_B = score_BB.masked_fill(match_BB, 0).amax(1)
        return (margin - _soft_positive(score_BB, match_BB, tau) + hardest_B).clamp(min=0)

    return _both_ways(one_way, image_BE, text_BE, person_B)


def pair_itc(image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, temperature: float = 0.02) -> Tensor:
    """Cross-entropy of each pair finding itself, the mean of both directions, [B] in nats; see `contrastive.itc`."""

    def one_way(score_BB: Tensor, match_BB: Tensor) -> Tensor:
        return -(score_BB / temperature).log_softmax(1).diagonal() / 2

    return _both_ways(one_way, image_BE, text_BE, person_B)


def pair_sdm(
    image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, temperature: float = 0.02, epsilon: float = 1e-8
) -> Tensor:
    """Divergence of each pair's softmax from the equal identities, both directions, [B]; see `contrastive.sdm`."""

    def one_way(score_BB: Tensor, match_BB: Tensor) -> Tensor:
        target_BB = match_BB / match_BB.sum(1, keepdim=True)
        log_p_BB = F.log_softmax(score_BB / temperature, dim=1)
        return (log_p_BB.exp() * (log_p_BB - torch.log(target_BB + epsilon))).sum(1)

    return _both_ways(one_way, image_BE, text_BE, person_B)


def _both_ways(one_way: _OneWay, image_BE: Tensor, text_BE: Tensor, person_B: Tensor) -> Tensor:
    """The cost of every caption among the images plus that of every image among the captions."""
    check_sizes(image_BE, text_BE, person_B)
    match_BB = person_B[:, None] == person_B[None, :]
    score_BB = unit(text_BE) @ unit(image_BE).T
    return one_way(score_BB, match_BB) + one_way(score_BB.T, match_BB)


def _soft_positive(score_BB: Tensor, match_BB: Tensor, tau: float) -> Tensor:
    """The positives' mean similarity, weighted by a softmax over them that has no gradient, [B]."""
    with torch.no_grad():
        weight_BB = (score_BB / tau).masked_fill(~match_BB, float("-inf")).softmax(1)
    return (weight_BB * score_BB).sum(1)
