"""The search itself: opens a model and a gallery, cheap checks first, and answers queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tbps_cli.databases.urls import is_url
from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.files import expanded
from tbps_cli.filtering.parse import Where, parse
from tbps_cli.models.checkpoint import Checkpoint, find, open_data, opened, ready_encoder
from tbps_cli.searching.explaining import check_explain
from tbps_cli.searching.galleries import named
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index_file import is_index_file, open_index, read_index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.query import Query, Term
from tbps_cli.searching.ranking import TOP, Answer, answers, check_limits
from tbps_cli.searching.sources import Sources, find_sources
from tbps_cli.searching.sums import of_terms, term
from tbps_cli.searching.sure import check_sure, require_calibration
from tbps_cli.types import Hit

Place: TypeAlias = str | Path | Sequence[str | Path] | None
Progress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Progress]]
_SHARE = 20.0
"""Times as long as an early answer took until the next one: they cost embedding a twentieth of its time."""


@dataclass(frozen=True)
class Search:
    """What `search_all` found: an answer for each query, and the gallery they come from."""

    answers: list[Answer]
    gallery: Gallery
    model: Encoder | None = None


@dataclass(frozen=True)
class Opening:
    """How a model and the images that it searches are opened."""

    split: str = "test"
    """Which split is searched where no images are named: of the data set that the model was trained on."""
    data_root: str | Path | None = None
    device: str = "auto"
    sets: Sequence[str] = ()
    words: str | Path | None = None
    workers: int | None = None
    root: str | Path | None = None
    """Where the images of an index file lie now, if they were moved."""
    footage: FootageSettings = field(default_factory=FootageSettings)
    """How persons are found in videos and whole frames."""
    download: bool = False
    """Whether a detector's weights may be fetched."""
    refresh: bool = True
    """False takes an index that is there as it is."""
    precision: str = "auto"
    """Of embedding, as in `index`."""


def search(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    gallery: Gallery | Place = None,
    query: str | Query | None = None,
    *,
    image: str | Path | Sequence[str | Path] | None = None,
    plus: str | Sequence[str] = (),
    minus: str | Sequence[str] | None = None,
    top: int = TOP,
    where: str | Where | None = None,
    min_score: float | None = None,
    with_self: bool = True,
    group: str | None = None,
    per_group: int = 1,
    sort: str = "score",
    sure: float | None = None,
    explain: bool = False,
    split: str = "test",
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    workers: int | None = None,
) -> list[Hit]:
    """The images that fit a description best.

    checkpoint: an open model, or what `models.open_model` opens (then device, sets and words count).
    gallery: an open one, or what `open_gallery` takes: a folder, a video, a list, the name of a gallery or an index
    file; left out, `split` of the data set that the model was trained on, below `data_root`.
    query: the sentence; image: one or several that show what is wanted; plus, minus: what else it is and what it is
    not, one or several, each with a weight if it begins with one (`0.8:a bag`), or a path as `./image.jpg`.
    where: a filter, see `filtering.parse`; min_score: the lowest cosine that counts.
    with_self: whether the image that is searched by may be a hit (`tbps search` leaves it out).
    group: one hit a "person", "track", "source" or set of images that look the same ("near-duplicate"), or the best
    `per_group` of each; `top` then counts groups. sort: "score", or "time" for the best in the order of their times.
    sure: only images of the smallest set that holds the person with this probability; explain: say of each hit which
    words of the sentence it supports, and where (`Hit.explain`).
    """
    asked = query if isinstance(query, Query) else _sum(query, image, plus, minus)
    found = search_all(
        checkpoint,
        gallery,
        [asked],
        top=top,
        where=where,
        min_score=min_score,
        with_self=with_self,
        group=group,
        per_group=per_group,
        sort=sort,
        sure=sure,
        explain=explain,
        opening=Opening(split, data_root, device, sets, words, workers),
    )
    return found.answers[0].hits


def _sum(
    text: str | None,
    image: str | Path | Sequence[str | Path] | None,
    plus: str | Sequence[str],
    minus: str | Sequence[str] | None,
) -> Query:
    """The query that these make. The sentence is taken as it is, without a weight."""
    images = [image] if isinstance(image, str | Path) else image or []
    more = [plus] if isinstance(plus, str) else plus
    less = [minus] if isinstance(minus, str) else minus or []
    terms = [Term(text)] if text and text.strip() else []
    terms += [Term(Path(one)) for one in images]
    terms += [term(one, name="plus") for one in more]
    return of_terms([*terms, *(term(one, minus=True, name="minus") for one in less)])


def search_all(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    gallery: Gallery | Place,
    queries: Sequence[Query],
    *,
    top: int | None = None,
    where: str | Where | None = None,
    min_score: float | None = None,
    with_self: bool = True,
    group: str | None = None,
    per_group: int = 1,
    sort: str = "score",
    sure: float | None = None,
    explain: bool = False,
    opening: Opening = Opening(),
    watch: Watch | None = None,
    early: Callable[[Search], None] | None = None,
    today: date | None = None,
) -> Search:
    """Answer several queries over one gallery; everything else as in `search`.

    Cheap checks come first: the filter, the folder, the checkpoint, the data set, and only then weights.
    watch: gives the progress callback of embedding; called with the gallery's name.
    early: called every few seconds, while images are embedded, with the answers so far.
    today: given, each sentence is understood first (`searching.questions`), and "yesterday" is the day before it; then
    a sentence may also say how many hits are wanted, unless `top` does.
    """
    check_limits(TOP if top is None else top, min_score, group, per_group, sort)
    check_sure(sure, queries)
    check_explain(explain, queries)
    fits = parse(where) if isinstance(where, str) else where

    def answered(model: Encoder, gallery: Gallery, *, quiet: bool = False) -> Search:
        rank = partial(
            _answers_of(gallery),
            model,
            gallery,
            min_score=min_score,
            with_self=with_self,
            group=group,
            per_group=per_group,
            sort=sort,
            sure=sure,
            explain=explain and not quiet,
            quiet=quiet,
        )
        if today is None:
            return Search(rank(queries, top=TOP if top is None else top, where=fits), gallery, model)
        from tbps_cli.searching.questions import ask  # its grammars take a moment to compile

        found = [ask(rank, gallery, query, today=today, top=top, where=fits) for query in queries]
        return Search(found, gallery, model)

    if isinstance(gallery, Gallery):
        device, sets, words, data_root = opening.device, opening.sets, opening.words, opening.data_root
        model = opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root)
    else:
        if sure is not None:
            checkpoint, opening = find(checkpoint, opening.sets), replace(opening, sets=())
            require_calibration(checkpoint, sure)
        grown = None if early is None else _Early(answered, early)
        model, gallery = open_gallery(checkpoint, gallery, opening, watch=watch, grown=grown)
    return answered(model, gallery)


