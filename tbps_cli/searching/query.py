"""What is searched for, and the search itself: sentences, an image, or a mixture of both.

Every query becomes one unit vector: the sum of its sentence and its image, less half of what it
should not be. The score of an image is the cosine with that vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import DataError, UsageError
from tbps_cli.features.encoder import Encoder, warn_of_cut
from tbps_cli.features.rows import content_hash
from tbps_cli.models.checkpoint import Checkpoint, find, open_data, open_encoder, opened
from tbps_cli.retrieval.rank import topk
from tbps_cli.searching.dataset import of_split
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index, open_index, read_index, refuse_batch_dependent
from tbps_cli.searching.where import Where, parse, require
from tbps_cli.types import Hit

Progress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Progress]]
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


@dataclass(frozen=True)
class Search:
    """What `search_all` found: an answer for each query, and the gallery they come from."""

    answers: list[Answer]
    gallery: Gallery


def search(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    gallery: Gallery | str | Path | None = None,
    query: str | Query | None = None,
    *,
    image: str | Path | None = None,
    minus: str | None = None,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
    with_self: bool = True,
    split: str = "test",
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    workers: int | None = None,
) -> list[Hit]:
    """The images that fit a description best.

    checkpoint: an open model, or what `models.open_model` opens (then device, sets and words count).
    gallery: an open one, a folder of images (embedded on first use) or an index file; left out, `split`
    of the data set that the model was trained on, below `data_root`.
    query: the sentence; image: an image that shows what is wanted; minus: what it is not.
    where: a filter, see `searching.where`; min_score: the lowest cosine that counts.
    with_self: whether the image that is searched by may be a hit (`tbps search` leaves it out).
    """
    asked = query if isinstance(query, Query) else Query(query, Path(image) if image else None, minus)
    found = search_all(
        checkpoint,
        gallery,
        [asked],
        top=top,
        where=where,
        min_score=min_score,
        with_self=with_self,
        split=split,
        data_root=data_root,
        device=device,
        sets=sets,
        words=words,
        workers=workers,
    )
    return found.answers[0].hits


def search_all(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    gallery: Gallery | str | Path | None,
    queries: Sequence[Query],
    *,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
    with_self: bool = True,
    split: str = "test",
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    workers: int | None = None,
    root: str | Path | None = None,
    watch: Watch | None = None,
) -> Search:
    """Answer several queries over one gallery; everything else as in `search`.

    Cheap checks come first: the filter, the folder, the checkpoint, the data set, and only then weights.
    root: where the images of an index file lie now, if they were moved.
    watch: gives the progress callback of embedding; called with the gallery's name.
    """
    _check(top, min_score)
    fits = parse(where) if isinstance(where, str) else where
    if isinstance(gallery, Gallery):
        model = opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root)
    else:
        model, gallery = open_gallery(
            checkpoint,
            gallery,
            split=split,
            data_root=data_root,
            device=device,
            sets=sets,
            words=words,
            workers=workers,
            root=root,
            watch=watch,
        )
    found = answers(model, gallery, queries, top=top, where=fits, min_score=min_score, with_self=with_self)
    return Search(found, gallery)


def open_gallery(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    place: str | Path | None = None,
    *,
    split: str = "test",
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    workers: int | None = None,
    root: str | Path | None = None,
    watch: Watch | None = None,
) -> tuple[Encoder, Gallery]:
    """A model and the images that it searches.

    place: a folder of images, which is brought up to date, or an index file as it is; left out, a split of
    the data set that the model was trained on. Everything else as in `search_all`.
    """
    if place is not None:
        place = Path(place).expanduser()
        if not place.exists():
            raise DataError(f"--in {place}: there is no such folder or index.", "Give a folder of images.")
        if place.is_file():
            read_index(place)
    if root is not None and (place is None or not place.is_file()):
        raise UsageError(f"--root {root}: only an index file has images elsewhere.", "Name it: --in FILE")
    owner = find(checkpoint, sets)
    if place is None:
        hint = "Name a folder: --in DIR"
        part = open_data(owner, split=split, data_root=data_root, hint=hint)[0].split(split)
        model = open_encoder(owner, device=device, words=words, data_root=data_root)
        with watch(f"{part.dataset} {split}") if watch else nullcontext() as progress:
            return model, of_split(model, part, workers=workers, progress=progress)
    model = open_encoder(owner, device=device, words=words, data_root=data_root)
    if place.is_file():
        return model, open_index(model, place, root=Path(root).expanduser() if root is not None else None)
    with watch(str(place)) if watch else nullcontext() as progress:
        return model, index(model, place, workers=workers, progress=progress)


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
    _check(top, min_score)
    ranker = _Ranker(gallery, parse(where) if isinstance(where, str) else where)
    query_QE = encode(model, queries)
    itself = [frozenset() if with_self else _places_of_image(gallery, query) for query in queries]
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


def _check(top: int, min_score: float | None) -> None:
    if top < 1:
        raise UsageError(f"--top {top}: at least one image must be shown.")
    if min_score is not None and not math.isfinite(min_score):
        raise UsageError(f"--min-score {min_score}: must be a number.", "Scores are cosines, from -1 to 1.")


def _places_of_image(gallery: Gallery, query: Query) -> frozenset[int]:
    """Where the image that is searched by lies in the gallery itself, under whatever names."""
    return frozenset() if query.image is None else frozenset(gallery.places_of(content_hash(query.image)).tolist())


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


class _Ranker:
    """Ranks the part of a gallery that a filter lets through."""

    def __init__(self, gallery: Gallery, where: Where | None) -> None:
        self.gallery = gallery
        self.where = where
        self.by_score = where is not None and "score" in where.fields
        self.index_K: NDArray[np.int64] | None = None
        if where is not None and len(gallery):
            require(where, gallery.knows)
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
            hits.append(Hit(len(hits) + 1, row.path, score, file, row.person, row.camera, row.time))
    return hits


def _persons(gallery: Gallery, query: Query) -> frozenset[Person] | None:
    """Who would be right: as stated, or because the sentence is a caption of the data set."""
    if query.persons is not None:
        return query.persons
    plain = query.text is not None and query.image is None and query.minus is None
    return gallery.truth.get((query.text or "").strip()) if plain else None
