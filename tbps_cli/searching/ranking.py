"""A gallery ranked for a query: the hits, best first, among the images that a filter lets through."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.rows import content_hash
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import Where, parse, require
from tbps_cli.filtering.tree import And, Between, Compare, Tree, looks_at, number
from tbps_cli.searching.best_groups import FIRST, BestGroups
from tbps_cli.searching.explaining import check_explain, explanations
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.grouping import Grouping, HitGroup, grouping, span
from tbps_cli.searching.orders import GroupedBy, SortedBy
from tbps_cli.searching.query import EmbedTexts, Query, encode
from tbps_cli.searching.sure import Sure, check_sure, judge_of, surely
from tbps_cli.trust.judge import Judge
from tbps_cli.types import Hit

if TYPE_CHECKING:
    from tbps_cli.asking.understood import Understood

TOP = 10
SOME = 1000
"""Images that a filter by score is asked of first."""
MORE = 32
"""Times as many are looked at next."""


@dataclass(frozen=True)
class Answer:
    """The hits of one query. `persons`: who would be right, or None where that is unknown."""

    query: Query
    hits: list[Hit]
    persons: frozenset[Person] | None
    candidates: int
    """Images that passed the filter."""
    groups: int | None = None
    """Groups that they form, where they are grouped and all groups were looked for."""
    sure: Sure | None = None
    """The set of images that holds the person, where one was asked for."""
    understood: Understood | None = None
    """What the question was understood as; None where it was taken as it is."""

    asked: Query | None = None
    """The query before it was understood; None where it is `query`."""

    @property
    def question(self) -> str:
        """What somebody asked, with every part of a sum; `query` is what was ranked."""
        return str(self.asked or self.query)

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
    group: str | Grouping | None = None,
    per_group: int = 1,
    sort: str = "score",
    sure: float | None = None,
    explain: bool = False,
    quiet: bool = False,
    embed: EmbedTexts | None = None,
    vector_QE: NDArray[np.float32] | None = None,
    judge: Judge | None = None,
) -> list[Answer]:
    """Rank a gallery for several queries; the filter comes first, so `top` images or groups that fit it remain.

    sure: only images of the smallest set that holds the person with this probability. explain: say of each hit
    which words of the sentence it supports, and where. quiet: without warnings. embed: as in `query.encode`.
    vector_QE: the queries, where they are encoded already. judge: of the scores, where the gallery is only the best
    part of a larger one.
    """
    check_limits(top, min_score, group, per_group, sort)
    check_sure(sure, queries)
    check_explain(explain, queries)
    if sort == SortedBy.time:
        _require_times(gallery)
    groups = grouping(gallery, GroupedBy(group)) if isinstance(group, str) else group
    ranker = _Ranker(gallery, parse(where) if isinstance(where, str) else where)
    query_QE = encode(model, queries, quiet=quiet, embed=embed) if vector_QE is None else vector_QE
    itself = [frozenset() if with_self else _places_of_images(gallery, query) for query in queries]
    down_to = ranker.down_to if ranker.quick else None
    judge = judge or judge_of(
        model, gallery.vector_GE, ranker.index_K, sure, quiet=quiet, down_to=down_to, sample=gallery.sample
    )
    # the best groups are looked for, unless all images are ranked anyway: members that the rows name cost little
    listed = groups is not None and groups.listed and not ranker.by_score and min_score is None and sure is None
    sought = groups is not None and (ranker.quick or listed)
    # as many more as may have to be left out, so that `top` remain
    reach = max(FIRST * top if sought else top, judge.known) + max(map(len, itself), default=0)
    if groups and not sought:
        reach = max(1, len(gallery))
    found = []
    ranks = ranker.rank(query_QE, reach)
    for query, query_E, ranked, left_out in zip(queries, query_QE, ranks, itself, strict=True):
        certain = surely(judge, query_E, ranked[0], sure)
        lowest, count = _lowest(min_score, certain), None
        if groups and sought and lowest is None:
            best = BestGroups(gallery, groups, ranker.index_K, left_out)
            images, count = best.find(query_E, top, ranked, per_group), best.count()
            score_K, index_K = images.score_K, images.index_K
            chosen = list(_shown(gallery, images.groups, score_K, index_K, per_group))
        else:
            every = ranker.down_to(query_E, lowest) if groups and ranker.quick and lowest is not None else ranked
            score_K, index_K = _kept(*every, lowest, left_out)
            if groups is None:
                chosen = [
                    (place, hit_of(gallery, score_K[place], index_K[place])) for place in range(min(top, len(index_K)))
                ]
            else:
                chosen = list(_shown(gallery, islice(groups.groups(index_K), top), score_K, index_K, per_group))
                count = groups.count(index_K)
        at = [place for place, _ in chosen]
        figures = judge.figures(query_E, ranked, score_K[at], index_K[at], calibrated=query.plain)
        hits = [
            replace(hit, rank=rank, **beside._asdict())
            for rank, ((_, hit), beside) in enumerate(zip(chosen, figures, strict=True), 1)
        ]
        if explain:
            said = explanations(model, gallery, query, index_K[at])
            hits = [replace(hit, explain=words) for hit, words in zip(hits, said, strict=True)]
        if sort == SortedBy.time:
            hits.sort(key=_moment)
        found.append(Answer(query, hits, _persons(gallery, query), ranker.candidates, count, certain))
    return found


def check_limits(
    top: int,
    min_score: float | None,
    group: str | Grouping | None = None,
    per_group: int = 1,
    sort: str = "score",
) -> None:
    """Raises UsageError for numbers and names that cannot be meant."""
    if top < 1:
        raise UsageError(f"--top {top}: at least one image must be shown.")
    if min_score is not None and not math.isfinite(min_score):
        raise UsageError(f"--min-score {min_score}: must be a number.", "Scores are cosines, from -1 to 1.")
    if per_group < 1:
        raise UsageError(f"--per-group {per_group}: at least one image of a group must be shown.")
    if per_group > 1 and group is None:
        raise UsageError("--per-group needs --group.", "For example: --group person --per-group 3")
    for name, value, known in (("group", group, GroupedBy), ("sort", sort, SortedBy)):
        if isinstance(value, str) and value not in list(known):
            raise UsageError(f"--{name} {value}: there is no such thing.", f"Known: {', '.join(known)}.")


def _require_times(gallery: Gallery) -> None:
    if len(gallery) and not (gallery.columns.knows("time") or gallery.columns.knows("seconds")):
        raise UsageError("--sort time: no image here has a time.", "Leave --sort out: the best come first.")


def _moment(hit: Hit) -> tuple[bool, str, bool, float]:
    """What hits are sorted by: their times, else seconds into a video; those without come last."""
    return hit.time is None, hit.time or "", hit.seconds is None, hit.seconds or 0.0


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
        return list(zip(*self.gallery.best(query_QE, top, self.index_K), strict=True))

    @property
    def quick(self) -> bool:
        """Whether the best are found without reading all vectors, so that it pays not to ask for all."""
        return not self.by_score and self.gallery.cascade is not None

    def down_to(self, query_E: NDArray[np.float32], lowest: float) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """All that score at least so much, best first."""
        return self.gallery.down_to(query_E, lowest, self.index_K)

    def _by_score(self, query_E: NDArray[np.float32], top: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A filter that asks for the score is asked of the best images, of more where too few of them fit it.

        What it asks besides comes first; and no more are looked at below the lowest score that it can let through.
        """
        assert self.where is not None
        columns = self.gallery.columns
        tree, plain = self.where.tree, [part for part in _parts(self.where.tree) if "score" not in looks_at(part)]
        place_K = np.flatnonzero(reduce(operator.and_, (mask(part, columns) for part in plain))) if plain else None
        size = len(self.gallery) if place_K is None else len(place_K)
        lowest, count = _least_score(tree), min(size, max(top, SOME))
        while size:
            score_1K, place_1K = self.gallery.best(query_E[None], count, place_K)
            score_G = np.full(len(self.gallery), np.nan, score_1K.dtype)
            score_G[place_1K[0]] = score_1K[0]
            kept = np.flatnonzero(mask(tree, columns.scored(score_G))[place_1K[0]])[:top]
            if len(kept) == top or count == size or score_1K[0, -1] < lowest:
                return score_1K[0][kept], place_1K[0][kept]
            count = min(size, MORE * count)
        return np.zeros(0, query_E.dtype), np.zeros(0, np.int64)


