"""Small images in the terminal: half blocks where asked for, never in a pipe, never unasked where unknown."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pyte
import pytest

PROGRAM = """
import sys
from PIL import Image
from tbps_cli.cli.terminal_images import chosen, strip
wanted = {"yes": True, "no": False, "auto": None}[sys.argv[1]]
draw = chosen(wanted)
if draw:
    images = [Image.new("RGB", (40, 96), colour) for colour in ("red", "blue")] * 9
    strip(images, [f"{n:>2}  0.{n}00" for n in range(18)], draw)
print("end")
"""


def shown(wanted: str, columns: int = 80, answer: bytes = b"", **variables: str) -> list[str]:
    """The screen after the program, with the terminal as its stdin too; answer: what the terminal says when asked."""
    screen = pyte.Screen(columns, 24)
    stream = pyte.ByteStream(screen)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, columns * 8, 24 * 16))
    unset = "NO_COLOR", "COLUMNS", "LINES", "TMUX", "TERM_PROGRAM"
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **variables}
    words = [sys.executable, "-c", PROGRAM, wanted]
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if b"\x1b[c" in data:
            os.write(master, answer)
        written += data.replace(b"\x1b[c", b"")
    stream.feed(re.sub(rb"\x1b[_P].*?\x1b\\", b"", written, flags=re.DOTALL))  # what the screen of pyte does not know
    assert process.wait(60) == 0
    os.close(master)
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize(("columns", "beside"), [(80, 7), (140, 12)])
def test_half_blocks_are_drawn_where_asked_for_as_many_as_fit(columns: int, beside: int) -> None:
    lines = shown("yes", columns)
    assert lines[:12] == ["▀" * beside * 11] * 12
    assert lines[12].split() == [word for n in range(beside) for word in (str(n), f"0.{n}00")]
    assert lines[13:] == ["end"]


def test_nothing_is_drawn_unasked_where_the_terminal_is_not_known_or_does_not_answer() -> None:
    assert shown("auto") == shown("no") == ["end"]
    assert shown("auto", TERM="xterm-kitty") == ["end"]
    assert shown("yes", NO_COLOR="1") == ["end"]


def test_a_terminal_with_sixel_gets_a_real_image_unasked() -> None:
    """What a terminal that does not draw it shows of sixel is nothing."""
    lines = shown("auto", answer=b"\x1b[?62;4c", TERM="foot")
    assert "▀" not in "".join(lines) and lines[-1] == "end" and "0.600" in lines[-2]


def test_a_pipe_has_no_images() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "yes"], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("end\n", "")
