"""The help of a command: what it does, an example, its options with the values they take.

Typer's own page spends half of an 80 column terminal on boxes and types; this one has two columns, and goes out
through `output` like everything else.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

INDENT = 2
WIDEST = 100
"""Columns of a page, however wide the terminal is; also where nobody looks (`tbps --help | less`)."""
COLUMN = 26
"""The widest that the column of names gets; a longer name has a line of its own."""
MANY = 16
"""Options from which on a command shows them in groups (`rich_help_panel`)."""


class Command(TyperCommand):
    """A command whose help is the page below."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options and arguments, which take plain values as they are."""
        return taking_plain_values(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        show(usage(ctx.command_path, self), self.help or "", sections(self.get_params(ctx)), self.epilog)
        raise typer.Exit


def taking_plain_values(parameters: list[Any]) -> list[Any]:
    """Let options take what needs no conversion as it is; returns them.

    For every option, given or not, Typer builds a validator of pydantic: with its import a fifth of a second at each
    start. What it is needed for (numbers, choices, paths that cannot be read) still goes there.
    """
    for parameter in parameters:
        if "process_value" not in vars(parameter):
            parameter.process_value = functools.partial(_processed, parameter, parameter.process_value)
    return parameters


def _processed(parameter: Any, validated: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """What an option makes of a value; validated: Typer's own way."""
    kind = parameter.type_descriptor.annotation
    if value is None and not parameter.required:
        value = () if parameter.multiple or parameter.nargs == -1 else None
    elif kind is Path and type(value) is str and (os.access(value, os.R_OK) or not os.access(value, os.F_OK)):
        value = Path(value)
    elif kind == list[str] and value and all(type(one) is str for one in value):
        value = list(value)
    elif value is None or type(value) is not kind:
        return validated(ctx, value)
    return value if parameter.callback is None else parameter.callback(ctx, parameter, value)


def show(call: str, text: str, parts: Mapping[str, Sequence[tuple[str, str]]], example: str | None) -> None:
    """Print one page. parts: heading -> (what to type, what it means)."""
    from tbps_cli.cli.render import definitions, line

    line(f"Usage: {call}", style="bold")
    line()
    for paragraph in text.split("\n\n"):
        definitions([("", " ".join(paragraph.split()))], 0, widest=WIDEST)
        line()
    width = min(COLUMN, max(len(name) for rows in parts.values() for name, _ in rows))
    for heading, rows in parts.items():
        line(heading, style="bold")
        definitions(rows, width, indent=INDENT, widest=WIDEST)
        line()
    if example:
        line(f"Example: {example}")


def sections(parameters: Iterable[Any]) -> dict[str, list[tuple[str, str]]]:
    """Arguments and options as rows of the page; many options in their groups, in the order of their first ones."""
    all_of_them = list(parameters)
    options = [one for one in all_of_them if one.param_type_name != "argument"]
    found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    for argument in all_of_them:
        if argument.param_type_name == "argument":
            found["Arguments"].append((spelled(argument), meaning(argument)))
    for option in options:
        group = option.rich_help_panel if len(options) >= MANY else None
        found.setdefault(group or "Options", []).append((flags(option), meaning(option)))
    return {heading: rows for heading, rows in found.items() if rows}


def usage(path: str, command: Any) -> str:
    """`tbps index DIR [OPTIONS]`."""
    arguments = [spelled(one) for one in command.params if one.param_type_name == "argument"]
    return " ".join([path, *arguments, "[OPTIONS]"])


def spelled(argument: Any) -> str:
    """NAME, or [NAME] when it may be left out; with dots when it takes several words."""
    name = argument.metavar or argument.name.upper()
    return (name if argument.required else f"[{name}]") + "..." * (argument.nargs == -1)


def flags(option: Any) -> str:
    """`--top, -t N`: the spellings of an option with the value it takes, or the values to choose from."""
    # click keeps those of --help in a set: long ones first, whatever its order
    spellings = ", ".join(sorted([*option.opts, *option.secondary_opts], key=lambda flag: not flag.startswith("--")))
    if option.is_flag:
        return spellings
    choices = [str(member.value) for member in type(option.default)] if isinstance(option.default, Enum) else []
    value = option.metavar or (f"[{'|'.join(choices)}]" if choices else "VALUE")
    return f"{spellings} {value}"


def meaning(parameter: Any) -> str:
    """The help of a parameter in one line, its default behind it."""
    text = " ".join((parameter.help or "").split())
    default = parameter.default
    if parameter.param_type_name == "argument" or "efault" in text or default in (None, ""):
        return text
    if isinstance(default, bool) or not isinstance(default, int | float | str):
        return text
    return f"{text} Default: {default.value if isinstance(default, Enum) else default}."
