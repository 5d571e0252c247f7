"""Losses over the similarities of a batch: which caption belongs to which image or person.

IRRA's SDM (Jiang and Ye, CVPR 2023, arXiv 2303.12501) draws the softmax over the batch towards the
distribution of equal identities; ITC is CLIP's loss, where row i belongs to row i and nothing else.
TBPS-CLIP (Cao et al., AAAI 2024, arXiv 2308.10045) has three: N-ITC, R-ITC and C-ITC.
Everything is computed in float32: the softmax at 1/0.02 saturates in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SAME_IMAGE_WEIGHT = 0.3
"""What a caption of the same person but of another image counts for, where images are told apart."""


def unit(x_BE: Tensor) -> Tensor:
    """Rows made unit length, in float32; a row of zeros stays one."""
    return F.normalize(x_BE.float(), dim=-1, eps=1e-12)


def equal_labels(person_B: Tensor) -> Tensor:
    """[B] identities -> float32 [B, B], 1 where two rows have the same one."""
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
    image_B: Tensor | None = None,
    epsilon: float = 1e-8,
) -> Tensor:
    """Draw the predicted match distribution towards the true one, in both directions.

    image_BE, text_BE: embeddings of any length; made unit length here, in float32.
    person_B: identities, int64; rows with equal numbers match.
    temperature: divides the cosine; no unit, above 0.
    image_B: numbers of the images; given, other images of the person count 0.3 instead of 1.
    epsilon: added inside the log of the true distribution.
    Returns the sum of both batch means in nats, a scalar. Raises ValueError when batch sizes differ.
    Source: IRRA, "Similarity Distribution Matching"; constants from its released code, which divides
    column j by the sum of row j (the same thing unless image_B is given).
    """
    check_sizes(image_BE, text_BE, person_B)
    match_BB = equal_labels(person_B)
    if image_B is not None:
        image_BB = equal_labels(image_B)
        match_BB = (match_BB - image_BB) * SAME_IMAGE_WEIGHT + image_BB
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


def hard_targets(person_B: Tensor) -> Tensor:
    """[B] identities -> float32 [B, B], each row spread evenly over the rows of the same person."""
    match_BB = equal_labels(person_B)
    return match_BB / match_BB.sum(1, keepdim=True)


def nitc(
    image_BE: Tensor,
    text_BE: Tensor,
    person_B: Tensor,
    *,
    scale: float | Tensor,
    softness: float = 0.0,
    soft_text_BE: Tensor | None = None,
) -> Tensor:
    """Cross-entropy towards all partners of the same person, the mean of both directions.

    image_BE, text_BE: embeddings of any length; made unit length here, in float32.
    person_B: identities, int64; rows with equal numbers match.
    scale: multiplies the cosine; no unit, above 0; may be a parameter.
    softness: share of the targets that the model's own softmax (no gradient) has, 0..1.
    soft_text_BE: the captions once more, for that softmax alone, where dropout makes the two differ.
    Returns nats, a scalar. Raises ValueError when batch sizes differ.
    Source: TBPS-CLIP, "normalized image-text contrastive loss" with soft labels, and its released code.
    """
    check_sizes(image_BE, text_BE, person_B)
    score_BB = unit(image_BE) @ unit(text_BE).T * scale
    with torch.no_grad():
        hard_BB = hard_targets(person_B)
        soft_BB = score_BB if soft_text_BE is None else unit(image_BE) @ unit(soft_text_BE).T * scale
        image_BB, text_BB = (torch.lerp(hard_BB, soft.softmax(1), softness) for soft in (soft_BB, soft_BB.T))
    return (F.cross_entropy(score_BB, image_BB) + F.cross_entropy(score_BB.T, text_BB)) / 2


def ritc(
    image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, scale: float | Tensor, epsilon: float = 1e-2
) -> Tensor:
    """The reverse of N-ITC: prediction given to wrong partners costs, the mean of both directions.

    image_BE, text_BE: embeddings of any length; made unit length here, in float32.
    person_B: identities, int64. scale: multiplies the cosine; may be a parameter.
    epsilon: added inside the log of the target, which is not made to sum to 1 again.
    Returns nats, a scalar. Raises ValueError when batch sizes differ.
    Source: TBPS-CLIP, "reversed image-text contrastive loss"; half of SDM with another epsilon.
    """
    return sdm(image_BE, text_BE, person_B, temperature=1 / scale, epsilon=epsilon) / 2


def citc(image_BE: Tensor, text_BE: Tensor, *, within: float = 0.25, across: float = 0.25) -> Tensor:
    """Squared differences of cosines that should agree, over all pairs of the batch, its diagonal too.

    image_BE, text_BE: embeddings of any length, row i belonging to row i; made unit length here.
    within: weight of (image i, image j) against (caption i, caption j).
    across: weight of (image i, caption j) against (caption i, image j).
    Identities play no part. Returns a scalar without unit. Raises ValueError when batch sizes differ.
    Source: TBPS-CLIP, "cyclic image-text contrastive loss" (after CyCLIP); its released code scales
    the cosines and divides by the scale again, which cancels.
    """
    check_sizes(image_BE, text_BE)
    image_BE, text_BE = unit(image_BE), unit(text_BE)
    score_BB = image_BE @ text_BE.T
    inside = (image_BE @ image_BE.T - text_BE @ text_BE.T).square().mean()
    return within * inside + across * (score_BB - score_BB.T).square().mean()
