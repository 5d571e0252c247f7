"""`tbps search`: the images that fit a sentence, in a folder, an index or the run's own test set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli.options import GalleryOptions
from tbps_cli.cli.search_options import (
    AnswerForm,
    AnswerFormat,
    AsCsv,
    AsJson,
    AsPaths,
    Audit,
    BlurHeads,
    CopyTo,
    Explain,
    GroupBy,
    Html,
    Images,
    Interactive,
    MinScore,
    Minus,
    NoIndex,
    Now,
    Null,
    PerGroup,
    Places,
    PlainQuery,
    Plus,
    Queries,
    Root,
    SearchedSplit,
    Sentence,
    ShowImages,
    SortBy,
    Split,
    SureOption,
    Top,
    Where,
    WholeFrames,
    WithSelf,
)
from tbps_cli.databases.urls import shown_place
from tbps_cli.searching.orders import GroupedBy, SortedBy

if TYPE_CHECKING:
    from tbps_cli.searching.audit import AuditLog
    from tbps_cli.searching.query import Query
    from tbps_cli.searching.ranking import Answer
    from tbps_cli.searching.search import Opening, Search
    from tbps_cli.searching.session import Dialogue


def command(
    sentence: Sentence = None,
    places: Places = None,
    root: Root = None,
    no_index: NoIndex = False,
    split: Split = SearchedSplit.test,
    image: Images = None,
    with_self: WithSelf = False,
    plus: Plus = None,
    minus: Minus = None,
    plain_query: PlainQuery = False,
    queries: Queries = None,
    interactive: Interactive = False,
    top: Top = None,
    where: Where = None,
    min_score: MinScore = None,
    group: GroupBy = None,
    per_group: PerGroup = 1,
    sort: SortBy = SortedBy.score,
    sure: SureOption = None,
    explain: Explain = False,
    now: Now = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_paths: AsPaths = False,
    null: Null = False,
    form: AnswerFormat = None,
    html: Html = None,
    copy_to: CopyTo = None,
    whole_frames: WholeFrames = False,
    show_images: ShowImages = None,
    blur_heads: BlurHeads = False,
    audit: Audit = None,
    *,
    made: GalleryOptions,
) -> None:
    """Rank images for a sentence, an image, or both."""
    from tbps_cli.cli import consent, render
    from tbps_cli.cli.keeping import keep_tower
    from tbps_cli.errors import UsageError
    from tbps_cli.searching.search import Opening, search_all

    output_form = _form(as_json=as_json, as_csv=as_csv, as_paths=as_paths, null=null, challenge=form)
    if form is not None:
        if group not in (None, GroupedBy.track):
            raise UsageError(f"--format {form} ranks tracks, so --group {group} has no place in it.")
        group, top = GroupedBy.track, top or sys.maxsize
    if interactive and (output_form or html or copy_to or queries):
        raise UsageError("-i answers at the terminal alone.", "In it, html FILE and copy DIR write the hits.")
    stated = sentence or [], image or [], plus or [], minus or []
    asked = [] if interactive and not any(stated) else _queries(*stated, queries)
    log = None
    if audit:
        from tbps_cli.searching.audit import AuditLog

        log = AuditLog(audit)
    out = _Output(output_form, html, copy_to, whole_frames, blur_heads, show_images, log)
    out.check(interactive=interactive)
    opening = Opening(split.value, root=root, refresh=not no_index, **made.indexing, **made.model)
    if now and (interactive or queries is not None):
        raise UsageError("--now shows one answer: leave out --queries and -i.", "Give one sentence.")
    if interactive:
        from tbps_cli.searching.session import Dialogue

        terms = asked[0].terms if asked else ()
        start = Dialogue(terms, where, top, group, per_group, sort, min_score, with_self, sure, explain=explain)
        raise typer.Exit(_talk(made.ckpt, places, start, opening, out, understood=not plain_query))
    live = None
    if now:
        from tbps_cli.cli.live_view import LiveView

        live = LiveView()
    answer = partial(
        search_all,
        gallery=places,
        queries=asked,
        top=top,
        where=where,
        min_score=min_score,
        with_self=with_self,
        group=group,
        per_group=per_group,
        sort=sort,
        sure=sure,
        explain=explain,
        opening=opening,
        watch=live.watch if live else _progress,
        early=live.early if live and render.moving() else None,
        today=None if plain_query or queries is not None else date.today(),
    )
    searched = map(shown_place, places or ["DIR"])
    typed = ["tbps", "search", *([" ".join(sentence)] if sentence else []), "--in", *searched]
    found = consent.with_weights(answer, made.ckpt, typed, download=made.download)
    out.show(found, asked, where, several=queries is not None)
    keep_tower(found.model)


def _form(*, as_json: bool, as_csv: bool, as_paths: bool, null: bool, challenge: AnswerForm | None) -> str | None:
    """What is printed for programs: json, csv, paths, null (paths that end with a NUL byte) or a challenge's name."""
    from tbps_cli.errors import UsageError

    if as_json + as_csv + (as_paths or null) + (challenge is not None) > 1:
        raise UsageError("--json, --csv, --paths and --format exclude each other.", "Leave all but one out.")
    chosen = {"null": null, "paths": as_paths, "json": as_json, "csv": as_csv}
    return next((name for name, given in chosen.items() if given), challenge and challenge.value)


