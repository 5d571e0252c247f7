"""Masked words: the captions that the masked-language losses (and text augmentations) work on.

`mask_words` is IRRA's (Jiang and Ye, CVPR 2023), shared by its descendants: BERT's 15 % with 80/10/10,
drawn word by word from Python's `random`. Its released code reads two options for the shares and
ignores them, so they are constants here. `dual_masks` is GA-DMS's, which draws likewise, but each word with a chance
that follows from what it says about the image. `corrupt_words` is TBPS-CLIP's, from given draws.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE = 0.15
MASKED, REPLACED = 0.8, 0.9
"""Of the chosen words: below the first the mask, below the second another word, else unchanged."""
UNLABELLED = -100
STEEPNESS, MIDDLE = 20.0, 0.1
"""Of the chance to be hidden as a function of a word's score (GA-DMS)."""


def mask_words(
    ids: Sequence[int],
    rng: random.Random,
    *,
    mask: int,
    first_special: int,
    chances: Sequence[float] | None = None,
) -> tuple[list[int], list[int]]:
    """Hide some words of a caption: (masked ids, labels), both as long as `ids`.

    ids: a whole row with start, end and zeros. chances: of each place to be hidden, 15 % when left out.
    mask: id of the mask. first_special: ids from this one on are never hidden; also the end of the
    range that replacements are drawn from.
    Labels are the hidden words' ids, 0 elsewhere. At least one place is hidden: the first after the
    start when no draw chose any (in an empty caption that is the end itself, as released).
    Source: IRRA, released code; draws in the order of the words.
    """
    masked, labels = list(ids), [0] * len(ids)
    others = range(1, first_special)
    for place, word in enumerate(ids):
        if not 0 < word < first_special:
            continue
        draw, chance = rng.random(), SHARE if chances is None else chances[place]
        if not draw < chance:
            continue
        draw /= chance
        if draw < MASKED:
            masked[place] = mask
        elif draw < REPLACED:
            masked[place] = rng.choice(others)
        labels[place] = word
    if not any(labels):
        labels[1], masked[1] = masked[1], mask
    return masked, labels


@dataclass(frozen=True)
class DualMasks:
    """One caption masked twice, each row as long as the caption's own."""

    noise: list[int]
    """Without some of the words that say little about the image: what is matched with it."""
    masked: list[int]
    """Without some of those that say much."""
    labels: list[int]
    """The ids that `masked` hides, to be told from the image; 0 elsewhere."""


def dual_masks(
    ids: Sequence[int],
    scores: Sequence[float],
    rng: random.Random,
    *,
    mask: int,
    first_special: int,
    informative_limit: float = 0.3,
    noise_limit: float = 0.2,
) -> DualMasks:
    """Both views of a caption: one loses mostly words of low scores, the other mostly words of high ones.

    scores: of each place, 0 to 1, what it says about the image. informative_limit, noise_limit: the highest chance
    that a word has to be hidden in either. Other arguments as in `mask_words`.
    Source: GA-DMS's released code; draws in the order of the words, the informative view first.
    """
    told = informative_chances(scores, informative_limit)
    masked, labels = mask_words(ids, rng, mask=mask, first_special=first_special, chances=told)
    idle = noise_chances(scores, noise_limit)
    noise, _ = mask_words(ids, rng, mask=mask, first_special=first_special, chances=idle)
    return DualMasks(noise, masked, labels)


def informative_chances(scores: Sequence[float], limit: float = 0.3) -> list[float]:
    """How likely words of these scores are hidden to be told from the image."""
    return [limit * _rise(score - MIDDLE) for score in scores]


def noise_chances(scores: Sequence[float], limit: float = 0.2) -> list[float]:
    """How likely words of these scores are hidden as noise."""
    return [limit * _rise((1 - score) - (1 - MIDDLE)) for score in scores]


def _rise(above: float) -> float:
    """From 0 to 1, steeply around 0."""
    return 1 / (1 + math.exp(-STEEPNESS * above))


@dataclass(frozen=True)
class Corruption:
    """The draws of one TBPS-CLIP corruption, arrays of the shape of the ids.

    chosen, masked, randomised: booleans, true with probability 0.15, 0.8 and 0.5.
    words: replacement ids.
    """

    chosen: NDArray[np.bool_]
    masked: NDArray[np.bool_]
    randomised: NDArray[np.bool_]
    words: NDArray[np.int64]

    @classmethod
    def draw(cls, shape: tuple[int, ...], rng: np.random.Generator, first_special: int) -> Corruption:
        """Fresh draws. Words stop below the special ids: a random end token would move the pooled place."""
        chosen, masked, randomised = (rng.random(shape) < share for share in (SHARE, MASKED, 0.5))
        return cls(chosen, masked, randomised, rng.integers(1, first_special, shape))


def corrupt_words(
    ids: NDArray[np.int64], draws: Corruption, *, mask: int, first_special: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """TBPS-CLIP's masking of rows of ids: (corrupted ids, labels), labels -100 where nothing is asked.

    Special tokens and padding are left alone. Source: TBPS-CLIP (Cao et al., AAAI 2024), released code.
    """
    chosen = draws.chosen & (ids > 0) & (ids < first_special)
    hidden = chosen & draws.masked
    changed = chosen & ~draws.masked & draws.randomised
    corrupted = np.where(hidden, mask, np.where(changed, draws.words, ids))
    return corrupted, np.where(chosen, ids, UNLABELLED)
