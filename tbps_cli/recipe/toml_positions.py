"""Where each key of a TOML text stands, so that a mistake is reported with its line.

The standard library parses TOML but keeps no positions. This scanner assumes a text that `tomllib`
has already accepted, so it only has to step over strings, arrays and comments correctly.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

KeyPath = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*(\.?)""")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Key path -> line (from 1), for every table header and every assignment, inline tables included."""
    lines: dict[KeyPath, int] = {}
    for path, position in _Scanner(text).assignments():
        lines.setdefault(path, text.count("\n", 0, position) + 1)
    return lines


class _Scanner:
    """Walks over the text once; `at` is the next character to look at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def assignments(self) -> Iterator[tuple[KeyPath, int]]:
        """Every (key path, position of the key) in the order of the text."""
        table: KeyPath = ()
        while not self.done():
            start = self.at
            if self.text[self.at] == "[":
                self.at += self.text.startswith("[[", self.at) + 1
                table = self.key()
                self.at = self.text.index("]", self.at)
                self.at += self.text.startswith("]]", self.at) + 1
                yield table, start
            else:
                yield from self.assignment(table)

    def done(self) -> bool:
        """Step over blanks, commas and comments; whether the text is at its end."""
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at >= len(self.text)

    def key(self) -> KeyPath:
        """A bare, quoted or dotted key; ends behind it."""
        parts: list[str] = []
        while match := _KEY_PART.match(self.text, self.at):
            self.at = match.end()
            parts.append(_unquoted(match[1]))
            if not match[2]:
                break
        return tuple(parts)

    def assignment(self, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        """One `key = value`, and the assignments inside the value."""
        start = self.at
        path = table + self.key()
        yield path, start
        self.at = self.text.index("=", self.at) + 1
        self.done()
        yield from self.value(path)

    def value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        """Step over one value; an inline table yields what it assigns."""
        opening = self.text[self.at]
        if opening in "[{":
            closing = "]" if opening == "[" else "}"
            self.at += 1
            while not self.done() and self.text[self.at] != closing:
                yield from self.assignment(path) if opening == "{" else self.value(path)
            self.at += 1
        else:
            match = _STRING.match(self.text, self.at) or _PLAIN.match(self.text, self.at)
            self.at = match.end() if match else self.at + 1


def _unquoted(key: str) -> str:
    """The key that a bare or quoted spelling means."""
    return next(iter(tomllib.loads(f"{key} = 0"))) if key[0] in "\"'" else key
