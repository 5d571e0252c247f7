"""What a document shows of the shell: lines to type, and what comes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)$")
_WIDE = re.compile(r" {2,}")
_LABEL = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?|[a-z]+(?:\.[a-z]+)?):( |$)")
PROMPT = "> "
"""What `tbps search -i` begins a line with that was typed."""


@dataclass(frozen=True)
class Typed:
    """A line of a document that somebody types into a shell."""

    place: str
    """`docs/search.md:56`."""
    line: str
    shown: tuple[str, ...] = ()
    """What the document shows below it."""

    @property
    def answers(self) -> str:
        """What is typed at the command's own prompt."""
        return "".join(f"{text.removeprefix(PROMPT)}\n" for text in self.shown if text.startswith(PROMPT))

    @property
    def fails(self) -> bool:
        """Whether the document shows it as a mistake."""
        return any(text.startswith("Error: ") for text in self.shown)


def typed_lines(path: Path, name: str) -> Iterator[Typed]:
    """The lines of the blocks `sh`, and those behind a dollar in the blocks `console`, in their order."""
    language, began = None, 0
    waiting: list[str] = []
    shown: list[str] = []
    open_line: tuple[str, str] | None = None
    for number, text in enumerate([*path.read_text("utf-8").splitlines(), "```"], 1):
        fence = _FENCE.match(text)
        if fence and (language is not None or number):
            if open_line is not None:
                yield Typed(*open_line, tuple(shown))
                open_line, shown = None, []
            language = fence[1] if language is None else None
            continue
        if language == "sh" or (language == "console" and (waiting or text.startswith("$ "))):
            if open_line is not None:
                yield Typed(*open_line, tuple(shown))
                open_line, shown = None, []
            began = began if waiting else number
            waiting.append(text.removeprefix("$ ") if language == "console" else text)
            if text.endswith("\\"):
                continue
            line, waiting = "\n".join(waiting), []
            if line.strip() and not line.startswith("#"):
                open_line = f"{name}:{began}", line
        elif language == "console" and open_line is not None:
            shown.append(text)


def lacking(shown: tuple[str, ...], text: str) -> list[str]:
    """The headings of tables and the labels that a document shows and a command did not print."""
    if "No confident match" in text:  # the tests' model is sure of nothing
        return []
    there = {tuple(_cells(line)) for line in text.splitlines()}
    labels = {found[1] for line in text.splitlines() if (found := _LABEL.match(line))}
    labels |= {"Kept"}  # no text tower is kept in tests: its graph takes some seconds
    missing = []
    for line in shown:
        cells, label = _cells(line), _LABEL.match(line)
        heading = len(cells) >= 3 and not re.search(r"\d", line)
        if (heading and tuple(cells) not in there) or (label and label[1] not in labels):
            missing.append(line)
    return missing


def _cells(line: str) -> list[str]:
    """The cells of a line, without the column that a calibration adds."""
    return [cell for cell in _WIDE.split(line.strip()) if cell != "likely"]
