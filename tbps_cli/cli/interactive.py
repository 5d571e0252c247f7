"""`tbps search -i`: type, see, refine. Reads lines from a terminal or a pipe, draws what `searching.session` answers.

The history of a session (arrow up) ends with it: nothing that was asked is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli import output, render, search_view
from tbps_cli.errors import DataError, TbpsError
from tbps_cli.files import check_new_file, check_new_folder
from tbps_cli.searching.hits import passed
from tbps_cli.searching.session import ENDS, HELP, Session, Wish
from tbps_cli.searching.timeline import clip_time

if TYPE_CHECKING:
    from tbps_cli.searching.ranking import Answer
    from tbps_cli.types import Hit

PROMPT = "> "
Save = Callable[[str, "Answer", str | None, Path | None, Path | None], None]
"""Writes an answer to a page or copies its hits: (line, answer, where, html, copy_to)."""


@dataclass(frozen=True)
class Drawing:
    """How hits are shown and copied, see the options of `tbps search`."""

    images: bool | None = None
    blur: bool = False
    whole_frames: bool = False


def talk(session: Session, save: Save, drawing: Drawing) -> int:
    """Answer line by line until the end; mistakes are told and end nothing.

    Returns the exit status: 1 when a line of a file was a mistake; a person at a terminal has seen it.
    """
    typed = sys.stdin is not None and sys.stdin.isatty()
    render.note(f"{session.gallery.name}: {amount(len(session.gallery), 'image')}. Type what the person looks like.")
    render.note("help lists the commands; quit or Ctrl-D ends.")
    talking = _Talking(session, save, drawing)
    mistakes = 0
    if session.now.terms:
        mistakes += not talking.told(None)
    for line in _typed() if typed else _given():
        if line.strip().lower() in ENDS:
            break
        mistakes += not talking.told(line)
        output.stdout.flush()
    return 0 if typed else min(mistakes, 1)


@dataclass
class _Talking:
    """Answers lines; what a sentence was understood as is said once, and not again after each refinement."""

    session: Session
    save: Save
    drawing: Drawing
    said: list[tuple[str, str]] = field(default_factory=list)

    def told(self, line: str | None) -> bool:
        """Answer one line, or what was asked to begin with; whether it was no mistake."""
        try:
            if line is not None and "\ufffd" in line:
                raise DataError(f"-i: not UTF-8: {line.strip()!r:.80}", "Save the lines as UTF-8.")
            reply = self.session.refresh() if line is None else self.session.said(line)
            if isinstance(reply, Wish):
                self._fulfil(reply, (line or "").strip())
            elif reply is not None:
                self._show(reply)
        except TbpsError as mistake:
            render.error(mistake)
            return False
        except OSError as error:
            render.error(TbpsError(f"{error.filename or 'the system'}: {error.strerror or error}."))
            return False
        except KeyboardInterrupt:
            render.note("")  # the terminal has written ^C
            render.note("interrupted.")
        return True

    def _show(self, answer: Answer) -> None:
        said = answer.understood.lines if answer.understood else []
        if set(said) - set(self.said):
            search_view.understood([answer])
        self.said = said
        search_view.hits([answer], self.session.gallery, images=self.drawing.images, blur=self.drawing.blur)
        if where := passed(answer, self.session.now.where):
            render.note(f"where {where}")
        search_view.unmet_values(answer, self.session.gallery, self.session.now.where)

    def _fulfil(self, wish: Wish, line: str) -> None:
        """Show the help, open hits, or write files."""
        answer, where = self.session.answer, self.session.now.where
        if wish.name == "help":
            render.definitions(list(HELP), max(len(name) for name, _ in HELP), indent=2)
        elif wish.name == "open":
            for hit in wish.hits:
                _open(hit)
        elif answer is not None and wish.path is not None:
            if wish.name == "html":
                check_new_file("html", wish.path, (".html", ".htm"))
                self.save(line, answer, where, wish.path, None)
            else:
                check_new_folder("copy", wish.path, inside=True)
                self.save(line, answer, where, None, wish.path)


def _open(hit: Hit) -> None:
    """Show the file of a hit in the program that the system has for it. Raises TbpsError where there is none."""
    render.note(f"{hit.file} at {clip_time(hit.seconds)}" if hit.seconds is not None else str(hit.file))
    if not hit.file.is_file():
        raise DataError(f"{hit.file}: there is no such file.")
    if typer.launch(str(hit.file.absolute())):
        raise TbpsError("no program here opens it.", "The file is named above.")


def _typed() -> Iterator[str]:
    """Lines from a terminal, edited and recalled by readline where Python has it. Ctrl-C forgets one, Ctrl-D ends."""
    with suppress(ImportError):
        import readline  # noqa: F401 (input() uses it once it is there)
    while True:
        try:
            yield _line()
        except EOFError:
            render.note("")
            return
        except KeyboardInterrupt:
            render.note("")


def _line() -> str:
    if output.stdout.isatty():
        output.stdout.flush()
        return input(PROMPT)
    output.stderr.write(PROMPT)  # what goes to a file or a pipe are the answers alone
    output.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _given() -> Iterator[str]:
    """Lines of standard input that is no terminal, as UTF-8 whatever the system has set."""
    if sys.stdin is None:
        raise DataError("-i: standard input is closed.", "Leave -i out for a single query.")
    for number, line in enumerate(sys.stdin.buffer, 1):
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