def _answers_of(gallery: Gallery) -> Callable[..., list[Answer]]:
    """How questions about a gallery are answered; nothing that asks a database is imported for any other."""
    if type(gallery) is Gallery:
        return answers
    from tbps_cli.searching.remote import answers as of_any

    return of_any


class _Early:
    """Answers over a gallery that is still growing, as often as takes little of the time that embedding has."""

    def __init__(self, answered: Callable[..., Search], seen: Callable[[Search], None]) -> None:
        self.answered, self.seen = answered, seen
        self.next = 0.0

    def __call__(self, model: Encoder, so_far: Gallery) -> None:
        began = time.monotonic()
        if began < self.next or not len(so_far):
            return
        try:
            self.seen(self.answered(model, so_far, quiet=True))
        except TbpsError:  # such as a filter by a column of which no row so far has a value: told at the end
            return
        now = time.monotonic()
        self.next = now + _SHARE * (now - began)


def open_gallery(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    place: Place = None,
    opening: Opening = Opening(),
    *,
    watch: Watch | None = None,
    grown: Callable[[Encoder, Gallery], None] | None = None,
) -> tuple[Encoder, Gallery]:
    """A model and the images that it searches.

    place: what `searching.sources` takes (a folder, a video, a list, ...), several of them, the name of a gallery,
    all of which are brought up to date; or an index file as it is. Left out, a split of the data set that the model
    was trained on. watch: as in `search_all`. grown: called every few seconds, while images are embedded, with the
    gallery as far as it is.
    """
    places = [] if place is None else [place] if isinstance(place, str | Path) else list(place)
    if any(map(is_url, places)):
        from tbps_cli.searching.database_gallery import database_gallery, open_remote

        owner, database = find(checkpoint, opening.sets), open_remote(places)
        device, words, data_root = opening.device, opening.words, opening.data_root
        model = ready_encoder(owner, device=device, words=words, data_root=data_root, by_graph=True)
        return model, database_gallery(database, model, None if opening.root is None else expanded(Path(opening.root)))
    index_file = index_file_of(places)
    root = None if opening.root is None else Path(opening.root).expanduser()
    if index_file:
        read_index(index_file)
    elif root is not None:
        raise UsageError(f"--root {opening.root}: only an index file has images elsewhere.", "Name it: --in FILE")
    name, places = named(places)
    given = _sources(places, name) if places and not index_file else None
    owner = find(checkpoint, opening.sets)
    device, words, data_root, split = opening.device, opening.words, opening.data_root, opening.split
    opened_model = partial(ready_encoder, owner, device=device, words=words, data_root=data_root, by_graph=True)
    if index_file:
        model = opened_model()
        return model, open_index(model, index_file, root=root)
    if given is None:
        hint = "Name a folder: --in DIR"
        part = open_data(owner, split=split, data_root=data_root, hint=hint)[0].split(split)
        from tbps_cli.searching.dataset import of_split

        model = opened_model()
        with watch(f"{part.dataset} {split}") if watch else nullcontext() as progress:
            return model, of_split(model, part, workers=opening.workers, progress=progress)
    from tbps_cli.searching.index import index  # what embeds images is not imported to search an index file

    model = opened_model()
    from tbps_cli.models.exported import ExportedModel

    if isinstance(model, ExportedModel):
        model.open_text()
    with watch(name or ", ".join(map(str, places))) if watch else nullcontext() as progress:
        return model, index(
            model,
            given,
            footage=opening.footage,
            download=opening.download,
            refresh=opening.refresh,
            precision=opening.precision,
            workers=opening.workers,
            progress=progress,
            grown=None if grown is None else partial(grown, model),
            codes=False,
        )


def index_file_of(places: Sequence[str | Path]) -> Path | None:
    """The index file that is searched, when it is one. Raises UsageError for one among other sources."""
    indexes = [path for path in map(expanded, map(Path, places)) if is_index_file(path)]
    if indexes and len(places) > 1:
        raise UsageError(f"--in {indexes[0]}: an index is searched alone.", "Name the sources themselves.")
    return indexes[0] if indexes else None


def _sources(places: Sequence[str | Path], gallery: str | None) -> Sources:
    """What is searched. Raises DataError for a source that is not there, before anything else is opened."""
    try:
        return find_sources(places, gallery=gallery)
    except DataError as error:
        if gallery is not None:
            hint = f"Bring it back, or define it again: tbps index --gallery {gallery} SOURCE..."
            raise DataError(f"--in {gallery}: of its sources, {error.message}", hint) from None
        raise DataError(f"--in {error.message}", error.hint) from None
