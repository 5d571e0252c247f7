"""Answers about a gallery in a database: its best rows are fetched, and ranked here as those of any other gallery.

So whatever a search can do (groups, sums, explanations, sets that are sure) works alike over all of them. The filter
goes to the database, but for what it says of the score. How many rows it takes is not known: if the answer is not
complete, four times as many are fetched. Of the groups that are shown all rows are fetched, so that their sizes are
right; how many groups there are in all is not counted. Scores are compared with a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.asked import columns_of
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.rows import Rows
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import Where, parse, require
from tbps_cli.filtering.tree import And, Compare, Or, Tree, looks_at
from tbps_cli.retrieval.similarity import dots
from tbps_cli.searching import ranking
from tbps_cli.searching.database_gallery import BestRows, DatabaseGallery
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.orders import GroupedBy
from tbps_cli.searching.query import Query, encode
from tbps_cli.searching.ranking import TOP, Answer
from tbps_cli.searching.sure import judge_of
from tbps_cli.trust.judge import Judge
from tbps_cli.trust.population import KNOWN, Population
from tbps_cli.types import Hit

if TYPE_CHECKING:
    from tbps_cli.trust.calibration import Calibration

OF_GROUPS = 20_000
"""Rows of the shown groups that are fetched at most."""
FIRST_OF_GROUPS = 20
"""Rows that are fetched at first for each group that is to be shown."""


def answers(
    model: Encoder,
    gallery: Gallery,
    queries: Sequence[Query],
    *,
    top: int = TOP,
    where: str | Where | None = None,
    sure: float | None = None,
    explain: bool = False,
    quiet: bool = False,
    **options: Any,
) -> list[Answer]:
    """As `ranking.answers`, over any gallery."""
    if not isinstance(gallery, DatabaseGallery):
        return ranking.answers(
            model, gallery, queries, top=top, where=where, sure=sure, explain=explain, quiet=quiet, **options
        )
    with gallery.database.moment():
        return _far_answers(model, gallery, queries, top, where, sure, explain=explain, quiet=quiet, options=options)


def _far_answers(
    model: Encoder,
    gallery: DatabaseGallery,
    queries: Sequence[Query],
    top: int,
    where: str | Where | None,
    sure: float | None,
    *,
    explain: bool,
    quiet: bool,
    options: dict[str, Any],
) -> list[Answer]:
    fits = parse(where) if isinstance(where, str) else where
    if fits is not None and len(gallery):
        require(fits, gallery.columns.knows)
    # before the database is asked, which may have to wait for the newest rows
    query_QE = encode(model, queries, quiet=quiet, embed=options.pop("embed", None))
    gallery.known.size = gallery.database.count()
    gallery.tell_unfinished()
    if not len(gallery):
        return [Answer(query, [], None, 0) for query in queries]
    if fits is not None:
        require(fits, gallery.columns.knows)
    asked, by_score = _parted(fits.tree if fits else None)
    candidates = len(gallery) if asked is None else gallery.database.count(asked)
    calibration = judge_of(model, gallery.drawn().vector_SE, None, sure, quiet=quiet).calibration
    found = []
    for query, query_E in zip(queries, query_QE, strict=True):
        search = _Search(model, gallery, query, query_E, asked, by_score, candidates, calibration, top, sure, options)
        answer = search.answer(explain=explain)
        gallery.remember(search.fetched, [hit.path for hit in answer.hits])
        found.append(replace(answer, candidates=len(gallery) if by_score else candidates))
    return found


def _parted(tree: Tree | None) -> tuple[Tree | None, Tree | None]:
    """What of a filter the database is asked, and what is left since it is about the score."""
    parts = () if tree is None else tree.parts if isinstance(tree, And) else (tree,)
    of_rows = [part for part in parts if "score" not in looks_at(part)]
    return _all_of(of_rows), _all_of([part for part in parts if part not in of_rows])


def _all_of(parts: Sequence[Tree]) -> Tree | None:
    return And(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)


class _FarJudge(Judge):
    """The judge of scores where only the best rows are here: samples of the database stand for the others."""

    def __init__(self, search: _Search) -> None:
        super().__init__(search.fetched.vector_GE, None, search.calibration)
        self.search = search

    @cached_property
    def gallery(self) -> Population:
        return self._population(None, len(self.search.gallery))

    @cached_property
    def candidates(self) -> Population:
        asked = self.search.where
        return self.gallery if asked is None else self._population(asked, self.search.candidates)

    def reaching(self, query_E: NDArray[np.float32], threshold: float) -> int:
        return int((dots(query_E[None], self.vector_GE)[0] >= threshold).sum())

    def _population(self, where: Tree | None, size: int) -> Population:
        """A sample, in which the rows that are here are found again by their vectors."""
        drawn = self.search.gallery.drawn(where)
        place_S = -1 - np.arange(len(drawn.vector_SE))
        for place, row_E in enumerate(self.vector_GE.astype(np.float32)):
            number = drawn.number_of.get(row_E.tobytes())
            if number is not None:
                place_S[number] = place
        return Population(drawn.vector_SE, place_S, size)


@dataclass
class _Search:
    """One query on its way."""

    model: Encoder
    gallery: DatabaseGallery
    query: Query
    query_E: NDArray[np.float32]
    where: Tree | None
    by_score: Tree | None
    candidates: int
    calibration: Calibration | None
    top: int
    sure: float | None
    options: dict[str, Any]
    fetched: BestRows = field(init=False)

    def answer(self, *, explain: bool) -> Answer:
        """The whole answer, from as few rows as it takes."""
        group = self.options.get("group")
        wanted = max(self.top * (FIRST_OF_GROUPS if group else 2 if self.query.images else 1), KNOWN)
        while True:
            wanted = min(wanted, max(1, self.candidates))
            rows, vector_KE, lowest = self._found(self.where, wanted)
            self.fetched = self.gallery.fetched(rows, vector_KE)
            answer = self._ranked()
            complete = wanted >= self.candidates
            if complete or self._suffices(answer, lowest):
                break
            wanted *= 4
        groups = answer.groups if complete else None
        if group and not complete and group != GroupedBy.near_duplicate and answer.hits:
            self._fetch_groups(answer.hits, GroupedBy(group))
            answer = self._ranked(explain=explain)
        elif explain:
            answer = self._ranked(explain=True)
        return replace(answer, groups=groups)

    def _found(self, where: Tree | None, most: int) -> tuple[Rows, NDArray[Any], float]:
        """The best rows that pass, and the lowest score down to which they were looked at."""
        (matches,) = self.gallery.database.search(self.query_E[None], most, where)
        lowest = float(matches.score_K[-1]) if len(matches.rows) else -np.inf
        if self.by_score is None:
            return matches.rows, matches.vector_KE, lowest
        kept = np.flatnonzero(mask(self.by_score, columns_of(matches.rows).scored(matches.score_K)))
        return matches.rows.take(kept), matches.vector_KE[kept], lowest

    def _ranked(self, *, explain: bool = False) -> Answer:
        return ranking.answers(
            self.model,
            self.fetched,
            [self.query],
            top=self.top,
            sure=self.sure,
            explain=explain,
            vector_QE=self.query_E[None],
            judge=_FarJudge(self),
            **self.options,
        )[0]

    def _suffices(self, answer: Answer, lowest: float) -> bool:
        """Whether rows below the lowest score that was fetched could not change the answer."""
        if answer.sure is not None:
            return lowest < answer.sure.lowest
        limit = self.options.get("min_score")
        if limit is not None and lowest < limit:
            return True
        return len({hit.group or hit.path for hit in answer.hits}) >= self.top

    def _fetch_groups(self, hits: Sequence[Hit], by: GroupedBy) -> None:
        """Add all rows of the groups that these hits are of."""
        trees = list(dict.fromkeys(tree for hit in hits if (tree := _group_of(hit, by)) is not None))
        if not trees:
            return
        whole = trees[0] if len(trees) == 1 else Or(tuple(trees))
        rows, vector_KE, _ = self._found(whole if self.where is None else And((self.where, whole)), OF_GROUPS)
        there = set(self.fetched.rows.paths)
        new = np.array([place for place, path in enumerate(rows.paths) if path not in there], int)
        joined = Rows.joined([self.fetched.rows, rows.take(new)])
        self.fetched = self.gallery.fetched(joined, np.concatenate([self.fetched.vector_GE, vector_KE[new]]))


def _group_of(hit: Hit, by: GroupedBy) -> Tree | None:
    """A filter for the group that a hit is of; None where it is one by itself."""
    if by is GroupedBy.person:
        return None if hit.person is None else Compare("person", "==", hit.person)
    if hit.source is None or (by is GroupedBy.track and hit.track is None):
        return None
    source = Compare("source", "==", hit.source)
    return source if by is GroupedBy.source else And((source, Compare("track", "==", hit.track)))
