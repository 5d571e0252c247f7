"""Losses over the similarities of a batch: which caption belongs to which picture or person.

IRRA's SDM (Jiang and Ye, CVPR 2023, arXiv 2303.12501) draws the softmax over the batch towards the
distribution of equal identities; ITC is CLIP's loss, where row i belongs to row i and nothing else.
Everything is computed in float32: the softmax at 1/0.02 saturates in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SAME_PICTURE_WEIGHT = 0.3
"""What a caption of the same person but of another picture counts for, where pictures are told apart."""


def unit(x_BE: Tensor) -> Tensor:
    """Rows made unit length, in float32; a row of zeros stays one."""
    return F.normalize(x_BE.float(), dim=-1, eps=1e-12)


def same(person_B: Tensor) -> Tensor:
    """[B] identities -> float32 [B, B], 1 where two rows are the same person."""
    return (person_B[:, None] == person_B[None, :]).float()


def check_sizes(first_BE: Tensor, second_BE: Tensor, *labels_B: Tensor) -> None:
    """Raises ValueError when the tensors of one batch have different numbers of rows."""
    if any(len(other) != len(first_BE) for other in (second_BE, *labels_B)):
        sizes = [len(tensor) for tensor in (first_BE, second_BE, *labels_B)]
        raise ValueError(f"one batch has one size, not {sizes}")


def divergence(score_BB: Tensor, target_BB: Tensor, epsilon: float) -> Tensor:
    """KL(softmax(score) || target), the mean over the rows in nats.

    The prediction comes first: probability given to a wrong item costs -log(epsilon) each.
    """
    log_p_BB = F.log_softmax(score_BB, dim=1)
    return (log_p_BB.exp() * (log_p_BB - torch.log(target_BB + epsilon))).sum(1).mean()


def sdm(
    image_BE: Tensor,
    text_BE: Tensor,
    person_B: Tensor,
    *,
    temperature: float | Tensor,
    picture_B: Tensor | None = None,
    epsilon: float = 1e-8,
) -> Tensor:
    """Draw the predicted match distribution towards the true one, in both directions.

    image_BE, text_BE: embeddings of any length; made unit length here, in float32.
    person_B: identities, int64; rows with equal numbers match.
    temperature: divides the cosine; no unit, above 0.
    picture_B: numbers of the pictures; given, other pictures of the person count 0.3 instead of 1.
    epsilon: added inside the log of the true distribution.
    Returns the sum of both batch means in nats, a scalar. Raises ValueError when batch sizes differ.
    Source: IRRA, "Similarity Distribution Matching"; constants from its released code, which divides
    column j by the sum of row j (the same thing unless picture_B is given).
    """
    check_sizes(image_BE, text_BE, person_B)
    match_BB = same(person_B)
    if picture_B is not None:
        picture_BB = same(picture_B)
        match_BB = (match_BB - picture_BB) * SAME_PICTURE_WEIGHT + picture_BB
    target_BB = match_BB / match_BB.sum(1)
    score_BB = unit(text_BE) @ unit(image_BE).T / temperature
    return divergence(score_BB, target_BB, epsilon) + divergence(score_BB.T, target_BB, epsilon)


def itc(image_BE: Tensor, text_BE: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Cross-entropy of finding one's own partner in the batch, the mean of both directions.

    image_BE, text_BE: embeddings of any length, row i belonging to row i; made unit length here.
    temperature: divides the cosine; no unit, above 0; may be a parameter.
    Other captions of the same person count as wrong. Returns nats, a scalar. Raises ValueError when
    batch sizes differ. Source: CLIP (Radford et al., 2021); IRRA's released code.
    """
    check_sizes(image_BE, text_BE)
    score_BB = unit(image_BE) @ unit(text_BE).T / temperature
    own_B = torch.arange(len(score_BB), device=score_BB.device)
    return (F.cross_entropy(score_BB, own_B) + F.cross_entropy(score_BB.T, own_B)) / 2
