"""A recipe before validation: plain tables, and where every value came from.

Files are merged along `extends` (the nearer file wins, key by key) and `--set` comes last.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tbps_cli.errors import RecipeError, UsageError
from tbps_cli.recipe.names import folder, locate
from tbps_cli.recipe.toml_positions import KeyPath, key_lines

OWN = "name", "note", "published"
"""Keys that speak about one file and are not inherited."""

_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Draft:
    """Tables as read, the place of each key (`file:line` or `--set`), and the file's label."""

    values: dict[str, object]
    origins: dict[KeyPath, str]
    label: str
    stem: str = ""
    stated: frozenset[KeyPath] = frozenset()
    """The keys that the user wrote: in a file of their own or with `--set`, not in a shipped recipe."""

    def where(self, path: KeyPath) -> str:
        """The place of a key; of a key in it, or of the table around it, when the key itself stands nowhere."""
        inside = [place for known, place in self.origins.items() if known[: len(path)] == path]
        if inside and path not in self.origins:
            return inside[0]
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.label

    def is_stated(self, path: KeyPath) -> bool:
        """Whether the user wrote a key, or any key below it."""
        return any(known[: len(path)] == path for known in self.stated)

    def over(self, base: Draft) -> Draft:
        """This draft on top of the one that it extends.

        A draft that names another method starts `[method]` afresh: keys of one method mean nothing
        to another, while data, optimiser and training are what relatives share.
        """
        dropped = {*OWN, "method"} if _other_method(self.values, base.values) else set(OWN)
        kept = {key: value for key, value in base.values.items() if key not in dropped}
        origins = {path: place for path, place in base.origins.items() if path[0] not in dropped}
        stated = self.stated | {path for path in base.stated if path[0] not in dropped}
        return Draft(_merged(kept, self.values), origins | self.origins, self.label, self.stem, stated)

    def set(self, assignment: str) -> None:
        """Apply one `KEY=VALUE` of the command line. Raises UsageError when it is not one."""
        key, equals, value = assignment.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise UsageError(f"--set {assignment}: this is not KEY=VALUE.", "For example: --set train.epochs=30")
        if any("\ud800" <= letter <= "\udfff" for letter in assignment):
            raise UsageError(f"--set {ascii(assignment)[1:-1]}: this is not UTF-8, as recipes are.")
        table = self.values
        for part in path[:-1]:
            inner = table.get(part)
            table[part] = inner = dict(inner) if isinstance(inner, dict) else {}
            table = inner
        table[path[-1]] = set_value(value.strip())
        for old in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[old]
        self.origins[path] = "--set"
        self.stated |= {path}


def set_value(text: str) -> object:
    """The value of a `--set`: as TOML writes it, else the bare words themselves.

    `True`, `False` and `.5` are understood as well, since nobody types them as strings.
    """
    if text in ("True", "False"):
        return text == "True"
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # ValueError: TOMLDecodeError, and numbers of 5,000 digits
        return text
    return table["value"] if len(table) == 1 else text


def read(recipe: str | Path) -> Draft:
    """The draft of a recipe with everything that it extends. Raises RecipeError."""
    path = locate(recipe)
    draft = _read_file(path)
    seen = [path.resolve()]
    while "extends" in draft.values:
        path = _extended(draft, path)
        if path.resolve() in seen:
            chain = " -> ".join(shown(link) for link in [*seen, path.resolve()])
            raise RecipeError(f"{draft.where(('extends',))}: extends leads back to itself: {chain}.")
        seen.append(path.resolve())
        del draft.values["extends"]
        draft.origins.pop(("extends",), None)
        draft = draft.over(_read_file(path))
    return draft


def shown(path: Path) -> str:
    """A path as the user would type it: relative when it lies below the working folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _extended(draft: Draft, path: Path) -> Path:
    """The file that a draft, read from `path`, extends."""
    target = draft.values["extends"]
    place = draft.where(("extends",))
    if not isinstance(target, str):
        raise RecipeError(f"{place}: extends must be the path or the name of a recipe, in quotes.")
    try:
        return locate(target, beside=path.parent)
    except RecipeError as error:
        raise RecipeError(f"{place}: extends: {error.message}", error.hint) from None


def _read_file(path: Path) -> Draft:
    label = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{label} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{label} is not a text file in UTF-8.") from None
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and numbers of 5,000 digits
        raise _broken(label, str(error)) from None
    origins = {key: f"{label}:{line}" for key, line in key_lines(text).items()}
    stem = path.parent.resolve().name if path.name == "recipe.toml" else path.stem
    stated = frozenset() if path.parent == folder() else frozenset(origins)
    return Draft(values, origins, label, stem, stated)


def _broken(label: str, reason: str) -> RecipeError:
    """Say where TOML breaks: the parser's "(at line 3, column 5)" becomes file:3."""
    match = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", reason)
    place = f"{label}:{match[2]}" if match else label
    return RecipeError(
        f"{place}: not valid TOML: {match[1] if match else reason}.",
        "Put strings in quotes, section names in [brackets], and one key = value on each line.",
    )


def _other_method(values: Mapping[str, object], base: Mapping[str, object]) -> bool:
    """Whether a recipe names a method, and not the one of the recipe that it extends."""
    own, below = values.get("method"), base.get("method")
    return isinstance(own, dict) and isinstance(below, dict) and own.get("name", below.get("name")) != below.get("name")


def _merged(base: Mapping[str, object], top: Mapping[str, object]) -> dict[str, object]:
    """Tables merged key by key; anything else of the top replaces the base's."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
