"""The losses of IRRA and of the codes that grew from it, weighted by a recipe, and the figures that they log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tbps_cli.losses.balance import balance, use_of_experts
from tbps_cli.losses.contrastive import itc, sdm
from tbps_cli.losses.identity import Classify, accuracy, identity, person_scores
from tbps_cli.losses.masked import per_word
from tbps_cli.losses.matching import cmpm
from tbps_cli.losses.triplet import hardest_triplet
from tbps_cli.types import Batch, Features


def family_losses(
    features: Features,
    batch: Batch,
    weights: Mapping[str, float],
    *,
    temperature: float,
    classifier: Classify | None = None,
) -> dict[str, Tensor]:
    """The losses among sdm, itc, cmpm, triplet, balance, identity and masked that have a weight, multiplied by it.

    features: image and text, [B, E] float32 before normalisation; balance, [B, M, 2, X], where there are
    mixtures: without any that loss is left out; masked_cost, [B], where words are masked. weights: loss ->
    factor, 0 or absent leaves one out. temperature: divides the cosines of sdm and itc. classifier: of the
    identity loss, [B, E] -> [B, N]. Raises ValueError when that loss has a weight and no classifier.
    """
    image_BE, text_BE, person_B = features["image"], features["text"], batch.person_B
    losses: dict[str, Tensor] = {}
    if weights.get("sdm"):
        losses["sdm"] = sdm(image_BE, text_BE, person_B, temperature=temperature)
    if weights.get("itc"):
        losses["itc"] = itc(image_BE, text_BE, temperature=temperature)
    if weights.get("cmpm"):
        losses["cmpm"] = cmpm(image_BE, text_BE, person_B)
    if weights.get("triplet"):
        losses["triplet"] = hardest_triplet(image_BE, text_BE)
    if weights.get("balance") and "balance" in features:
        losses["balance"] = balance(features["balance"])
    if weights.get("identity"):
        losses["identity"] = identity(*person_scores(classifier, image_BE, text_BE), person_B)
    if weights.get("masked"):
        losses["masked"] = per_word(features["masked_cost"], batch.tokens["label"])
    return {name: weights[name] * loss for name, loss in losses.items()}


@torch.no_grad()
def family_figures(features: Features, batch: Batch, classifier: Classify | None = None) -> dict[str, float]:
    """What the log says beside the losses, from the features that there are.

    busiest_expert, idlest_expert: shares of the tokens; img_acc, txt_acc: share of the batch whose person the
    classifier finds; mlm_acc: share of the masked words that are predicted.
    """
    figures: dict[str, float] = {}
    if "balance" in features:
        figures |= use_of_experts(features["balance"])
    if classifier is not None:
        image_BN, text_BN = person_scores(classifier, features["image"], features["text"])
        figures["img_acc"] = accuracy(image_BN, batch.person_B).item()
        figures["txt_acc"] = accuracy(text_BN, batch.person_B).item()
    if "masked_hits" in features:
        figures["mlm_acc"] = per_word(features["masked_hits"], batch.tokens["label"]).item()
    return figures
