"""Weights that a search can begin with where nothing was trained: what they are, what they cost, whose terms count.

Sources of the figures: recall at rank 1 on the test set of CUHK-PEDES by models that never saw its training images,
from the papers of NAM (table 3; of CLIP too) and HAM. NAM's and HAM's epoch was chosen by the scores on that test set.
What was agreed to once is remembered, so that nobody is asked again for weights that are there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tbps_cli.errors import WeightsError
from tbps_cli.remembered import recall, remember
from tbps_cli.weights.hub_files import fetch, is_hub_address

logger = logging.getLogger("tbps")

CONSENT = "consent"


@dataclass(frozen=True)
class ReadyWeights:
    """One choice of somebody who has not trained anything."""

    name: str
    ckpt: str
    """What `--ckpt` takes; of weights that no program can fetch, the file that a person has fetched."""
    size: str
    recall_at_1: float
    terms: str
    sha256: str | None = None
    by_hand: str = ""
    """Where a person fetches them, where no program can."""


CHOICES = (
    ReadyWeights(
        "NAM (CVPR 2024)",
        "hf-hub:datasets/TwT-6/MLLM4Text-ReID:best0.pth@ceef4b378deaf094c8276ecb6ed8705421010aab",
        "1.05 GB",
        57.6,
        "none stated, ask its authors",
        sha256="40ddedbc3fb416d137243abba774ec60509d550646e785d5a23f0c94a6948680",
    ),
    ReadyWeights(
        "HAM (CVPR 2025)",
        "best0.pth",
        "not stated",
        70.2,
        "none stated, ask its authors",
        by_hand="best0.pth of HAM_checkpoint/random100w_2HAMcaptions at "
        "https://pan.baidu.com/s/19xKmnYNV-XwK9FNcjkQmLw (code bo63)",
    ),
    ReadyWeights("CLIP ViT-B/16", "ViT-B-16/openai", "0.35 GB", 12.7, "MIT (OpenAI)"),
)
"""The person-trained ones first."""


def agree(choice: ReadyWeights) -> str:
    """Fetch weights that somebody agreed to, and remember it. Returns what `--ckpt` takes.

    Raises WeightsError when they cannot be fetched or are others than they were.
    """
    if choice.sha256 and is_hub_address(choice.ckpt):
        found = fetch(choice.ckpt).sha256
        if found != choice.sha256:
            raise WeightsError(
                f"{choice.ckpt}: its SHA-256 begins with {found[:16]}, not {choice.sha256[:16]}.",
                "These are not the weights that were published. Nothing was opened.",
            )
    remember(CONSENT, "weights", {"ckpt": choice.ckpt})
    return choice.ckpt


def agreed() -> str | None:
    """The weights that were agreed to before, as `--ckpt` takes them."""
    known = (recall(CONSENT, "weights") or {}).get("ckpt")
    return next((choice.ckpt for choice in CHOICES if choice.ckpt == known and not choice.by_hand), None)
