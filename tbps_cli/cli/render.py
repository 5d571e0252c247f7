"""How things look to a person: lines, tables, bars. Results go to stdout, everything else to stderr.

Colour, boxes and bars appear on a terminal only; rich honours NO_COLOR by itself. Rich is imported
inside the functions, so that a command that prints JSON does not wait for it. Lines are wrapped between
words, never inside one: a path or a command can be copied from the screen.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from tbps_cli.cli import output
from tbps_cli.errors import FilterError, RecipeError, TbpsError
from tbps_cli.escape import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

WIDE = 10_000
"""Columns of a line when nobody looks at it: a pipe has no edge to wrap at."""
NARROW = 40
"""Columns that a display needs: on a narrower terminal, as on one that cannot move its cursor, there are lines only."""

_FORCED = frozenset({"FORCE_COLOR", "TTY_COMPATIBLE"})
"""Set, these make rich write as on a terminal where there is none."""
PROSE = 24
"""Columns of a terminal that a column of sentences keeps."""

_consoles: dict[str, tuple[IO[str] | None, Console]] = {}

# Lines ----------------------------------------------------------------------------------------


def console(stderr: bool = False) -> Console:
    """The console of stdout or stderr; the same object as long as the stream is (bars need that)."""
    from rich.console import Console

    stream = output.stderr if stderr else output.stdout
    if stream.name not in _consoles or _consoles[stream.name][0] is not stream.target:
        made = Console(file=cast(IO[str], stream), highlight=False)
        if not stream.isatty():
            made.width = WIDE
        _consoles[stream.name] = stream.target, made
    return _consoles[stream.name][1]


def moving() -> bool:
    """Whether stderr can show a bar that is drawn again and again."""
    if not output.stderr.isatty():
        return False
    screen = console(stderr=True)
    return not screen.is_dumb_terminal and screen.width >= NARROW


def line(text: str = "", *, stderr: bool = False, style: str | None = None) -> None:
    """One line of text: no markup is read in it, and control characters are shown as escapes."""
    stream = output.stderr if stderr else output.stdout
    if not stream.isatty() and len(text) < WIDE // 2 and "\t" not in text and not _FORCED.intersection(os.environ):
        stream.write(f"{printable(text).rstrip()}\n")  # as rich would write it, without importing it
        return
    from rich.text import Text

    _print(Text(printable(text), style=style or ""), stderr)


def styled(parts: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """One line on stdout of parts with styles; what is struck through stands between ~~ where there are no styles."""
    from rich.text import Text

    plain = not output.stdout.isatty()
    shown = [(f"~~{text}~~" if plain and style == "strike" else text, style) for text, style in parts]
    _print(Text.assemble(*((printable(text), style) for text, style in shown)), stderr=False, indent=indent)


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr, without the passwords of addresses."""
    line(_without_passwords(text), stderr=True)


def document(value: object) -> None:
    """Exactly one JSON document on stdout."""
    output.document(value)


def error(mistake: TbpsError) -> None:
    """The one `Error:` line of a mistake, and its `Hint:` line, on stderr."""
    message = mistake.message
    # A recipe's problems stand one a line. Any other line break comes from a name, which could fake a line of ours.
    lines = message.split("\n") if isinstance(mistake, RecipeError) else [message]
    _labelled("Error:", "bold red", lines[0])
    for text in lines[1:]:
        note(f"  {text.strip()}")
    for text in mistake.excerpt if isinstance(mistake, FilterError) else ():
        line(f"  {text}", stderr=True)
    if mistake.hint:
        _labelled("Hint:", "bold cyan", mistake.hint)


def _labelled(label: str, style: str, text: str) -> None:
    from rich.text import Text

    _print(Text.assemble((label, style), " ", printable(_without_passwords(text))), stderr=True)


def _without_passwords(text: str) -> str:
    from tbps_cli.databases.urls import without_passwords  # 2 ms, which nobody waits for who is told nothing

    return without_passwords(text)


def _print(text: Text, stderr: bool, indent: int = 0, widest: int = WIDE) -> None:
    """A line on as many lines of the terminal as it needs, all but the first indented."""
    screen = console(stderr)
    lines = text.divide(_breaks(text.plain, min(screen.width, widest), indent))
    for number, part in enumerate(lines):
        part.rstrip()
        # no_wrap and crop=False: what is still too long is one word, and the terminal breaks it.
        screen.print(" " * indent * bool(number), part, sep="", end="\n", no_wrap=True, overflow="ignore", crop=False)


def _breaks(text: str, width: int, indent: int) -> list[int]:
    """Where a text is divided into lines: before the words that do not fit into one of `width` columns."""
    from rich.cells import cell_len

    places: list[int] = []
    used = len(text) - len(text.lstrip(" "))
    for word in re.finditer("[^ ]+ *", text):
        if used > indent * bool(places) and used + cell_len(word[0].rstrip(" ")) > width:
            places.append(word.start())
            used = indent
        used += cell_len(word[0])
    return places


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


