"""Changes of the words of a training caption, and the cleaning that TBPS-CLIP puts before its tokens.

TBPS-CLIP (Cao et al., AAAI 2024): the caption is now and then replaced by its back-translation, then
loses words at random ("easy data augmentation"). In ECCL's code words fall out and nothing else happens.
RDE (Qin et al., CVPR 2024) masks, replaces or removes ids. Draws come from Python's `random`, in the
released order. Where the released code fails
(a one-word caption, an empty one, an empty back-translation) the caption stays as it is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

REMOVED = re.compile(r"""[.!"()*#:;~]""")
BLANKS = re.compile(r"\s{2,}")
OF_WORDS = ("rewrite", "delete")
"""Augmentations that change a caption before it is tokenised."""
NAMES = (*OF_WORDS, "vary")
"""Augmentations that a method can ask for by name."""
RDE_SHARE = 0.2
RDE_MASKED, RDE_REPLACED = 0.6, 0.8
"""Of the chosen words: below the first the mask, below the second another word, else removed."""


def clean_caption(caption: str, max_words: int = 77) -> str:
    """TBPS-CLIP's cleaning, used in training, evaluation and search; cleaning twice changes nothing.

    Lower case; `. ! " ( ) * # : ; ~` become blanks; runs of two or more blanks one; the first
    `max_words` words, which single spaces separate. Source: released code.
    """
    caption = BLANKS.sub(" ", REMOVED.sub(" ", caption.lower()))
    words = caption.rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:max_words])


def delete_words(caption: str, rng: random.Random, share: float = 0.05) -> str:
    """Drop each word with the given probability, from 0 to 1; one random word stays at least.

    A caption of one word, or none, is returned unchanged and without a draw.
    """
    words = caption.split()
    if len(words) < 2:
        return caption
    kept = [word for word in words if rng.uniform(0, 1) > share]
    return " ".join(kept) if kept else rng.choice(words)


def rewrite_captions(
    captions: Sequence[str],
    back_translations: Sequence[str | None],
    rng: random.Random,
    *,
    back_translation: float = 0.1,
    deletion: float = 0.05,
) -> list[str]:
    """TBPS-CLIP's changes of clean captions: back-translations for some, then deleted words in all.

    back_translations: in the order of the captions; empty or None where there is none.
    back_translation, deletion: probabilities, of a caption and of a word.
    All draws for back-translation precede those for deletion. Source: TBPS-CLIP, released code.
    """
    pairs = zip(captions, back_translations, strict=True)
    chosen = [back if rng.random() < back_translation and back else caption for caption, back in pairs]
    return [delete_words(caption, rng, deletion) for caption in chosen]


def vary_ids(ids: Sequence[int], rng: random.Random, *, mask: int, first_special: int) -> list[int]:
    """RDE's change of a training row: of every fifth word 60 % masked, 20 % replaced, 20 % removed.

    ids: a whole row with start, end and zeros; only 0 < id < first_special counts as a word.
    The row closes up over removed words and is filled with zeros to its old length.
    Source: RDE (CVPR 2024), released code.
    """
    varied: list[int] = []
    others = range(1, first_special)
    for word in ids:
        if not 0 < word < first_special:
            varied.append(word)
            continue
        draw = rng.random() / RDE_SHARE
        if draw >= 1:
            varied.append(word)
        elif draw < RDE_MASKED:
            varied.append(mask)
        elif draw < RDE_REPLACED:
            varied.append(rng.choice(others))
    return varied + [0] * (len(ids) - len(varied))


def augment_caption(
    name: str | None, caption: str, back_translation: str | None, rng: random.Random, options: Mapping[str, float]
) -> str:
    """The change called `name` of one training caption, before tokenising.

    "rewrite" is TBPS-CLIP's, with the keywords of `rewrite_captions` as options; cleaning comes first, as it works on
    clean words. "delete" is ECCL's: words fall out (`delete_words`). Other names change nothing here (see
    `augment_ids`). Raises ValueError for an unknown name.
    """
    if _checked(name) == "delete":
        return delete_words(caption, rng, **options)
    if name != "rewrite":
        return caption
    back = clean_caption(back_translation) if back_translation else None
    return rewrite_captions([clean_caption(caption)], [back], rng, **options)[0]


def augment_ids(
    name: str | None, ids: Sequence[int], rng: random.Random, *, mask: int, first_special: int
) -> list[int]:
    """The change called `name` of one training row, after tokenising; "vary" is RDE's."""
    if _checked(name) != "vary":
        return list(ids)
    return vary_ids(ids, rng, mask=mask, first_special=first_special)


def _checked(name: str | None) -> str | None:
    if name not in (None, *NAMES):
        raise ValueError(f"{name!r} is not a text augmentation; known: {', '.join(NAMES)}")
    return name