def _queries(words: list[str], images: list[Path], plus: list[str], minus: list[str], file: Path | None) -> list[Query]:
    from tbps_cli.errors import UsageError
    from tbps_cli.searching import sums

    if file is None:
        return [sums.query(words, images, plus, minus)]
    if words or images or plus or minus:
        raise UsageError("--queries and a single query exclude each other.", "Leave one of them out.")
    from tbps_cli.searching.queries import read_queries

    return read_queries(file)


def _progress(name: str) -> AbstractContextManager[Callable[[int, int], None]]:
    from tbps_cli.cli import render

    return render.progress(f"Embedding {name}", "images", listing=f"Listing {name}")


@dataclass(frozen=True)
class _Output:
    """Where the hits go, and how they are shown there."""

    form: str | None
    """See `_form`; None: tables."""
    html: Path | None
    copy_to: Path | None
    whole_frames: bool
    blur: bool
    images: bool | None
    log: AuditLog | None

    @property
    def files(self) -> list[Path]:
        """The page and the folder that are written."""
        return [path for path in (self.html, self.copy_to) if path]

    def check(self, *, interactive: bool) -> None:
        """Raises TbpsError for what cannot be written, before anything is searched."""
        from tbps_cli.errors import UsageError
        from tbps_cli.files import check_new_file, check_new_folder

        check_new_file("--html", self.html, (".html", ".htm"))
        if self.copy_to:
            check_new_folder("--copy-to", self.copy_to, inside=True)
        elif self.whole_frames and not interactive:
            raise UsageError("--whole-frames says what is copied.", "Name a folder as well: --copy-to DIR")
        if self.log:
            self.log.check()

    def show(self, found: Search, asked: Sequence[Query], where: str | None, *, several: bool) -> None:
        """Log, write and print the answers; where: the filter that was stated; several: JSON is a list of answers."""
        from tbps_cli.cli import render, search_view

        search_view.index_line(found.gallery)
        if self.form == AnswerForm.aicity:
            from tbps_cli.searching.challenge import check_tracks

            check_tracks(found.gallery)
        self.record(found, [str(query) for query in asked], where)
        search_view.understood(found.answers)
        # Files first: whoever reads the output may leave early (tbps search ... | head).
        self.save(found, where)
        if self.form is None:
            search_view.hits(found.answers, found.gallery, images=self.images, blur=self.blur)
        else:
            _print(found, self.form, several=several)
        if not any(answer.hits or answer.sure for answer in found.answers):
            render.note("No image fits." if found.gallery else "There are no images.")
            search_view.unmet_values(found.answers[0], found.gallery, where)

    def record(self, found: Search, asked: Sequence[str], where: str | None) -> None:
        """Log who asked what, and the hits."""
        if self.log:
            from tbps_cli.searching.audit import entries

            self.log.append(entries(found.answers, found.gallery, asked=asked, filtered=where, written=self.files))

    def save(self, found: Search, where: str | None) -> None:
        """Write the page and the copies."""
        if not self.files:
            return
        from tbps_cli.cli import output, render
        from tbps_cli.files import write_bytes
        from tbps_cli.searching.hits import copy_hits, page
        from tbps_cli.searching.thumbnails import ThumbnailCache

        answers, gallery = found.answers, found.gallery
        if self.html:
            with render.progress("Thumbnails") as progress:
                text = page(
                    answers,
                    gallery,
                    gallery.run,
                    filtered=where,
                    blur=self.blur,
                    cache=ThumbnailCache(),
                    progress=progress,
                )
            write_bytes(self.html, text.encode("utf-8", "replace"))
            output.stdout.written.append(str(self.html))
            render.note(f"Written: {self.html}")
        if self.copy_to:
            copied = copy_hits(answers, gallery, self.copy_to, whole_frames=self.whole_frames, blur=self.blur)
            render.note(f"Copied: {amount(copied, 'image')} to {self.copy_to}")
            output.stdout.written.append(str(self.copy_to))


