"""What is searched for, and the search itself: sentences, an image, or a mixture of both.

Every query becomes one unit vector: the sum of its sentence and its image, less half of what it
should not be. The score of an image is the cosine with that vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder, warn_of_cut
from tbps_cli.retrieval.rank import topk
from tbps_cli.search.gallery import Gallery
from tbps_cli.search.index import index, open_index, refuse_batch_dependent
from tbps_cli.search.where import Where, parse
from tbps_cli.types import Hit

TOP = 10
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


@dataclass(frozen=True)
class Answer:
    """The hits of one query. `persons`: who would be right, or None where that is unknown."""

    query: Query
    hits: list[Hit]
    persons: frozenset[Person] | None
    candidates: int
    """Images that passed the filter."""

    def is_right(self, hit: Hit) -> bool | None:
        """Whether a hit shows who was meant; None where either is unknown, as in a folder of images."""
        return None if self.persons is None or hit.person is None else hit.person in self.persons


def search(
    model: Encoder,
    gallery: Gallery | str | Path,
    query: str | Query | None = None,
    *,
    image: str | Path | None = None,
    minus: str | None = None,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
) -> list[Hit]:
    """The images that fit a description best.

    gallery: an open one, a folder of images (embedded on first use) or an index file.
    query: the sentence; image: an image that shows what is wanted; minus: what it is not.
    where: a filter, see `search.where`; min_score: the lowest cosine that counts.
    """
    asked = query if isinstance(query, Query) else Query(query, Path(image) if image else None, minus)
    opened = gallery if isinstance(gallery, Gallery) else open_gallery(model, Path(gallery))
    return answers(model, opened, [asked], top=top, where=where, min_score=min_score)[0].hits


def open_gallery(model: Encoder, place: Path) -> Gallery:
    """A folder, brought up to date, or an index file as it is."""
    return open_index(model, place) if place.is_file() else index(model, place)


def answers(
    model: Encoder,
    gallery: Gallery,
    queries: Sequence[Query],
    *,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
) -> list[Answer]:
    """Rank a gallery for several queries; the filter comes first, so `top` images that fit it remain."""
    if top < 1:
        raise UsageError(f"--top {top}: at least one image must be shown.")
    if min_score is not None and math.isnan(min_score):
        raise UsageError("--min-score: must be a number.")
    ranker = _Ranker(gallery, parse(where) if isinstance(where, str) else where)
    found = ranker.rank(encode(model, queries), top)
    return [
        Answer(query, _hits(gallery, score_K, index_K, min_score), _persons(gallery, query), ranker.candidates)
        for query, (score_K, index_K) in zip(queries, found, strict=True)
    ]


def encode(model: Encoder, queries: Sequence[Query]) -> NDArray[np.float32]:
    """One unit row a query, [Q, E]. Special tokens that are written out in a query are plain words."""
    refuse_batch_dependent(model)
    warn_of_cut(model, [text for query in queries for text in query.texts], "queries")
    texts = list(dict.fromkeys(text.strip() for query in queries for text in query.texts))
    row_of = dict(zip(texts, model.encode_texts(texts, query=True), strict=True)) if texts else {}
    sum_QE = np.stack([_sum(model, query, row_of) for query in queries])
    length_Q1 = np.linalg.norm(sum_QE, axis=1, keepdims=True)
    if not (length_Q1 > 1e-6).all():
        raise UsageError("--minus takes everything away from the query.", "Describe something else there.")
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


class _Ranker:
    """Ranks the part of a gallery that a filter lets through."""

    def __init__(self, gallery: Gallery, where: Where | None) -> None:
        self.gallery = gallery
        self.where = where
        self.by_score = where is not None and "score" in where.fields
        self.index_K: NDArray[np.int64] | None = None
        if where is not None and not self.by_score:
            fits = (where(gallery.values(row)) for row in gallery.rows)
            self.index_K = np.flatnonzero(np.fromiter(fits, bool, len(gallery)))
        self.candidates = len(gallery) if self.index_K is None else len(self.index_K)

    def rank(self, query_QE: NDArray[np.float32], top: int) -> list[tuple[NDArray[Any], NDArray[np.int64]]]:
        """(scores, places in the gallery) of each query, best first."""
        if self.by_score:
            return [self._by_score(query_E, top) for query_E in query_QE]
        if not self.candidates:
            return [(np.zeros(0), np.zeros(0, np.int64)) for _ in query_QE]
        vector_KE = self.gallery.vector_GE if self.index_K is None else self.gallery.vector_GE[self.index_K]
        score_QK, found_QK = topk(query_QE, vector_KE, top)
        return list(zip(score_QK, found_QK if self.index_K is None else self.index_K[found_QK], strict=True))

    def _by_score(self, query_E: NDArray[np.float32], top: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A filter that asks for the score needs all of them; the best that fit it are kept."""
        assert self.where is not None
        score_1K, found_1K = topk(query_E[None], self.gallery.vector_GE, len(self.gallery))
        kept: list[int] = []
        for place, (score, found) in enumerate(zip(score_1K[0].tolist(), found_1K[0].tolist(), strict=True)):
            if self.where({**self.gallery.values(self.gallery.rows[found]), "score": score}):
                kept.append(place)
                if len(kept) == top:
                    break
        return score_1K[0][kept], found_1K[0][kept]


def _hits(gallery: Gallery, score_K: NDArray[Any], index_K: NDArray[np.int64], min_score: float | None) -> list[Hit]:
    hits = []
    for rank, (score, found) in enumerate(zip(score_K.tolist(), index_K.tolist(), strict=True), 1):
        if min_score is not None and score < min_score:
            break
        row = gallery.rows[found]
        extra = {"file": gallery.file_of(row), "camera": row.camera, "time": row.time}
        hits.append(Hit(rank, row.path, score, row.person, extra))
    return hits


def _persons(gallery: Gallery, query: Query) -> frozenset[Person] | None:
    """Who would be right: as stated, or because the sentence is a caption of the data set."""
    if query.persons is not None:
        return query.persons
    plain = query.text is not None and query.image is None and query.minus is None
    return gallery.truth.get((query.text or "").strip()) if plain else None