def _parts(tree: Tree) -> tuple[Tree, ...]:
    """Conditions all of which must hold."""
    return tree.parts if isinstance(tree, And) else (tree,)


def _least_score(tree: Tree) -> float:
    """A score below which a filter lets nothing through."""
    least = -math.inf
    for part in _parts(tree):
        if isinstance(part, Compare) and part.field == "score" and part.op in (">", ">=", "=="):
            least = max(least, -math.inf if (value := number(part.value)) is None else value)
        elif isinstance(part, Between) and part.field == "score":
            least = max(least, -math.inf if (value := number(part.low)) is None else value)
    return least


def _lowest(min_score: float | None, certain: Sure | None) -> float | None:
    """The score down to which images count."""
    limits = [limit for limit in (min_score, certain.lowest if certain else None) if limit is not None]
    return max(limits, default=None)


def _kept(
    score_K: NDArray[Any], index_K: NDArray[np.int64], min_score: float | None, left_out: frozenset[int]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """What is not left out, down to the lowest score."""
    kept_K = np.ones(len(index_K), bool) if min_score is None else score_K >= np.float64(min_score)
    if left_out:
        kept_K &= ~np.isin(index_K, list(left_out))
    return score_K[kept_K], index_K[kept_K]


def _shown(
    gallery: Gallery, groups: Iterable[HitGroup], score_K: NDArray[Any], index_K: NDArray[np.int64], per_group: int
) -> Iterator[tuple[int, Hit]]:
    """The best images of the best groups, and where among the ranked ones each stands."""
    for group in groups:
        first, last = span(gallery, index_K[group.place_M])
        for place in group.place_M[:per_group].tolist():
            hit = hit_of(gallery, score_K[place], index_K[place])
            yield place, replace(hit, group=group.name, members=len(group.place_M), first=first, last=last)


def hit_of(gallery: Gallery, score: Any, place: int) -> Hit:
    row = gallery.rows[place]
    facts = row.camera, row.time, row.source, row.seconds, row.box, row.track, row.detection
    cosine = min(float(score), 1.0)  # a row in half precision may be longer than 1 by its rounding
    return Hit(0, row.path, cosine, gallery.file_of(row), row.person, *facts)


def _persons(gallery: Gallery, query: Query) -> frozenset[Person] | None:
    """Who would be right: as stated, or because the sentence is a caption of the data set."""
    if query.persons is not None:
        return query.persons
    return gallery.truth.get((query.text or "").strip()) if query.plain else None
