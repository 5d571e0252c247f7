"""Everything a person looks at: tables, bars, error lines. Results go to stdout, the rest to stderr.

Colour, boxes and bars appear on a terminal only; rich honours NO_COLOR by itself. Rich is imported
inside the functions, so that a command that prints JSON does not wait for it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from tbps_cli.errors import TbpsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tbps_cli.export.agree import Agreement
    from tbps_cli.prepare.check import Report
    from tbps_cli.search.gallery import Gallery
    from tbps_cli.search.query import Answer

WIDE = 200
"""Columns of a line when nobody looks at it: a pipe has no edge to wrap at."""

_consoles: dict[str, tuple[TextIO, Console]] = {}

# Consoles and lines ---------------------------------------------------------------------------


def console(stderr: bool = False) -> Console:
    """The console of stdout or stderr; the same object as long as the stream is (bars need that)."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    name = "stderr" if stderr else "stdout"
    if name not in _consoles or _consoles[name][0] is not stream:
        made = Console(file=stream, highlight=False, soft_wrap=False)
        if not made.is_terminal:
            made = Console(file=stream, highlight=False, width=WIDE)
        _consoles[name] = stream, made
    return _consoles[name][1]


def line(text: str = "", *, stderr: bool = False, style: str | None = None) -> None:
    """One line as it is: no markup is read in it, and it is never wrapped."""
    console(stderr).print(text, style=style, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    line(text, stderr=True)


def document(value: object) -> None:
    """Exactly one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n")


def error(mistake: TbpsError) -> None:
    """The one `Error:` line of a mistake, and its `Hint:` line, on stderr."""
    _labelled("Error:", "bold red", mistake.message)
    if mistake.hint:
        _labelled("Hint:", "bold cyan", mistake.hint)


def _labelled(label: str, style: str, text: str) -> None:
    from rich.text import Text

    console(stderr=True).print(Text.assemble((label, style), " ", text), soft_wrap=True)


class LogLines(logging.Handler):
    """The logger `tbps` on stderr: choices and progress as they are, warnings labelled."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            _labelled(f"{record.levelname.capitalize()}:", "bold yellow", text)
        else:
            note(text)


def show_log() -> None:
    """Let the library's messages reach stderr, once."""
    logger = logging.getLogger("tbps")
    if not any(isinstance(handler, LogLines) for handler in logger.handlers):
        logger.addHandler(LogLines())
    logger.setLevel(logging.INFO)


# Tables and bars ------------------------------------------------------------------------------


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = (), title: str = ""
) -> None:
    """A table on stdout; the columns named in `right` are aligned to the right."""
    console().print(grid(headings, rows, right=right, title=title))


def grid(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = (), title: str = ""
) -> Table:
    """The same table as an object, for callers that put it somewhere themselves."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD if console().is_terminal else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    return made


def facts(pairs: Mapping[str, object], *, title: str = "") -> None:
    """Names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        made.add_row(Text(name, style="bold"), Text("" if value is None else str(value)))
    if title:
        line(title, style="bold")
    console().print(made)


@contextmanager
def progress(title: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, as the callback (done, total) of the library; silent when not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit)] * bool(unit) + [TimeRemainingColumn()]
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def status(title: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, as a callback that renews it; silent when not a terminal."""
    from rich.status import Status

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda text: None
        return
    with Status(title, console=screen) as shown:
        yield lambda text: shown.update(f"{title}: {text}")


def bytes_text(size: float) -> str:
    """1536 -> "1.5 KB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def millions(count: int) -> str:
    """149617664 -> "149.6 M"."""
    return f"{count / 1e6:.1f} M"


# Data sets ------------------------------------------------------------------------------------


def data_report(report: Report) -> None:
    """What `tbps prepare-data` found: counts, troubles, the audit, and where things were written."""
    title = f"{report.name}  {report.root}"
    headings = ["split", "identities", "images", "captions"] + ["official"] * bool(report.official)
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
        line(f"pre-decoded images: {report.store}")
    if report.file:
        line(f"report: {report.file}")
    if report.counts_agree is False:
        line("the counts are not the published ones: scores will not be comparable", style="yellow")
    line("ready" if not report.broken else f"{report.broken:,} images cannot be used", style="bold")


def _audit_lines(report: Report) -> None:
    if report.findings is None:
        return
    line()
    table(
        ["audit", "count", "what it means"],
        [[finding.kind, f"{finding.count:,}", finding.meaning] for finding in report.findings],
        right=["count"],
    )
    for finding in report.findings:
        for example in finding.examples:
            line(f"  {finding.kind}: {example}")
    line(f"{report.excluded:,} training entries listed in {report.exclude}")
    line(f"leave them out with: --set data.exclude={report.exclude}")


def _compared(found: tuple[int, int, int], wanted: tuple[int, int, int] | None) -> str:
    if found == wanted:
        return "as published"
    return "not in the published set" if wanted is None else "published: " + " / ".join(f"{n:,}" for n in wanted)


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}-{ends[1]:,}"


# Searches and exports -------------------------------------------------------------------------


def hits(answers: Sequence[Answer], gallery: Gallery) -> None:
    """The hits of each query as a table; right and wrong ones are marked where the truth is known."""
    for answer in answers:
        from tbps_cli.search.document import printable

        marks = [answer.is_right(hit) for hit in answer.hits]
        known = any(mark is not None for mark in marks)
        some_person = any(hit.person is not None for hit in answer.hits)
        headings = ["rank", "score", "file"] + ["person"] * some_person + [""] * known
        rows = [
            [hit.rank, f"{hit.score:.4f}", printable(hit.path)]
            + [hit.person] * some_person
            + [{True: "✓", False: "✗", None: ""}[mark]] * known
            for hit, mark in zip(answer.hits, marks, strict=True)
        ]
        line(printable(str(answer.query)), style="bold")
        if rows:
            table(headings, rows, right=["rank", "score"])
        else:
            line("  no image fits")
    shown = f"{answers[0].candidates:,} of {len(gallery):,}" if answers[0].candidates != len(gallery) else len(gallery)
    note(f"{printable(gallery.name)}: {shown if isinstance(shown, str) else f'{shown:,}'} images ranked")


def index_line(gallery: Gallery) -> None:
    """One line on what an index did to catch up with its folder; none when there was nothing to do."""
    done = gallery.update
    changes = [f"{done.added:,} added"] * bool(done.added) + [f"{done.removed:,} removed"] * bool(done.removed)
    if changes:
        note(f"{gallery.name}: {len(gallery):,} images ({', '.join(changes)})")


def index_report(gallery: Gallery, path: object) -> None:
    """What `tbps index` did."""
    done = gallery.update
    line(
        f"{gallery.name}: {len(gallery):,} images, {done.added:,} added ({done.embedded:,} embedded), "
        f"{done.removed:,} removed, {done.left_out_in_all:,} left out"
    )
    line(f'Search it: tbps search "a man in a white shirt" --in {path or gallery.name}')


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
        line(f"({agreement.source}; at most {agreement.tolerance:.0e} is allowed)")
