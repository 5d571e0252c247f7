"""Cross-modal projection matching (Zhang and Lu, ECCV 2018), as IRRA and its descendants release it."""

from __future__ import annotations

from torch import Tensor

from tbps_cli.losses.contrastive import check_sizes, divergence, same, unit


def cmpm(image_BE: Tensor, text_BE: Tensor, person_B: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Match the projections of one modality on the unit vectors of the other with the identities.

    image_BE, text_BE: embeddings before normalisation: their length sharpens the distribution, which
    has no temperature. person_B: identities, int64. epsilon: inside the log of the target.
    Returns the sum of both batch means in nats, a scalar. Raises ValueError when batch sizes differ.
    Source: IRRA's released code. It divides the labels by their L2 norm, so a target row of k
    matches sums to sqrt(k); kept, the published figures rest on it.
    """
    check_sizes(image_BE, text_BE, person_B)
    match_BB = same(person_B)
    target_BB = match_BB / match_BB.norm(dim=1)
    image_to_text = divergence(image_BE.float() @ unit(text_BE).T, target_BB, epsilon)
    return image_to_text + divergence(text_BE.float() @ unit(image_BE).T, target_BB, epsilon)
