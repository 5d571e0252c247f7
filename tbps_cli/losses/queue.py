"""Contrast with a queue of earlier embeddings, across modalities (TextReID, BMVC 2021).

A caption is compared with its own image's key and with queued image keys, an image with captions
likewise. Keys of persons who are in the batch are no negatives; which those are is decided once for all
anchors, so another caption of the batch is neither a positive nor a negative here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.losses.contrastive import check_sizes, unit


def usable_negatives(queued_K: Tensor, person_B: Tensor) -> Tensor:
    """Which queued keys are negatives, bool [K]: those of persons who are not in the batch.

    queued_K: persons of the keys, int64; -1 marks a place that was never filled, which is a negative too.
    """
    return ~torch.isin(queued_K, person_B)


def queue_scores(query_BE: Tensor, key_BE: Tensor, queue_EK: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of each query with its own key, [B, 1], and with every queued one, [B, K], float32."""
    check_sizes(query_BE, key_BE)
    query_BE, key_BE = unit(query_BE), unit(key_BE)
    return (query_BE * key_BE).sum(1, keepdim=True), query_BE @ queue_EK.float()


def queue_contrast(
    query_BE: Tensor, key_BE: Tensor, queue_EK: Tensor, negative_K: Tensor, *, temperature: float
) -> Tensor:
    """Cross-entropy of finding one's own key among the queued negatives.

    query_BE: embeddings of one modality, of any length; key_BE: the other modality's keys of the same
    pairs. queue_EK: unit columns. negative_K: which columns take part (`usable_negatives`).
    temperature: divides the cosines; no unit, above 0.
    Returns the batch mean in nats, a scalar. Raises ValueError when batch sizes differ.
    Source: TextReID, arXiv 2110.10807, "Cross-modal momentum contrastive learning"; constant from its code.
    """
    own_B1, queued_BK = queue_scores(query_BE, key_BE, queue_EK)
    queued_BK = queued_BK.masked_fill(~negative_K, float("-inf"))
    score_BK = torch.cat([own_B1, queued_BK], dim=1) / temperature
    return F.cross_entropy(score_BK, torch.zeros(len(score_BK), dtype=torch.int64, device=score_BK.device))
