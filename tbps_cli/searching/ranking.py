"""A gallery ranked for a query: the hits, best first, among the images that a filter lets through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.rows import content_hash
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import Where, parse, require
from tbps_cli.retrieval.rank import topk
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.query import Query, encode
from tbps_cli.types import Hit

TOP = 10


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


def answers(
    model: Encoder,
    gallery: Gallery,
    queries: Sequence[Query],
    *,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
    with_self: bool = True,
) -> list[Answer]:
    """Rank a gallery for several queries; the filter comes first, so `top` images that fit it remain."""
    check_limits(top, min_score)
    ranker = _Ranker(gallery, parse(where) if isinstance(where, str) else where)
    query_QE = encode(model, queries)
    itself = [frozenset() if with_self else _places_of_images(gallery, query) for query in queries]
    # as many more as may have to be left out, so that `top` remain
    found = ranker.rank(query_QE, top + max(map(len, itself), default=0))
    return [
        Answer(
            query,
            _hits(gallery, score_K, index_K, min_score, top, left_out),
            _persons(gallery, query),
            ranker.candidates,
        )
        for query, (score_K, index_K), left_out in zip(queries, found, itself, strict=True)
    ]


def check_limits(top: int, min_score: float | None) -> None:
    """Raises UsageError for a number of hits or a lowest score that cannot be meant."""
    if top < 1:
        raise UsageError(f"--top {top}: at least one image must be shown.")
    if min_score is not None and not math.isfinite(min_score):
        raise UsageError(f"--min-score {min_score}: must be a number.", "Scores are cosines, from -1 to 1.")


def _places_of_images(gallery: Gallery, query: Query) -> frozenset[int]:
    """Where the images that are searched by lie in the gallery itself, under whatever names."""
    return frozenset(int(place) for image in query.images for place in gallery.places_of(content_hash(image)))


class _Ranker:
    """Ranks the part of a gallery that a filter lets through."""

    def __init__(self, gallery: Gallery, where: Where | None) -> None:
        self.gallery = gallery
        self.where = where
        self.by_score = where is not None and "score" in where.fields
        self.index_K: NDArray[np.int64] | None = None
        if where is not None and len(gallery):
            require(where, gallery.columns.knows)
        if where is not None and not self.by_score:
            self.index_K = np.flatnonzero(mask(where.tree, gallery.columns))
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
        score_G = np.empty(len(self.gallery), score_1K.dtype)
        score_G[found_1K[0]] = score_1K[0]
        fits_G = mask(self.where.tree, self.gallery.columns.scored(score_G))
        kept = np.flatnonzero(fits_G[found_1K[0]])[:top]
        return score_1K[0][kept], found_1K[0][kept]


def _hits(
    gallery: Gallery,
    score_K: NDArray[Any],
    index_K: NDArray[np.int64],
    min_score: float | None,
    top: int,
    left_out: frozenset[int],
) -> list[Hit]:
    """The first `top` of these places that are not left out, down to the lowest score."""
    hits: list[Hit] = []
    for score, found in zip(score_K.tolist(), index_K.tolist(), strict=True):
        if len(hits) == top or (min_score is not None and score < min_score):
            break
        if found not in left_out:
            row = gallery.rows[found]
            file = gallery.file_of(row)
            facts = row.camera, row.time, row.source, row.seconds, row.box, row.track, row.detection
            hits.append(Hit(len(hits) + 1, row.path, score, file, row.person, *facts))
    return hits


def _persons(gallery: Gallery, query: Query) -> frozenset[Person] | None:
    """Who would be right: as stated, or because the sentence is a caption of the data set."""
    if query.persons is not None:
        return query.persons
    return gallery.truth.get((query.text or "").strip()) if query.plain else None
