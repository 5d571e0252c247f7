"""Losses over all pairs of a batch: projection matching, and thresholds for cosines.

CMPM (Zhang and Lu, ECCV 2018) as IRRA and its descendants release it; the alignment loss of TextReID
(Han et al., BMVC 2021).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tbps_cli.losses.contrastive import check_sizes, divergence, equal_labels, unit


def cmpm(image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Match the projections of one modality on the unit vectors of the other with the identities.

    image_BE, text_BE: embeddings before normalisation: their length sharpens the distribution, which
    has no temperature. person_B: identities, int64. epsilon: inside the log of the target.
    Returns the sum of both batch means in nats, a scalar. Raises ValueError when batch sizes differ.
    Source: IRRA's released code. It divides the labels by their L2 norm, so a target row of k
    matches sums to sqrt(k); kept, the published figures rest on it.
    """
    check_sizes(image_BE, text_BE, person_B)
    match_BB = equal_labels(person_B)
    target_BB = match_BB / match_BB.norm(dim=1)
    image_to_text = divergence(image_BE.float() @ unit(text_BE).T, target_BB, epsilon)
    return image_to_text + divergence(text_BE.float() @ unit(image_BE).T, target_BB, epsilon)


def alignment(
    image_BE: Tensor,
    text_BE: Tensor,
    person_B: Tensor,
    *,
    alpha: float = 0.6,
    beta: float = 0.4,
    scale_pos: float = 10.0,
    scale_neg: float = 40.0,
) -> Tensor:
    """Push cosines of one person's pairs above alpha, those of two persons below beta.

    image_BE, text_BE: embeddings of any length; made unit length here, in float32.
    person_B: identities, int64; every image and caption of one identity is a positive pair.
    scale_pos, scale_neg: steepness of the two logistic curves.
    Returns twice the sum over all pairs divided by the batch size, a scalar: it grows with the batch.
    Raises ValueError when batch sizes differ. Source: TextReID, arXiv 2110.10807, and its released code.
    """
    check_sizes(image_BE, text_BE, person_B)
    score_BB = unit(image_BE) @ unit(text_BE).T
    match_BB = person_B[:, None] == person_B[None, :]
    near_BB = F.softplus(-scale_pos * (score_BB - alpha))
    far_BB = F.softplus(scale_neg * (score_BB - beta))
    return 2 * near_BB.where(match_BB, far_BB).sum() / len(score_BB)
