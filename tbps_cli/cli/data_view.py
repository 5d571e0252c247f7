"""What `tbps prepare-data` found, as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tbps_cli.amounts import amount
from tbps_cli.cli.render import line, table

if TYPE_CHECKING:
    from tbps_cli.prepare.check import CheckReport
    from tbps_cli.prepare.street import DrawnStreet


def show(report: CheckReport) -> None:
    """What `tbps prepare-data` found: counts, troubles, the audit, and where things were written."""
    title = f"{report.name}  {report.root}"
    headings = ["split", "persons", "images", "captions"] + ["official"] * bool(report.official)
    rows = []
    for name in dict.fromkeys([*report.splits, *report.official]):
        found, wanted = report.splits.get(name, (0, 0, 0)), report.official.get(name)
        row = [name, *(f"{count:,}" for count in found)]
        rows.append(row + [_compared(found, wanted)] * bool(report.official))
    table(headings, rows, right=headings[1:4], title=title)
    line()
    line(f"sizes: width {_range(report.width)}, height {_range(report.height)} pixels")
    for kind in ("missing", "unreadable", "truncated", "duplicates", "empty_captions"):
        trouble = getattr(report, kind)
        first = f" (first: {', '.join(trouble.examples)})" if trouble.count else ""
        style = None if not trouble.count else "red" if kind in ("missing", "unreadable") else "yellow"
        line(f"{kind.replace('_', ' ')}: {trouble.count:,}{first}", style=style)
    for text in report.notes:
        line(f"note: {text}")
    _audit_lines(report)
    if report.store:
        line(f"decoded images: {report.store}")
    if report.file:
        line(f"report: {report.file}")
    if report.counts_agree is False:
        line("the counts differ from the published ones, so scores are not comparable", style="yellow")
    line(
        "ready" if not report.broken else f"{amount(report.broken, 'image is', 'images are')} missing or unreadable",
        style="bold",
    )


def show_street(drawn: DrawnStreet) -> None:
    """What the drawn street holds, and the commands that use it."""
    headings = ["clip", "start", "frames", "tracks", "boxes"]
    rows = [
        [clip["clip"], clip["start"].partition("T")[2], *(f"{clip[key]:,}" for key in headings[2:])]
        for clip in drawn.clips
    ]
    table(headings, rows, right=headings[2:], title=f"street  {drawn.folder}")
    line()
    width, height = drawn.street.size
    stills = sum(clip["single_frames"] for clip in drawn.clips)
    line(f"{amount(drawn.persons, 'person')} seen, {width} x {height} pixels, {drawn.street.rate} frames a second")
    line(f"truth: clips/*.json; {amount(stills, 'single frame')} in frames/; queries.jsonl: {drawn.queries} sentences")
    line("ready", style="bold")


def _audit_lines(report: CheckReport) -> None:
    if report.findings is None:
        return
    line()
    headings = ["audit", "count", "what it means"]
    rows = [[finding.kind, f"{finding.count:,}", finding.meaning] for finding in report.findings]
    table(headings, rows, right=["count"], prose=headings[2:])
    for finding in report.findings:
        for example in finding.examples:
            line(f"  {finding.kind}: {example}")
    if not report.excluded:
        line("nothing to leave out of training")
        return
    if report.exclude is None:
        line(f"{report.excluded:,} training entries to leave out, but the list could not be written")
        return
    line(f"{report.excluded:,} training entries listed in {report.exclude}")
    line(f"leave them out with: --set data.exclude={report.exclude}")


def _compared(found: tuple[int, int, int], wanted: tuple[int, int, int] | None) -> str:
    if found == wanted:
        return "as published"
    return "not in the published set" if wanted is None else "published: " + " / ".join(f"{n:,}" for n in wanted)


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}-{ends[1]:,}"
