"""The recipes that come with the package: where they lie and what they are called."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from tbps_cli.errors import RecipeError

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def list_recipes() -> list[str]:
    """The names of all shipped recipes, in alphabetical order."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def locate(recipe: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: a shipped name, a file, or a folder that holds recipe.toml (a run).

    beside: folder that a relative path starts from (for `extends`); the working folder otherwise.
    Raises RecipeError with the nearest shipped name.
    """
    text = str(recipe)
    if isinstance(recipe, str) and text in list_recipes():
        return folder() / f"{text}.toml"
    path = Path(text).expanduser() if beside is None else beside / Path(text).expanduser()
    if path.is_dir() and (path / "recipe.toml").is_file():
        return path / "recipe.toml"
    if path.is_file():
        return path
    raise RecipeError(f"there is no recipe {text!r}.", _advice(path, text))


def _advice(path: Path, text: str) -> str:
    known = list_recipes()
    if path.is_dir():
        return f"{text} is a folder without recipe.toml. Shipped recipes: {', '.join(known)}."
    near = nearest(Path(text).stem, known)
    return f"Did you mean {near}?" if near else f"Shipped recipes: {', '.join(known)}; or give the path of a file."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like the word, or None when none comes near."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[match[0]] if match else None
