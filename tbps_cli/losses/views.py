"""Losses between two drawn views of the same images: no caption and no identity takes part.

SimCLR (Chen et al., ICML 2020, arXiv 2002.05709), as TBPS-CLIP adds it to its image tower. Everything
is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.losses.contrastive import check_sizes, unit


def simclr(first_BE: Tensor, second_BE: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of finding an image's other view among all views of the batch but itself.

    first_BE, second_BE: head outputs of any length, row i of both from one image; made unit length
    here. temperature: divides the cosine; no unit, above 0.
    Other images of the same person, and the same image drawn twice, count as wrong.
    Returns nats, the mean of both views, a scalar. Raises ValueError when batch sizes differ.
    Source: SimCLR; the arrangement is that of TBPS-CLIP's released code.
    """
    check_sizes(first_BE, second_BE)
    first_BE, second_BE = unit(first_BE), unit(second_BE)
    across_BB = first_BE @ second_BE.T / temperature
    own_B = torch.arange(len(first_BE), device=first_BE.device)
    first = F.cross_entropy(_with_others(across_BB, first_BE, temperature), own_B)
    return (first + F.cross_entropy(_with_others(across_BB.T, second_BE, temperature), own_B)) / 2


def _with_others(across_BB: Tensor, view_BE: Tensor, temperature: float) -> Tensor:
    """The scores against the other view, then those against one's own without oneself, [B, 2B]."""
    within_BB = (view_BE @ view_BE.T / temperature).fill_diagonal_(float("-inf"))
    return torch.cat([across_BB, within_BB], dim=1)
