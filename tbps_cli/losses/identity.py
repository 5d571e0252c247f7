"""Which training person is it: one classifier over identities, shared by both modalities."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Classify = Callable[[Tensor], Tensor]
"""[B, E] features -> [B, N] scores of the training identities."""


def person_scores(classify: Classify | None, image_BE: Tensor, text_BE: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of images and of captions by the classifier that both share.

    Raises ValueError without one: a task of no identities builds none.
    """
    if classify is None:
        raise ValueError("the identity loss needs a task that says how many identities there are")
    return classify(image_BE), classify(text_BE)


def identity(image_logit_BN: Tensor, text_logit_BN: Tensor, person_B: Tensor) -> Tensor:
    """Cross-entropy of naming the person, the mean over the images and the captions.

    image_logit_BN, text_logit_BN: scores of the N training identities. person_B: int64, 0..N-1.
    Returns nats, a scalar. Source: IRRA's released code (the classifier sees un-normalised features).
    """
    image = F.cross_entropy(image_logit_BN.float(), person_B)
    return (image + F.cross_entropy(text_logit_BN.float(), person_B)) / 2


def smoothed_identity(
    image_logit_BN: Tensor, text_logit_BN: Tensor, person_B: Tensor, *, smoothing: float = 0.1
) -> Tensor:
    """Cross-entropy with the person's share spread a little over all, images and captions added up.

    image_logit_BN, text_logit_BN: scores of the N training identities. person_B: int64, 0..N-1.
    smoothing: the share that all N identities divide evenly; 0 gives plain cross-entropy.
    Returns nats, a scalar. Source: TextReID (BMVC 2021), its released code; 0.1 wherever it smooths at all.
    """
    image = F.cross_entropy(image_logit_BN.float(), person_B, label_smoothing=smoothing)
    return image + F.cross_entropy(text_logit_BN.float(), person_B, label_smoothing=smoothing)


def accuracy(logit_BN: Tensor, person_B: Tensor) -> Tensor:
    """Share of the batch whose best-scored identity is the right one, 0..1; a scalar."""
    return (logit_BN.argmax(1) == person_B).float().mean()
