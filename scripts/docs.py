"""Writes docs/cli.md from the commands, the tables of keys in docs/recipes.md from the schema, and the table of
methods in docs/methods.md from the methods themselves.
`--check` only says whether they are up to date.

python scripts/docs.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tbps_cli import methods
from tbps_cli.cli import help as pages
from tbps_cli.cli.app import COMMANDS, load_command
from tbps_cli.recipe.listing import count_parameters
from tbps_cli.recipe.load import load
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.problems import shown
from tbps_cli.recipe.schema import DataSection, OptimSection, Published, TrainSection
from tbps_cli.section import Section

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECTIONS: dict[str, type[Section]] = {
    "data": DataSection,
    "optim": OptimSection,
    "train": TrainSection,
    "published": Published,
}
BEGIN = "<!-- keys: begin; written by scripts/docs.py -->"
END = "<!-- keys: end -->"
METHODS_BEGIN = "<!-- methods: begin; written by scripts/docs.py -->"
METHODS_END = "<!-- methods: end -->"

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
    commands = [(name, load_command(name)) for name in COMMANDS]
    overview = [
        f"| {COMMANDS[name].group} | [`tbps {name}`](#tbps-{name}) | {sentence(command.help)} |"
        for name, command in commands
    ]
    sections = [section(name, command) for name, command in commands]
    return "\n".join([HEAD, "| about | command | does |", "|---|---|---|", *overview, "", *sections])


def section(name: str, command: Any) -> str:
    """One command: its sentence, how to call it, an example, its options as a table; as `--help` has them."""
    rows: list[str] = []
    for heading, part in pages.sections(command.params).items():
        rows += ["", f"| {heading} | meaning |", "|---|---|"]
        for typed, meaning in part:
            words = [typed] if heading == "Arguments" else typed.split(", ")
            rows.append(f"| {' '.join(f'`{cell(word)}`' for word in words)} | {cell(meaning)} |")
    calls = [f"    {pages.usage(f'tbps {name}', command)}", f"    {command.epilog}"]
    body = (command.help or "").strip()
    return "\n".join([f"## tbps {name}", "", body, "", *calls, *rows, ""])


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|")


def sentence(help_text: str | None) -> str:
    """The first sentence of a help text."""
    return " ".join((help_text or "").split("\n\n")[0].split())


def recipes_page() -> str:
    """docs/recipes.md with the tables between its two marks written anew."""
    return between("recipes.md", BEGIN, END, [keys_table(name, model) for name, model in SECTIONS.items()])


def between(page: str, begin: str, end: str, parts: list[str]) -> str:
    """A page with what stands between its two marks written anew."""
    before, rest = (DOCS / page).read_text(encoding="utf-8").split(begin)
    return "\n\n".join([before + begin, *parts, end + rest.split(end)[1]])


def methods_page() -> str:
    """docs/methods.md with its table of methods written anew."""
    rows = [method_row(name) for name in methods.names()]
    table = "\n".join(["| method | idea | trained | recipes | paper |", "|---|---|---|---|---|", *rows])
    return between("methods.md", METHODS_BEGIN, METHODS_END, [table])


def method_row(name: str) -> str:
    """One method: what its module says first, its size, its recipes, its paper."""
    kind = methods.find(name)
    idea = (inspect.getdoc(inspect.getmodule(kind)) or "").split("\n")[0].partition(": ")[2].removesuffix(".")
    recipes = [recipe for recipe in list_recipes() if load(recipe).method.name == name]
    counts = count_parameters(load(name if name in recipes else recipes[0]))
    size = f"{counts.all / 1e6:.1f} M"
    if counts.trained < counts.all:
        size = f"{counts.trained / 1e6:.1f} M of {size}"
    if counts.inference < counts.all:
        size += f" ({counts.inference / 1e6:.1f} M at inference)"
    page = f"[`{name}`](methods/{name}.md)" if (DOCS / "methods" / f"{name}.md").is_file() else f"`{name}`"
    named = ", ".join(f"`{recipe}`" for recipe in recipes)
    return f"| {page} | {idea} | {size} | {named} | {kind.paper} |"


def keys_table(name: str, model: type[Section]) -> str:
    """One section of a recipe: key, type, default, meaning."""
    meanings = dict(attribute_docstrings(model))
    rows = []
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        value = "required" if field.is_required() else "none" if default is None else f"`{shown(default)}`"
        rows.append(f"| `{key}` | {value} | {meanings.get(key, choices(field.annotation))} |")
    return "\n".join(
        [
            f"## [{name}]",
            "",
            (model.__doc__ or "").replace("\n", " "),
            "",
            "| key | default | meaning |",
            "|---|---|---|",
            *rows,
        ]
    )


def attribute_docstrings(model: type[Section]) -> Iterator[tuple[str, str]]:
    """The string below each field of a class; allowed values are put before it."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            assert isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
            allowed = choices(model.model_fields[field.target.id].annotation)
            yield field.target.id, " ".join(f"{allowed} {below.value.value}".split())


def choices(annotation: Any) -> str:
    """The allowed words of a Literal, in front of its meaning."""
    words = [part for part in get_args(annotation) if isinstance(part, str)]
    inner = [choices(part) for part in get_args(annotation) if get_origin(part) is Literal]
    return " ".join([", ".join(f"`{word}`" for word in words) + "." if words else "", *inner]).strip()


def main(arguments: list[str]) -> int:
    stale = []
    for name, fresh in (("cli.md", page()), ("recipes.md", recipes_page()), ("methods.md", methods_page())):
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != fresh:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(fresh, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"out of date: {', '.join(stale)} in docs/; run python scripts/docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
