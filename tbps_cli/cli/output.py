"""The one way out of the program: stdout for results, stderr for everything else.

Streams fail in many ways, and all of them are dealt with here, so that no command has to think of it. A character
that the encoding lacks is written as an escape, the signs of our own tables as ASCII. A reader that leaves (`| head`)
ends the command quietly. A full or closed stdout is an error of one line. A stderr that cannot be written loses its
messages, but not the command.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tbps_cli.errors import TbpsError
from tbps_cli.escape import escaped, exact_bytes, json_text, printable

_SIGNS = {"✓": "y", "✗": "n", "·": "-", "±": "+/-", "→": "->", "…": "...", "—": "-", "─": "-", "━": "-"}
"""What our own tables and sentences use beyond ASCII, and what stands for it where the encoding lacks it."""
_STAND_IN = "tbps.stand_in"


class OutputError(TbpsError):
    """Standard output does not take the results."""


class ReaderLeftError(Exception):
    """Whoever read our output has gone: nothing is left to do, and nothing is wrong."""


class Stream:
    """stdout or stderr: whichever object Python has there at the moment. Looks like a file to rich."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.written: list[str] = []
        """What the command has written to the disk: it is there even when its results cannot be printed."""

    @property
    def target(self) -> TextIO | None:
        """The present stream; None when it was closed before the program began."""
        found: TextIO | None = getattr(sys, self.name)
        if "rich.file_proxy" in sys.modules:  # while a bar is shown, rich has its proxy there, which leads back to us
            from rich.file_proxy import FileProxy

            if isinstance(found, FileProxy):
                return found.rich_proxied_file
        return found

    @property
    def encoding(self) -> str:
        return getattr(self.target, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self.target is not None and self.target.isatty()

    def write(self, text: str) -> int:
        """Text for a person: what the encoding lacks is escaped."""
        with self._failures_told() as target:
            target.write(text.encode(self.encoding, _STAND_IN).decode(self.encoding))
        return len(text)

    def write_exactly(self, text: str) -> None:
        """Text for a program: nothing is escaped, and bytes of file names come out as they went in."""
        try:
            self.write_bytes(exact_bytes(text, self.encoding))
        except UnicodeEncodeError as error:
            lacking = escaped(error.object[error.start])
            raise OutputError(
                f"{self._spoken} takes {self.encoding}, which has no {lacking}.",
                "Set PYTHONIOENCODING=utf-8, or use --json.",
            ) from None

    def write_bytes(self, data: bytes) -> None:
        """The same for bytes. A terminal is not a program: a file name must not move its cursor."""
        if self.isatty():
            self.write("\n".join(map(printable, data.decode(self.encoding, "surrogateescape").split("\n"))))
            return
        with self._failures_told() as target:
            target.flush()
            if hasattr(target, "buffer"):
                target.buffer.write(data)
            else:  # the stream of a notebook
                target.write(data.decode(errors="replace"))

    def flush(self) -> None:
        if self.target is not None:
            with self._failures_told() as target:
                target.flush()

    @contextmanager
    def _failures_told(self) -> Iterator[TextIO]:
        target = self.target
        if target is None:
            raise OutputError("standard output is closed, so the results cannot be printed.", self._hint())
        try:
            yield target
        except BrokenPipeError:
            _discard(target)
            if self is stdout:
                raise ReaderLeftError from None
        except OSError as error:
            _discard(target)
            if self is stdout:
                reason = error.strerror or type(error).__name__
                raise OutputError(f"standard output cannot be written ({reason}).", self._hint()) from None

    def _hint(self) -> str | None:
        return f"Only the printing failed; this is written: {', '.join(self.written)}" if self.written else None

    @property
    def _spoken(self) -> str:
        return "standard output" if self.name == "stdout" else "standard error"


stdout, stderr = Stream("stdout"), Stream("stderr")


def document(value: object) -> None:
    """Exactly one JSON document on stdout; ASCII alone where the encoding cannot be relied upon."""
    stdout.write_exactly(json_text(value, ascii_only=not stdout.encoding.lower().startswith("utf")) + "\n")


def occupy_closed_streams() -> None:
    """Let no file that is opened later become number 0, 1 or 2: libraries print into those."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _discard(target: TextIO) -> None:
    """Send what is still buffered nowhere: Python would try to write it again at its end, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target.fileno())
        os.close(nowhere)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_SIGNS.get(char) or escaped(char) for char in lacking), error.end


codecs.register_error(_STAND_IN, _stand_in)
