"""The losses between embeddings that IRRA's family shares, put together by their weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tbps_cli.losses.contrastive import itc, sdm
from tbps_cli.losses.identity import accuracy
from tbps_cli.losses.matching import cmpm
from tbps_cli.losses.triplet import hardest_triplet


def pair_losses(
    image_BE: Tensor, text_BE: Tensor, person_B: Tensor, weights: Mapping[str, float], *, temperature: float
) -> dict[str, Tensor]:
    """Those of sdm, itc, cmpm and triplet that have a weight, each times it.

    image_BE, text_BE: embeddings before normalisation, float32; weights: loss -> factor, 0 or absent
    leaves one out; names that are none of these four are passed over. temperature: of sdm and itc.
    """
    losses: dict[str, Tensor] = {}
    if weights.get("sdm"):
        losses["sdm"] = weights["sdm"] * sdm(image_BE, text_BE, person_B, temperature=temperature)
    if weights.get("itc"):
        losses["itc"] = weights["itc"] * itc(image_BE, text_BE, temperature=temperature)
    if weights.get("cmpm"):
        losses["cmpm"] = weights["cmpm"] * cmpm(image_BE, text_BE, person_B)
    if weights.get("triplet"):
        losses["triplet"] = weights["triplet"] * hardest_triplet(image_BE, text_BE)
    return losses


def person_figures(logit_BC: tuple[Tensor, Tensor], person_B: Tensor) -> dict[str, float]:
    """Batch shares named right: img_acc, txt_acc."""
    image_BC, text_BC = logit_BC
    return {"img_acc": accuracy(image_BC, person_B).item(), "txt_acc": accuracy(text_BC, person_B).item()}
