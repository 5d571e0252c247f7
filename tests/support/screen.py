"""A terminal of a stated size with a program in it, and what a person would see on its screen."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyte

KIND = "xterm-256color"
"""What the terminal says it is."""
PATIENCE = 60.0
"""Seconds to wait for a screen; a busy machine imports torch slowly."""


class Terminal:
    """stdout and stderr of a program are a terminal; its stdin is a pipe, so that nothing typed is echoed.

    keyboard: stdin is the terminal too, and Ctrl-C reaches the program.
    """

    def __init__(self, words: Sequence[str], columns: int, lines: int = 40, *, keyboard: bool = False) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            words,
            stdin=slave if keyboard else subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            env=plain | {"TERM": KIND, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
            start_new_session=keyboard,
            preexec_fn=_take_terminal if keyboard else None,
        )
        os.close(slave)

    def shown(self) -> list[str]:
        """The lines of the screen, without blanks at their ends and without empty lines at the bottom."""
        lines = [plain(line) for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def until(self, wanted: list[str]) -> list[str]:
        """Read until the screen shows exactly these lines, or patience ends; returns what it shows."""
        end = time.monotonic() + PATIENCE
        while self.shown() != wanted and time.monotonic() < end and self._read():
            pass
        return self.shown()

    def go_on(self) -> None:
        """Press Enter."""
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), b"\n")

    def type(self, text: str) -> None:
        """Press keys; \\r is Enter, \\x03 Ctrl-C, \\x04 Ctrl-D, \\x1b[A the arrow up."""
        os.write(self.master, text.encode())

    def until_line(self, wanted: str) -> list[str]:
        """Read until the last line of the screen is this one, or patience ends; returns what the screen shows."""
        end = time.monotonic() + PATIENCE
        while self.shown()[-1:] != [wanted] and time.monotonic() < end and self._read():
            pass
        return self.shown()

    def until_first(self, wanted: str) -> list[str]:
        """The same for the first line of the screen."""
        end = time.monotonic() + PATIENCE
        while self.shown()[:1] != [wanted] and time.monotonic() < end and self._read():
            pass
        return self.shown()

    def finish(self) -> list[str]:
        """Read until the program ends; returns the last screen."""
        while self._read():
            pass
        self.process.wait(PATIENCE)
        return self.shown()

    def _read(self) -> bool:
        """Take what the program has written; False when it has ended."""
        ready = select.select([self.master], [], [], 0.1)[0]
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.stream.feed(data)
        return bool(data)


def _take_terminal() -> None:
    """Make the terminal at stdin the one that sends Ctrl-C, which a job in the background would pass over."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def plain(line: str) -> str:
    """A line without what differs from one moment to the next: how far a bar is, and the time left."""
    return re.sub(r"-:--:--|\d:\d\d:\d\d", "TIME", re.sub("[━╸╺]", "━", line)).rstrip()


@contextmanager
def terminal(*words: str, columns: int, lines: int = 40, keyboard: bool = False) -> Iterator[Terminal]:
    """`python WORDS` in a terminal; ended and closed afterwards."""
    opened = Terminal([sys.executable, *words], columns, lines, keyboard=keyboard)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.communicate()
        os.close(opened.master)
