"""What is searched for: sentences, an image, or a mixture of both, as one vector.

Every query becomes one unit vector: the sum of its sentence and its image, less half of what it
should not be. The score of an image is the cosine with that vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder, warn_of_cut
from tbps_cli.searching.index import refuse_batch_dependent

MINUS = 0.5
"""How much of the unwanted sentence is taken away; all of it would leave little of a similar query."""


@dataclass(frozen=True)
class Query:
    """What is searched for: a sentence, an image or both; `minus` says what it is not."""

    text: str | None = None
    image: Path | None = None
    minus: str | None = None
    persons: frozenset[Person] | None = None
    """Who is meant, where that is known."""

    def __post_init__(self) -> None:
        if not (self.text or "").strip() and self.image is None:
            raise UsageError("the query is empty.", 'For example: tbps search "a man in a white shirt"')
        if self.minus is not None and not self.minus.strip():
            raise UsageError("--minus is empty.", 'For example: --minus "a backpack"')

    @property
    def texts(self) -> list[str]:
        """The sentences in it."""
        return [text for text in (self.text, self.minus) if text and text.strip()]

    def __str__(self) -> str:
        pictured = f"[{self.image.name}]" if self.image else ""
        wanted = " + ".join(part for part in ((self.text or "").strip(), pictured) if part)
        return f"{wanted} - {self.minus.strip()}" if self.minus else wanted


def encode(model: Encoder, queries: Sequence[Query]) -> NDArray[np.float32]:
    """One unit row a query, [Q, E]. Special tokens that are written out in a query are plain words."""
    refuse_batch_dependent(model)
    warn_of_cut(model, [text for query in queries for text in query.texts], "queries")
    texts = list(dict.fromkeys(text.strip() for query in queries for text in query.texts))
    row_of = dict(zip(texts, model.encode_texts(texts, query=True), strict=True)) if texts else {}
    sum_QE = np.stack([_sum(model, query, row_of) for query in queries])
    length_Q1 = np.linalg.norm(sum_QE, axis=1, keepdims=True)
    if not (length_Q1 > 1e-6).all():
        raise UsageError("--minus cancels the whole query.", "Describe something else in --minus.")
    unit_QE: NDArray[np.float32] = sum_QE / length_Q1
    return unit_QE


def _sum(model: Encoder, query: Query, row_of: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sentence + image - a share of what is not wanted, [E], of any length."""
    parts = [row_of[query.text.strip()]] if query.text and query.text.strip() else []
    if query.image is not None:
        parts.append(model.encode_images([query.image])[0])
    if query.minus is not None:
        parts.append(-MINUS * row_of[query.minus.strip()])
    total: NDArray[np.float32] = np.sum(parts, axis=0)
    return total