def _print(found: Search, form: str, *, several: bool) -> None:
    from tbps_cli.cli import output, render
    from tbps_cli.searching import document

    if form == "json":
        documents = [document.document(answer, found.gallery, found.gallery.run) for answer in found.answers]
        render.document(documents if several else documents[0])
    elif form == "csv":
        output.stdout.write_exactly(document.table(found.answers))
    elif form == AnswerForm.aicity:
        from tbps_cli.searching.challenge import ranked_tracks

        render.document(ranked_tracks(found.answers, found.gallery))
    else:
        output.stdout.write_bytes(document.paths(found.answers, b"\0" if form == "null" else b"\n"))


def _talk(
    ckpt: Path | None,
    places: list[str] | None,
    start: Dialogue,
    opening: Opening,
    out: _Output,
    *,
    understood: bool,
) -> int:
    """The dialogue of -i; understood: sentences are read for cameras, times and so on. Returns the exit status."""
    from tbps_cli.cli import consent, search_view
    from tbps_cli.cli.interactive import Drawing, talk
    from tbps_cli.cli.keeping import keep_tower
    from tbps_cli.errors import UsageError
    from tbps_cli.filtering.parse import parse
    from tbps_cli.searching.ranking import TOP, check_limits
    from tbps_cli.searching.search import Search, open_gallery
    from tbps_cli.searching.session import Session

    check_limits(start.top or TOP, start.min_score, start.group, start.per_group, start.sort)
    if start.where:
        parse(start.where)
    if "-" in (places or ()):
        raise UsageError("--in -: with -i standard input is what is asked.", "Name the sources themselves.")
    opened = partial(open_gallery, place=places, opening=opening, watch=_progress)
    call = ["tbps", "search", "-i", "--in", *map(shown_place, places or ["DIR"])]
    model, gallery = consent.with_weights(opened, ckpt, call, download=opening.download)
    search_view.index_line(gallery)

    def record(line: str, answer: Answer, where: str | None) -> None:
        out.record(Search([answer], gallery), [line], where)

    def save(line: str, answer: Answer, where: str | None, html: Path | None, folder: Path | None) -> None:
        found, wished = Search([answer], gallery), replace(out, html=html, copy_to=folder)
        wished.record(found, [line], where)
        wished.save(found, where)

    today = date.today if understood else None
    session = Session(model, gallery, start, today=today, record=record)
    status = talk(session, save, Drawing(out.images, out.blur, out.whole_frames))
    keep_tower(model)
    return status
