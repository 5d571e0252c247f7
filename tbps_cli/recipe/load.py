"""From TOML to a validated recipe.

`tomllib`, then `extends`, then `--set`, then `method.name` picks the method's Config, then every
section is validated, and everything that is wrong is reported at once. Only a method's Config needs
torch (its file does), so a misspelt name, broken TOML or a wrong `--set` is answered without it.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tbps_cli import methods
from tbps_cli.methods.config import MethodConfig
from tbps_cli.recipe.draft import Draft, read
from tbps_cli.recipe.names import nearest
from tbps_cli.recipe.problems import Problem, explain, refuse, shown
from tbps_cli.recipe.schema import DataSection, OptimSection, Published, Recipe, StatedRecipe, TrainSection
from tbps_cli.section import Section

_SECTIONS: dict[str, type[Section]] = {
    "data": DataSection,
    "optim": OptimSection,
    "train": TrainSection,
    "published": Published,
}
_WORDS = "name", "note"


def load(recipe: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """A recipe by shipped name, file or run folder, with `KEY=VALUE` settings on top.

    Raises RecipeError that lists every problem with file, line, key, value and what is allowed;
    UsageError when a setting is not KEY=VALUE.
    """
    return build(drafted(recipe, sets))


def drafted(recipe: str | Path, sets: Sequence[str] = ()) -> Draft:
    """A recipe with its settings on top, before it is validated. Raises RecipeError or UsageError."""
    draft = read(recipe)
    for assignment in sets:
        draft.set(assignment)
    return draft


def stated(recipe: str | Path) -> StatedRecipe:
    """The sections of a recipe that need no torch to be validated, as far as somebody asks for them.

    Raises RecipeError as `load` does, for these sections.
    """
    draft = read(recipe)
    problems = list(_unusable(draft))
    data = _validated(draft, "data", DataSection, problems)
    published = _validated(draft, "published", Published, problems) if "published" in draft.values else None
    if problems:
        raise refuse(problems, draft.label)
    assert isinstance(data, DataSection) and isinstance(published, Published | None)
    return StatedRecipe(data, published)


def build(draft: Draft) -> Recipe:
    """Validate a draft. Raises RecipeError with all problems."""
    problems = list(_unusable(draft)) + _unknown_sections(draft)
    parts: dict[str, Any] = {"name": draft.stem}
    config = _method_config(draft, problems)
    for section, model in (_SECTIONS | {"method": config}).items():
        if model is not None and (section in draft.values or section != "published"):
            parts[section] = _validated(draft, section, model, problems)
    parts |= {word: draft.values[word] for word in _WORDS if word in draft.values}
    if problems:
        raise refuse(problems, draft.label)
    try:
        return Recipe(**parts)
    except ValidationError as error:
        texts = [str(item.get("ctx", {}).get("error", item["msg"])) for item in error.errors()]
        raise refuse([Problem(draft.label, text.rstrip(".") + ".") for text in texts], draft.label) from None


def _validated(draft: Draft, section: str, model: type[Section], problems: list[Problem]) -> Section | None:
    table = draft.values.get(section, {})
    if not isinstance(table, dict):
        problems.append(Problem(draft.where((section,)), f"{section} must be a table: [{section}]."))
        return None
    owner = str(table.get("name")) if section == "method" else f"[{section}]"
    try:
        # Through JSON, so that lists become tuples while "1" is still refused for 1.
        return model.model_validate_json(json.dumps(table))
    except ValidationError as error:
        problems.extend(explain(error, draft, section, model, owner))
        return None


def _method_config(draft: Draft, problems: list[Problem]) -> type[MethodConfig] | None:
    """The Config of the method that the draft names; None, with a problem, when there is none."""
    table = draft.values.get("method")
    name = table.get("name") if isinstance(table, dict) else None
    known = methods.names()
    if isinstance(name, str) and name in known:
        return methods.find(name).Config  # the method's file is imported here, and torch with it
    where = draft.where(("method", "name"))
    if name is None:
        problems.append(Problem(where, "method.name is missing.", f"Methods: {', '.join(known)}."))
    else:
        near = nearest(name, known) if isinstance(name, str) else None
        advice = f"Did you mean {near}? " if near else ""
        problems.append(
            Problem(where, f"method.name = {shown(name)} is not a method.", f"{advice}Methods: {', '.join(known)}.")
        )
    return None


def _unknown_sections(draft: Draft) -> list[Problem]:
    """Top-level keys that are not sections, and names and notes that are not strings."""
    known = [*_SECTIONS, "method", *_WORDS]
    problems = []
    for key, value in draft.values.items():
        if key not in known:
            near = nearest(key, known)
            advice = f"Did you mean {near}?" if near else f"Sections: {', '.join([*_SECTIONS, 'method'])}."
            problems.append(Problem(draft.where((key,)), f"{key} is not a section of a recipe.", advice))
        elif key in _WORDS and not isinstance(value, str):
            problems.append(Problem(draft.where((key,)), f"{key} = {shown(value)} must be a string in quotes."))
    return problems


def _unusable(draft: Draft) -> list[Problem]:
    """Values that TOML has and recipes do not use: dates, nan and inf; they are taken out."""
    problems: list[Problem] = []

    def clean(table: dict[str, Any], path: tuple[str, ...]) -> None:
        for key, value in list(table.items()):
            here = (*path, key)
            if isinstance(value, dict):
                clean(value, here)
            elif _strange(value):
                problems.append(
                    Problem(draft.where(here), f"{'.'.join(here)} = {value} must be a finite number or text.")
                )
                del table[key]

    clean(draft.values, ())
    return problems


def _strange(value: object) -> bool:
    if isinstance(value, list | dict):
        return any(_strange(item) for item in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, datetime.date | datetime.time)
