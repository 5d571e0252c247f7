"""What `tbps search` found, and what `tbps index` and `tbps export` did, as a person reads it."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tbps_cli.amounts import amount
from tbps_cli.cli.render import document, grid, line, note, styled, table
from tbps_cli.cli.terminal_images import chosen, strip
from tbps_cli.escape import printable
from tbps_cli.searching.timeline import clip_time

if TYPE_CHECKING:
    from rich.table import Table

    from tbps_cli.cli.terminal_images import Renderable
    from tbps_cli.exporting.agree import Agreement
    from tbps_cli.exporting.push import Pushed
    from tbps_cli.searching.filling import Filled
    from tbps_cli.searching.gallery import Gallery
    from tbps_cli.searching.ranking import Answer
    from tbps_cli.types import Hit

BARS = "▁▂▃▄▅▆▇█"
SHOWN = 24
"""Hits of an answer that are looked at as images in the terminal."""


def hits(answers: Sequence[Answer], gallery: Gallery, *, images: bool | None = False, blur: bool = False) -> None:
    """The hits of each query as a table; right and wrong ones are marked where the truth is known.

    images: whether small images stand above it, see `terminal_images.chosen`; blur: without heads.
    """
    draw = chosen(images)
    for answer in answers:
        line(str(answer.query), style="bold")
        if answer.hits:
            if draw:
                _images(answer, gallery, draw, blur)
            columns = {name: values for name, values in _columns(answer).items() if any(values)}
            table(
                list(columns),
                list(zip(*columns.values(), strict=True)),
                right=["rank", "score", "above", "z", "likely", "images", "at"],
                optional=["z", "above", "seen", *(["track"] if "at" in columns else [])],
            )
        elif answer.sure is None:
            line("  no image matches")
        if any(hit.explain for hit in answer.hits):
            _words(answer.hits)
        if answer.sure is not None:
            line(answer.sure.sentence(len(answer.hits)))
    candidates = answers[0].candidates
    some = f"{candidates:,} of " if candidates != len(gallery) else ""
    groups = "" if answers[0].groups is None else f" in {amount(answers[0].groups, 'group')}"
    note(f"{gallery.name}: {some}{amount(len(gallery), 'image')} ranked{groups}")


def _words(hits: Sequence[Hit]) -> None:
    """The words of the query for each hit: a bar for what supports them, struck through where nothing does."""
    most = max(word.support for hit in hits for word in hit.explain)
    line("Words: the higher the bar, the more the image supports the word; struck through: not supported")
    for hit in hits:
        parts: list[tuple[str, str]] = [(f"{hit.rank:>4} ", "")]
        for word in hit.explain:
            if word.support > 0:
                parts += [("  ", ""), (word.word, "bold"), (f" {BARS[int(7.99 * word.support / most)]}", "green")]
            else:
                parts += [("  ", ""), (word.word, "strike"), (f" ({word.instead}?)" if word.instead else "", "")]
        styled(parts, indent=7)


def hit_table(answer: Answer, most: int) -> Table:
    """The first hits as a table of its own."""
    columns = {name: values[:most] for name, values in _columns(answer).items() if any(values[:most])}
    rows = [[printable(value) for value in row] for row in zip(*columns.values(), strict=True)]
    return grid(list(columns), rows, ["rank", "score", "images", "at"], [], [])[0]


def understood(answers: Sequence[Answer]) -> None:
    """What questions were understood as: a line for each thing that was read, doubted or is missing."""
    for answer in answers:
        for name, value in answer.understood.lines if answer.understood else ():
            note(f"{name}: {value}")


def unmet_values(answer: Answer, gallery: Gallery, where: str | None) -> None:
    """Where nothing fits: values that the filter asks for and that no image has, and those that there are."""
    from tbps_cli.filtering.parse import parse
    from tbps_cli.filtering.unmet import unmet
    from tbps_cli.searching.hits import passed

    if (filtered := passed(answer, where)) and not answer.hits:
        for said in unmet(parse(filtered).tree, gallery.columns):
            note(said)


def _span(hit: Hit) -> str:
    """When a group was seen: `2026-01-05 17:05:00 - 17:09:10`, or the seconds of a video."""
    if isinstance(hit.first, float) and isinstance(hit.last, float):
        first, last = clip_time(hit.first), clip_time(hit.last)
    else:
        first, last = (str(time or "").replace("T", " ") for time in (hit.first, hit.last))
        last = last.removeprefix(first[: len("2026-01-05 ")]) if first != last else last
    return first if first == last else f"{first} - {last}"


def _date(hit: Hit) -> str:
    """When a hit was seen; of a plain image without a camera nothing: the time may be that of a copy of its file."""
    return hit.time.replace("T", " ") if hit.time and (hit.camera or hit.source) else ""


def _columns(answer: Answer) -> dict[str, list[str]]:
    """What is known of the hits, by the heading of its column; columns of which nothing is known stay empty."""
    hits = answer.hits
    marks = {True: "✓", False: "✗", None: ""}
    return {
        "rank": [str(hit.rank) for hit in hits],
        "score": [f"{hit.score:.4f}" for hit in hits],
        "above": ["" if hit.percentile is None else f"{hit.percentile:.1f} %" for hit in hits],
        "z": ["" if hit.z is None else f"{hit.z:+.1f}" for hit in hits],
        "likely": ["" if hit.probability is None else f"{100 * hit.probability:.0f} %" for hit in hits],
        "images": ["" if hit.members is None else str(hit.members) for hit in hits],
        "file": [hit.source or hit.path for hit in hits],
        "at": ["" if hit.seconds is None else clip_time(hit.seconds) for hit in hits],
        "camera": [hit.camera or "" for hit in hits],
        "seen": [_span(hit) if hit.first is not None else _date(hit) for hit in hits],
        "track": [hit.track or "" for hit in hits],
        "person": ["" if hit.person is None else str(hit.person) for hit in hits],
        "": [marks[answer.is_right(hit)] for hit in hits],
    }


def _images(answer: Answer, gallery: Gallery, draw: Renderable, blur: bool) -> None:
    """The first hits as small images; what cannot be read is a grey place."""
    from PIL import Image

    from tbps_cli.searching.hits import excerpts
    from tbps_cli.searching.thumbnails import ThumbnailCache, thumbnails

    shown = answer.hits[:SHOWN]
    made = thumbnails([excerpts(hit, gallery)[0] for hit in shown], (320, 384), blur=blur, cache=ThumbnailCache())
    images = [Image.open(io.BytesIO(one.jpeg)) if one.jpeg else Image.new("RGB", (160, 384), "grey") for one in made]
    strip(images, [f"{hit.rank:>2}  {hit.score:.3f}" for hit in shown], draw)


def index_line(gallery: Gallery) -> None:
    """One line on what an index did to catch up with its folder; none when there was nothing to do."""
    done = gallery.update
    changes = [f"{done.added:,} added"] * bool(done.added) + [f"{done.removed:,} removed"] * bool(done.removed)
    if changes:
        note(f"{gallery.name}: {amount(len(gallery), 'image')} ({', '.join(changes)})")


def filled_report(filled: Filled) -> None:
    """What a database was given of the sources."""
    names = ", ".join(f"{name}/" for name in filled.names)
    line(
        f"{filled.title}: {amount(filled.size, 'image')}, {filled.added:,} added, {filled.removed:,} removed; "
        f"the paths of these sources begin with {names}"
    )


def index_report(gallery: Gallery, options: Sequence[str]) -> None:
    """What `tbps index` did; options: with them `tbps search` finds this index and the same model."""
    done = gallery.update
    line(
        f"{gallery.name}: {amount(len(gallery), 'image')}, {done.added:,} added ({done.embedded:,} embedded), "
        f"{done.removed:,} removed, {done.skipped_in_all:,} left out"
    )
    line(f'Search it: tbps search "a man in a white shirt" {shlex.join(options)}')


def exported(out: object, agreement: Agreement | None, pushed: Pushed | None, *, as_json: bool = False) -> None:
    """Where an export went, and how well it agrees with the model."""
    if as_json:
        facts = {"out": str(out), "agreement": agreement.document() if agreement else None}
        document(facts | ({"pushed": asdict(pushed)} if pushed else {}))
        return
    line(f"Exported to {out}", style="bold")
    if agreement:
        rows = [
            ["images", agreement.images, f"{agreement.image_difference:.1e}", f"{agreement.image_angle:.1e}"],
            ["captions", agreement.captions, f"{agreement.text_difference:.1e}", f"{agreement.text_angle:.1e}"],
        ]
        headings = ["compared on", "count", "max |difference|", "max 1 - cosine"]
        table(headings, rows, right=headings[1:])
        line(f"({agreement.source}; allowed: {agreement.tolerance:.0e})")
        if agreement.speed:
            times = ", ".join(f"{what} {value:.1f}" for what, value in agreement.speed.items())
            line(f"int8, times as fast as fp32 on this machine: {times}")
        if agreement.scores:
            line(f"int8: {agreement.scores.sentence()}")
        if agreement.fused:
            line(agreement.fused.sentence())
    if pushed:
        seen = "only you and who you invite can see it" if pushed.private else "everybody can see it"
        line(f"Sent to {pushed.page} ({seen})")
        line("The terms of the training data bind whoever uses the weights; README.md says so there.")
