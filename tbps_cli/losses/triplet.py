"""The hardest-negative triplet loss over pairs."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1.0
"""In units of the distance. Source: CSKT's released code."""


def hardest_triplet(image_BE: Tensor, text_BE: Tensor) -> Tensor:
    """Pull each pair closer than its hardest negative, in both directions, by Euclidean distance.

    image_BE, text_BE: embeddings of any length, not normalised; only the own pair is positive, so other
    captions of the same person count as negatives.
    Returns the mean over images plus the mean over captions, a scalar. Source: CSKT's released code.
    """
    distance_BB = torch.cdist(image_BE.float(), text_BE.float(), compute_mode="donot_use_mm_for_euclid_dist")
    own_B = distance_BB.diagonal()
    diagonal = torch.eye(len(own_B), dtype=torch.bool, device=own_B.device)
    by_image = (MARGIN + own_B[:, None] - distance_BB).clamp(min=0).masked_fill(diagonal, 0)
    by_text = (MARGIN + own_B[None, :] - distance_BB).clamp(min=0).masked_fill(diagonal, 0)
    return by_image.amax(dim=1).mean() + by_text.amax(dim=0).mean()
