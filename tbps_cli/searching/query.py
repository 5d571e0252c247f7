"""What is searched for: sentences, images, or a sum of both, as one vector.

Every query becomes one unit vector: the sum of its terms, each an embedding times its weight. What it should not be
has a negative weight, half of the others unless one is stated. The score of an image is the cosine with that vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder, warn_of_cut
from tbps_cli.retrieval.similarity import features
from tbps_cli.searching.index_file import refuse_batch_dependent

EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]
"""B queries -> [B, E] unit rows."""

MINUS = 0.5
"""How much of the unwanted sentence is taken away; all of it would leave little of a similar query."""


@dataclass(frozen=True, eq=False)
class StoredRow:
    """An image of the gallery as a part of a query: its embedding is known already."""

    name: str
    vector_E: NDArray[np.floating]


@dataclass(frozen=True)
class Term:
    """One part of a sum: a sentence, an image file or an image of the gallery, and how much of it."""

    what: str | Path | StoredRow
    weight: float = 1.0
    """Negative: what it should not be."""

    def __post_init__(self) -> None:
        if isinstance(self.what, str) and not self.what.strip():
            raise UsageError("a part of the query is empty.", 'For example: --plus "a backpack"')
        if not math.isfinite(self.weight) or not self.weight:
            raise UsageError(f"a weight of {self.weight} makes no sense.", "For example: 0.5")

    @property
    def name(self) -> str:
        """As shown: a sentence as it is, an image in brackets."""
        if isinstance(self.what, str):
            return self.what.strip()
        return f"[{self.what.name}]"

    def __str__(self) -> str:
        usual = (1.0, -MINUS)
        return self.name if self.weight in usual else f"{abs(self.weight):g} × {self.name}"


@dataclass(frozen=True)
class Query:
    """What is searched for: a sentence, an image or both; `minus` says what it is not; `more` is added to that."""

    text: str | None = None
    image: Path | None = None
    minus: str | None = None
    persons: frozenset[Person] | None = None
    """Who is meant, where that is known."""
    more: tuple[Term, ...] = ()
    id: str | None = None
    """What a file of queries calls it."""

    def __post_init__(self) -> None:
        wanted = (self.text or "").strip() or self.image is not None or any(term.weight > 0 for term in self.more)
        if not wanted:
            raise UsageError("the query is empty.", 'For example: tbps search "a man in a white shirt"')
        if self.minus is not None and not self.minus.strip():
            raise UsageError("--minus is empty.", 'For example: --minus "a backpack"')

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that is added up."""
        text = [Term(self.text)] if self.text and self.text.strip() else []
        image = [] if self.image is None else [Term(self.image)]
        minus = [] if self.minus is None else [Term(self.minus, -MINUS)]
        return (*text, *image, *minus, *self.more)

    @property
    def texts(self) -> list[str]:
        """The sentences in it."""
        return [term.what.strip() for term in self.terms if isinstance(term.what, str)]

    @property
    def images(self) -> list[Path]:
        """The image files in it."""
        return [term.what for term in self.terms if isinstance(term.what, Path)]

    @property
    def plain(self) -> bool:
        """Whether it is one sentence and nothing else."""
        return len(self.terms) == 1 and self.text is not None

    def __str__(self) -> str:
        wanted = " + ".join(str(term) for term in self.terms if term.weight > 0)
        return "".join([wanted, *(f" - {term}" for term in self.terms if term.weight < 0)])


def encode(
    model: Encoder, queries: Sequence[Query], *, quiet: bool = False, embed: EmbedTexts | None = None
) -> NDArray[np.float32]:
    """One unit row a query, [Q, E]. Special tokens that are written out in a query are plain words.

    quiet: without the warning about sentences that are cut. embed: what embeds sentences; default the model.
    """
    refuse_batch_dependent(model)
    if not quiet:
        warn_of_cut(model, [text for query in queries for text in query.texts], "queries")
    texts = list(dict.fromkeys(text for query in queries for text in query.texts))
    embed = embed or partial(model.encode_texts, query=True)
    text_row = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    image_row = {image: model.encode_images([image])[0] for query in queries for image in query.images}
    sum_QE = features(np.stack([_sum(query, text_row, image_row) for query in queries]), "query")
    length_Q1 = np.linalg.norm(sum_QE, axis=1, keepdims=True)
    if not (length_Q1 > 1e-6).all():
        raise UsageError("--minus cancels the whole query.", "Describe something else in --minus.")
    unit_QE: NDArray[np.float32] = sum_QE / length_Q1
    return unit_QE


def _sum(
    query: Query, text_row: Mapping[str, NDArray[np.float32]], image_row: Mapping[Path, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The terms times their weights, [E], of any length."""
    parts = []
    for term in query.terms:
        if isinstance(term.what, str):
            row_E = text_row[term.what.strip()]
        elif isinstance(term.what, Path):
            row_E = image_row[term.what]
        else:
            row_E = term.what.vector_E.astype(np.float32)
        parts.append(np.float32(term.weight) * row_E)
    total: NDArray[np.float32] = np.sum(parts, axis=0)
    return total
