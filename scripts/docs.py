"""Writes docs/cli.md from the commands themselves. `--check` only says whether it is up to date.

python scripts/docs.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from tbps_cli.cli.app import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEAD = """\
# The command line

Written by `python scripts/docs.py` from the commands themselves; do not edit.

Results go to stdout, everything else to stderr; `--json` prints exactly one JSON document. There is no colour when the
output is not a terminal, or with `NO_COLOR`. Exit status: 0 done, 1 a mistake that you can mend, 2 a wrong command
line, 130 interrupted.

`--data-root` wins over `$TBPS_DATA_ROOT`, which wins over `./data`. Caches lie in `$TBPS_CACHE_DIR`, else in the
platform's cache folder.
"""


def page() -> str:
    """The whole page, one section a command."""
    group: Any = typer.main.get_command(app)
    ctx = group.make_context("tbps", ["recipes"], resilient_parsing=True)
    commands = [(name, group.get_command(ctx, name)) for name in group.list_commands(ctx)]
    overview = [f"| [`tbps {name}`](#tbps-{name}) | {sentence(command.help)} |" for name, command in commands]
    sections = [section(name, command) for name, command in commands]
    return "\n".join([HEAD, "| command | does |", "|---|---|", *overview, "", *sections])


def section(name: str, command: Any) -> str:
    """One command: its sentence, how to call it, its options as a table."""
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    call = " ".join([f"tbps {name}", *[spelled(argument) for argument in arguments], "[OPTIONS]"])
    rows = [f"| `{spelled(argument)}` | {text(argument)} |" for argument in arguments]
    rows += [f"| {' '.join(f'`{flag}`' for flag in flags(option))} | {text(option)} |" for option in options]
    body = (command.help or "").strip()
    return "\n".join(
        [f"## tbps {name}", "", body, "", f"    {call}", "", "| option | meaning |", "|---|---|", *rows, ""]
    )


def spelled(argument: Any) -> str:
    """NAME, or [NAME] when it may be left out."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def flags(option: Any) -> list[str]:
    """`--top N`: the spellings of an option, the value behind the long one."""
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return [f"{flag}{value}" for flag in [*option.opts, *option.secondary_opts]]


def text(parameter: Any) -> str:
    """The help of a parameter as one table cell, its default behind it."""
    words = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    shown = parameter.param_type_name == "option" and isinstance(default, int | float | str | Path) and default != ""
    if shown and not isinstance(default, bool) and "efault" not in words:
        words += f" Default: {default}."
    return words


def sentence(help_text: str | None) -> str:
    """The first sentence of a help text."""
    return " ".join((help_text or "").split("\n\n")[0].split())


def main(arguments: list[str]) -> int:
    written = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    fresh = page()
    if arguments == ["--check"]:
        if written != fresh:
            print(f"{PAGE.relative_to(PAGE.parents[1])} is out of date: run python scripts/docs.py", file=sys.stderr)
        return int(written != fresh)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
