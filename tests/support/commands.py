"""Commands of tbps in documents and other files, and the real parser, which reads them without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tbps_cli.cli.app import COMMANDS, app, load_command

NAMES = ("tbps", "tbps-lite")
_SHELL = ("", "sh", "bash", "console")
_ENDS = re.compile(r"[|&;<>()]+")


def in_document(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of each command in the fenced and indented blocks of a Markdown text."""
    language: str | None = None
    waiting, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            language = line.strip().strip("`") if language is None else None
            continue
        if not (language in _SHELL if language is not None else line.startswith("    ")):
            continue
        began = began if waiting else number
        waiting += line.strip().removeprefix("$ ")
        if waiting.endswith("\\"):
            waiting = waiting[:-1] + " "
            continue
        yield from ((began, words) for words in in_shell(waiting))
        waiting = ""


def in_shell(line: str) -> Iterator[list[str]]:
    """The commands of tbps in a line that is typed into a shell: those of a pipe, behind variables, under torchrun."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "[]{}:@,%+!^"  # nothing that a shell would end a word at
    try:
        words = list(lexer)
    except ValueError:  # a quotation mark that is text: no command
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if not _ENDS.fullmatch(word):
            command.append(word)
            continue
        yield from _of_tbps(command)
        command = []


def _of_tbps(words: list[str]) -> Iterator[list[str]]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if "tbps_cli" in words and words[0] in ("torchrun", "python"):
        words = ["tbps", *words[words.index("tbps_cli") + 1 :]]
    if words and Path(words[0]).name in NAMES and words[1:]:
        yield words


def parse(words: list[str]) -> None:
    """Read a command line as the program would. Raises what its parser raises for an unknown command or option."""
    rest = words[1:]
    if rest[0] not in COMMANDS:
        group: Any = typer.main.get_command(app)
        known = {name for parameter in group.get_params(typer.Context(group)) for name in parameter.opts}
        known |= {"--help", "-h"}
        assert rest[0] in known, f"tbps has neither a command nor an option {rest[0]}"
        return
    command = load_command(rest[0])
    if set(rest) & {"--help", "-h"}:
        return
    with command.make_context(rest[0], [word for word in rest[1:] if word not in ("...", "…")]):
        pass


def options(name: str) -> set[str]:
    """All options of a command, as they are written."""
    command = load_command(name)
    listed = [word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)]
    return {word for word in listed if word.startswith("-")} | {"--help", "-h"}