# Tables ---------------------------------------------------------------------------------------


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    prose: Sequence[str] = (),
    optional: Sequence[str] = (),
    ends: Sequence[int] = (),
    title: str = "",
) -> None:
    """A table on stdout that fits the terminal as far as names allow it: they are never broken.

    right: columns aligned to the right. prose: columns of sentences, which may be wrapped between words.
    optional: columns left out where there is no room for them, the first ones first. ends: how many rows from the
    top each group of rows ends; a terminal shows a line there.
    """
    screen = console()
    width = screen.width
    for hidden in range(len(optional) + 1):
        places = [place for place, heading in enumerate(headings) if heading not in optional[:hidden]]
        shown = [[printable("" if row[place] is None else str(row[place])) for place in places] for row in rows]
        made, needed = grid([headings[place] for place in places], shown, right, prose, ends)
        if needed <= width:
            break
    if needed > width:
        made.width = needed
    if title:
        line(title, style="bold")
    screen.print(made, crop=False)


def grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str],
    prose: Sequence[str],
    ends: Sequence[int],
) -> tuple[Table, int]:
    """The table as rich draws it, and the fewest columns of a terminal that hold it."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    boxed = output.stdout.isatty()
    made = Table(
        box=box.SIMPLE_HEAD if boxed else None,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    needed = (len(headings) - 1) * (3 if boxed else 2)
    for place, heading in enumerate(headings):
        natural = max(cell_len(text) for text in (heading, *(row[place] for row in rows)))
        least = min(natural, PROSE) if heading in prose else natural
        needed += least
        made.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading not in prose,
            min_width=least,
        )
    for number, row in enumerate(rows, 1):
        made.add_row(*[Text(text) for text in row], end_section=number in ends)
    return made, needed


def facts(pairs: Mapping[str, object]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name in pairs)
    definitions([(name, "" if value is None else str(value)) for name, value in pairs.items()], width)


def definitions(rows: Sequence[tuple[str, str]], width: int, *, indent: int = 0, widest: int = WIDE) -> None:
    """Terms, `width` columns of them, and beside each what it means, wrapped between words; below a wider one."""
    from rich.text import Text

    start = indent + width + 2 * bool(width)
    for term, meaning in rows:
        if len(term) > width:
            _print(Text(" " * indent + printable(term), "bold"), stderr=False, indent=start, widest=widest)
            term = ""
        head = Text.assemble(" " * indent, (printable(term).ljust(width), "bold"), "  " * bool(width))
        _print(head + printable(meaning), stderr=False, indent=start, widest=widest)


# Bars -----------------------------------------------------------------------------------------


@contextmanager
def progress(title: str, unit: str = "", *, listing: str = "") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, as the callback (done, total) of the library; silent when not a terminal.

    listing: the title while the total is not known yet (0).
    """
    if not moving():
        yield lambda done, total: None
        return
    bar, told = progress_bar(title, unit, listing=listing)
    with bar:
        yield told


def progress_bar(title: str, unit: str = "", *, listing: str = "") -> tuple[Progress, Callable[[int, int], None]]:
    """A bar of stderr that is not shown yet, and the callback (done, total) that moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=screen.width // 4),
        TextColumn("{task.fields[amount]}", "progress.download"),
    ]
    columns += [TextColumn(unit)] * bool(unit) + [TimeRemainingColumn()]
    bar = Progress(*columns, console=screen, transient=True)
    names = [shortened(text, screen.width // 3) for text in (listing or title, title)]
    task = bar.add_task(names[0], total=None, amount="0")

    def told(done: int, total: int) -> None:
        amount = f"{done:{len(f'{total:,}')},}/{total:,}" if total else f"{done:,}"
        bar.update(task, completed=done, total=total or None, description=names[total > 0], amount=amount)

    return bar, told


@contextmanager
def status(title: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, as a callback that renews it; silent when not a terminal."""
    if not moving():
        yield lambda text: None
        return
    from rich.status import Status
    from rich.text import Text

    screen = console(stderr=True)

    def shown(text: str) -> Text:
        return Text(shortened(text, screen.width - 4))

    with Status(shown(title), console=screen) as spinner:
        yield lambda text: spinner.update(shown(f"{title}: {text}"))


# Numbers and names ----------------------------------------------------------------------------


def shortened(text: str, width: int) -> str:
    """A text in one line of at most `width` columns; its middle gives way, so that the end of a path stays."""
    from rich.cells import cell_len, set_cell_size

    text = printable(text)
    if cell_len(text) <= width:
        return text
    first = set_cell_size(text, width // 2).rstrip()
    last = text[-(width - width // 2 - 1) :]
    while cell_len(first) + cell_len(last) + 1 > width:
        last = last[1:]
    return f"{first}…{last}"


def short_path(path: str) -> str:
    """A path as one would type it: relative to the working folder or the home folder where it lies below it."""
    for base, start in ((os.getcwd(), ""), (os.path.expanduser("~"), "~/")):  # noqa: PTH109, PTH111
        if path.startswith(base.rstrip("/") + "/") and len(base) > 1:
            return start + path[len(base.rstrip("/")) + 1 :]
    return path


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
