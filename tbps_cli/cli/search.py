"""`tbps search`: the images that fit a sentence, in a folder, an index or the run's own test set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli.options import (
    Ckpt,
    DataRoot,
    Detect,
    Detector,
    Device,
    Download,
    Every,
    ImagePrecision,
    Json,
    Pattern,
    Precision,
    Sets,
    Words,
    Workers,
)
from tbps_cli.searching.orders import GroupedBy, SortedBy

if TYPE_CHECKING:
    from tbps_cli.cli.interactive import Drawing
    from tbps_cli.searching.audit import AuditLog
    from tbps_cli.searching.query import Query
    from tbps_cli.searching.ranking import Answer
    from tbps_cli.searching.search import Search
    from tbps_cli.searching.session import Dialogue


class AnswerForm(StrEnum):
    aicity = "aicity"


class SearchedSplit(StrEnum):
    train = "train"
    val = "val"
    test = "test"


Sentence = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERY",
        help="What the person looks like, in a sentence; quotes are not needed. Sums: red coat + ./it.jpg - 0.8:bag.",
    ),
]
Places = Annotated[
    list[str] | None,
    typer.Option(
        "--in",
        metavar="SOURCE",
        help="A folder, a video, an image, a pattern, a list, an index or the name of a gallery; repeatable. "
        "Default: the run's own test set.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option("--top", "-t", metavar="N", min=1, help="How many images to show; 10, or what the sentence says."),
]
PlainQuery = Annotated[
    bool,
    typer.Option(
        "--plain-query", help="Take the sentence as it is: no cameras, times, counts or negations are read in it."
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="An image to search by, alone or with the sentence; repeatable."),
]
WithSelf = Annotated[bool, typer.Option("--with-self", help="With --image: let such images be among the hits.")]
Plus = Annotated[
    list[str] | None,
    typer.Option(
        "--plus",
        "--add",
        "-a",
        metavar="TERM",
        help="Add this to the query: a sentence or ./image.jpg, with a weight if it begins with one (0.5:TERM).",
    ),
]
Minus = Annotated[
    list[str] | None,
    typer.Option(
        "--minus",
        "--subtract",
        "--sub",
        "-s",
        metavar="TERM",
        help="Steer away from this; as --plus, its weight is 0.5 unless it begins with one. Repeatable.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPR", help="Only images for which this is true, e.g. 'camera == \"c1\"'."),
]
MinScore = Annotated[
    float | None,
    typer.Option("--min-score", metavar="X", help="Leave out images whose cosine similarity is lower."),
]
GroupBy = Annotated[
    GroupedBy | None,
    typer.Option("--group", help="One hit for each person, ... instead of each image; --top counts them."),
]
PerGroup = Annotated[int, typer.Option("--per-group", metavar="N", min=1, help="So many images of each group.")]
SortBy = Annotated[SortedBy, typer.Option("--sort", help="Show the best by their score, or in order of time.")]
SureOption = Annotated[
    float | None,
    typer.Option(
        "--sure",
        metavar="P",
        help="Only the smallest set of images that holds the person with this probability, e.g. 0.9; or the finding "
        "that there is no confident match. Needs tbps eval --calibration once.",
    ),
]
Interactive = Annotated[
    bool,
    typer.Option("--interactive", "-i", help="Type, see, refine: the model is loaded once; help lists the commands."),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Say of each hit which words of the sentence it supports, and in --json and --html where in the image.",
    ),
]
Now = Annotated[
    bool, typer.Option("--now", help="While images are embedded, show the best of those so far (on a terminal).")
]
Queries = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        metavar="FILE",
        help="Many queries at once: a text file with one a line, JSON, JSONL or CSV; - is standard input.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Where the images of an index lie now, if they were moved."),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the hits as CSV.")]
AnswerFormat = Annotated[
    AnswerForm | None,
    typer.Option("--format", help="Print the hits in the form of a challenge: all tracks, ranked for each query."),
]
AsPaths = Annotated[bool, typer.Option("--paths", "-f", help="Print only the paths of the hits, one a line.")]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Like --paths, but each path ends with a NUL byte, for xargs -0.")
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the hits to a self-contained page with thumbnails."),
]
CopyTo = Annotated[
    Path | None,
    typer.Option("--copy-to", metavar="DIR", help="Copy the hits into a new folder; of videos and frames the crops."),
]
WholeFrames = Annotated[
    bool, typer.Option("--whole-frames", help="With --copy-to: copy the whole frames instead of crops.")
]
BlurHeads = Annotated[
    bool, typer.Option("--blur-heads", help="No heads in pages, copies and the terminal; see docs/responsible-use.md.")
]
ShowImages = Annotated[
    bool | None,
    typer.Option(
        "--images/--no-images",
        help="Small images above the table. Default: in terminals known to show images; never in pipes.",
    ),
]
Audit = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        envvar="TBPS_AUDIT",
        help="Append who asked what, when, and the hits to this log; without its line there is no answer.",
    ),
]
NoIndex = Annotated[
    bool,
    typer.Option("--no-index", "--no-indexing", "-n", help="Search the index as it is: no look for new files."),
]
Split = Annotated[SearchedSplit, typer.Option("--split", help="Without --in: which split of the data set is searched.")]


def command(
    sentence: Sentence = None,
    places: Places = None,
    ckpt: Ckpt = None,
    top: Top = None,
    plain_query: PlainQuery = False,
    image: Images = None,
    with_self: WithSelf = False,
    plus: Plus = None,
    minus: Minus = None,
    where: Where = None,
    min_score: MinScore = None,
    group: GroupBy = None,
    per_group: PerGroup = 1,
    sort: SortBy = SortedBy.score,
    sure: SureOption = None,
    explain: Explain = False,
    queries: Queries = None,
    interactive: Interactive = False,
    now: Now = False,
    as_json: Json = False,
    as_csv: AsCsv = False,
    as_paths: AsPaths = False,
    form: AnswerFormat = None,
    null: Null = False,
    html: Html = None,
    copy_to: CopyTo = None,
    whole_frames: WholeFrames = False,
    blur_heads: BlurHeads = False,
    show_images: ShowImages = None,
    audit: Audit = None,
    root: Root = None,
    detect: Detect = None,
    every: Every = None,
    detector: Detector = None,
    pattern: Pattern = None,
    download: Download = False,
    no_index: NoIndex = False,
    precision: ImagePrecision = Precision.auto,
    split: Split = SearchedSplit.test,
    data_root: DataRoot = None,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    workers: Workers = None,
) -> None:
    """Rank images for a sentence, an image, or both."""
    from tbps_cli.amounts import seconds
    from tbps_cli.cli import consent, render, search_view
    from tbps_cli.cli.live_view import LiveView
    from tbps_cli.errors import UsageError
    from tbps_cli.files import check_new_file, check_new_folder
    from tbps_cli.searching.audit import AuditLog
    from tbps_cli.searching.challenge import check_tracks, ranked_tracks
    from tbps_cli.searching.index_state import FootageSettings
    from tbps_cli.searching.search import search_all

    if as_json + as_csv + (as_paths or null) + (form is not None) > 1:
        raise UsageError("--json, --csv, --paths and --format exclude each other.", "Leave all but one out.")
    if form is not None:
        if group not in (None, GroupedBy.track):
            raise UsageError(f"--format {form} ranks tracks, so --group {group} has no place in it.")
        group, top = GroupedBy.track, top or sys.maxsize
    if interactive and (as_json or as_csv or as_paths or null or form or html or copy_to or queries):
        raise UsageError("-i answers at the terminal alone.", "In it, html FILE and copy DIR write the hits.")
    opening = sentence or [], image or [], plus or [], minus or []
    asked = [] if interactive and not any(opening) else _queries(*opening, queries)
    check_new_file("--html", html, (".html", ".htm"))
    if copy_to:
        check_new_folder("--copy-to", copy_to, inside=True)
    elif whole_frames and not interactive:
        raise UsageError("--whole-frames says what is copied.", "Name a folder as well: --copy-to DIR")
    log = AuditLog(audit) if audit else None
    if log:
        log.check()
    live = LiveView()
    opening_options: dict[str, Any] = {
        "split": split.value,
        "data_root": data_root,
        "device": device,
        "sets": sets or (),
        "words": words,
        "workers": workers,
        "root": root,
        "footage": FootageSettings(detect, None if every is None else seconds("--every", every), detector, pattern),
        "download": download,
        "refresh": not no_index,
        "precision": precision.value,
        "watch": live.watch if now else lambda name: render.progress(f"Embedding {name}", "images"),
    }
    if now and (interactive or queries is not None):
        raise UsageError("--now shows one answer: leave out --queries and -i.", "Give one sentence.")
    if interactive:
        from tbps_cli.cli.interactive import Drawing
        from tbps_cli.searching.session import Dialogue

        terms = asked[0].terms if asked else ()
        start = Dialogue(terms, where, top, group, per_group, sort, min_score, with_self, sure, explain=explain)
        drawing = Drawing(show_images, blur_heads, whole_frames)
        today = None if plain_query else date.today
        raise typer.Exit(_talk(ckpt, places, start, opening_options, drawing, log, today))
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
        early=live.early if now and render.moving() else None,
        today=None if plain_query or queries is not None else date.today(),
        **opening_options,
    )
    typed = ["tbps", "search", *([" ".join(sentence)] if sentence else []), "--in", *(places or ["DIR"])]
    found = consent.with_weights(answer, ckpt, typed, download=download)
    search_view.index_line(found.gallery)
    if form is not None:
        check_tracks(found.gallery)
    if log:
        _audit(log, found, asked, where, [path for path in (html, copy_to) if path])
    search_view.understood(found.answers)
    # Files first: whoever reads the output may leave early (tbps search ... | head).
    _save(found, html, copy_to, where=where, whole_frames=whole_frames, blur=blur_heads)
    if form is not None:
        render.document(ranked_tracks(found.answers, found.gallery))
    elif as_json or as_csv or as_paths or null:
        _print(found, "json" if as_json else "csv" if as_csv else "paths", null, queries)
    else:
        search_view.hits(found.answers, found.gallery, images=show_images, blur=blur_heads)
    if not any(answer.hits or answer.sure for answer in found.answers):
        render.note("No image fits." if found.gallery else "There are no images.")
        search_view.unmet_values(found.answers[0], found.gallery, where)


def _queries(words: list[str], images: list[Path], plus: list[str], minus: list[str], file: Path | None) -> list[Query]:
    from tbps_cli.errors import UsageError
    from tbps_cli.searching import sums
    from tbps_cli.searching.queries import read_queries

    if file is None:
        return [sums.query(words, images, plus, minus)]
    if words or images or plus or minus:
        raise UsageError("--queries and a single query exclude each other.", "Leave one of them out.")
    return read_queries(file)


def _print(found: Search, form: str, null: bool, queries: Path | None) -> None:
    from tbps_cli.cli import output, render
    from tbps_cli.searching import document

    if form == "json":
        documents = [document.document(answer, found.gallery, found.gallery.run) for answer in found.answers]
        render.document(documents if queries is not None else documents[0])
    elif form == "csv":
        output.stdout.write_exactly(document.table(found.answers))
    else:
        output.stdout.write_bytes(document.paths(found.answers, b"\0" if null else b"\n"))


def _audit(log: AuditLog, found: Search, asked: Sequence[Query], where: str | None, written: Sequence[Path]) -> None:
    from tbps_cli.searching.audit import entries

    questions = [str(query) for query in asked]
    log.append(entries(found.answers, found.gallery, asked=questions, filtered=where, written=written))


def _talk(
    ckpt: Path | None,
    places: list[str] | None,
    start: Dialogue,
    options: dict[str, Any],
    drawing: Drawing,
    log: AuditLog | None,
    today: Callable[[], date] | None,
) -> int:
    """The dialogue of -i; options: those of `open_gallery`. Returns the exit status."""
    from tbps_cli.cli import consent, search_view
    from tbps_cli.cli.interactive import talk
    from tbps_cli.errors import UsageError
    from tbps_cli.filtering.parse import parse
    from tbps_cli.searching.audit import entries
    from tbps_cli.searching.ranking import TOP, check_limits
    from tbps_cli.searching.search import Search, open_gallery
    from tbps_cli.searching.session import Session

    check_limits(start.top or TOP, start.min_score, start.group, start.per_group, start.sort)
    if start.where:
        parse(start.where)
    if "-" in (places or ()):
        raise UsageError("--in -: with -i standard input is what is asked.", "Name the sources themselves.")
    opened = partial(open_gallery, place=places, **options)
    typed = ["tbps", "search", "-i", "--in", *(places or ["DIR"])]
    model, gallery = consent.with_weights(opened, ckpt, typed, download=options["download"])
    search_view.index_line(gallery)

    def record(line: str, answer: Answer, where: str | None, written: Sequence[Path] = ()) -> None:
        if log:
            log.append(entries([answer], gallery, asked=[line], filtered=where, written=written))

    def save(line: str, answer: Answer, where: str | None, html: Path | None, folder: Path | None) -> None:
        record(line, answer, where, [path for path in (html, folder) if path])
        found = Search([answer], gallery)
        _save(found, html, folder, where=where, whole_frames=drawing.whole_frames, blur=drawing.blur)

    return talk(Session(model, gallery, start, today=today, record=record), save, drawing)


def _save(
    found: Search, html: Path | None, copy_to: Path | None, *, where: str | None, whole_frames: bool, blur: bool
) -> None:
    from tbps_cli.cli import output, render
    from tbps_cli.files import write_bytes
    from tbps_cli.searching.hits import copy_hits, page
    from tbps_cli.searching.thumbnails import ThumbnailCache

    answers, gallery = found.answers, found.gallery
    if html:
        with render.progress("Thumbnails") as progress:
            text = page(
                answers,
                gallery,
                gallery.run,
                filtered=where,
                blur=blur,
                cache=ThumbnailCache(),
                progress=progress,
            )
        write_bytes(html, text.encode("utf-8", "replace"))
        output.stdout.written.append(str(html))
        render.note(f"Written: {html}")
    if copy_to:
        copied = copy_hits(answers, gallery, copy_to, whole_frames=whole_frames, blur=blur)
        render.note(f"Copied: {amount(copied, 'image')} to {copy_to}")
        output.stdout.written.append(str(copy_to))
