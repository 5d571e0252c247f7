"""The views of a method that there is not, and a tokenizer of letters: what a loader of batches needs at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tbps_cli.augment.exact import CLIP_TRAIN, Augment

START, END = 901, 902


@dataclass(frozen=True)
class ToyViews:
    """One image and one caption, as plain CLIP takes them."""

    images: dict[str, Augment] = field(default_factory=lambda: {"image": CLIP_TRAIN})
    masked: bool = False
    augment_text: str | None = None
    text_options: Mapping[str, float] = field(default_factory=dict)


class Letters:
    """A letter a token between start and end; counts the captions that it has seen."""

    context, mask_id = 40, 900

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.int64]:
        self.seen += len(texts)
        rows = np.zeros((len(texts), self.context), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *(ord(letter) for letter in text[: self.context - 2]), END]
            row[: len(ids)] = ids
        return rows

    def describe(self) -> dict[str, object]:
        return {"kind": "letters"}
