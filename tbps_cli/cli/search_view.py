"""What `tbps search` found, and what `tbps index` and `tbps export` did, as a person reads it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tbps_cli.amounts import amount
from tbps_cli.cli.render import document, line, note, table
from tbps_cli.searching.timeline import clip_time

if TYPE_CHECKING:
    from tbps_cli.exporting.agree import Agreement
    from tbps_cli.searching.gallery import Gallery
    from tbps_cli.searching.ranking import Answer
    from tbps_cli.types import Hit


def hits(answers: Sequence[Answer], gallery: Gallery) -> None:
    """The hits of each query as a table; right and wrong ones are marked where the truth is known."""
    for answer in answers:
        marks = [answer.is_right(hit) for hit in answer.hits]
        known = any(mark is not None for mark in marks)
        some_person = any(hit.person is not None for hit in answer.hits)
        grouped = any(hit.members is not None for hit in answer.hits)
        spans = any(hit.first is not None for hit in answer.hits)
        headings = ["rank", "score"] + ["images"] * grouped + ["file"] + ["seen"] * spans
        headings += ["person"] * some_person + [""] * known
        rows = [
            [hit.rank, f"{hit.score:.4f}"]
            + [hit.members] * grouped
            + [hit.path]
            + [_span(hit)] * spans
            + [hit.person] * some_person
            + [{True: "✓", False: "✗", None: ""}[mark]] * known
            for hit, mark in zip(answer.hits, marks, strict=True)
        ]
        line(str(answer.query), style="bold")
        if rows:
            table(headings, rows, right=["rank", "score", "images"], optional=["seen"])
        else:
            line("  no image matches")
    candidates = answers[0].candidates
    some = f"{candidates:,} of " if candidates != len(gallery) else ""
    groups = "" if answers[0].groups is None else f" in {amount(answers[0].groups, 'group')}"
    note(f"{gallery.name}: {some}{amount(len(gallery), 'image')} ranked{groups}")


def _span(hit: Hit) -> str:
    """When a group was seen: `2026-01-05 17:05:00 - 17:09:10`, or the seconds of a video."""
    if isinstance(hit.first, float) and isinstance(hit.last, float):
        first, last = clip_time(hit.first), clip_time(hit.last)
    else:
        first, last = (str(time or "").replace("T", " ") for time in (hit.first, hit.last))
        last = last.removeprefix(first[: len("2026-01-05 ")]) if first != last else last
    return first if first == last else f"{first} - {last}"


def index_line(gallery: Gallery) -> None:
    """One line on what an index did to catch up with its folder; none when there was nothing to do."""
    done = gallery.update
    changes = [f"{done.added:,} added"] * bool(done.added) + [f"{done.removed:,} removed"] * bool(done.removed)
    if changes:
        note(f"{gallery.name}: {amount(len(gallery), 'image')} ({', '.join(changes)})")


def index_report(gallery: Gallery, options: Sequence[str]) -> None:
    """What `tbps index` did; options: with them `tbps search` finds this index and the same model."""
    done = gallery.update
    line(
        f"{gallery.name}: {amount(len(gallery), 'image')}, {done.added:,} added ({done.embedded:,} embedded), "
        f"{done.removed:,} removed, {done.skipped_in_all:,} left out"
    )
    line(f'Search it: tbps search "a man in a white shirt" {shlex.join(options)}')


def exported(out: object, agreement: Agreement | None, *, as_json: bool = False) -> None:
    """Where an export went, and how well it agrees with the model."""
    if as_json:
        document({"out": str(out), "agreement": agreement.document() if agreement else None})
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
