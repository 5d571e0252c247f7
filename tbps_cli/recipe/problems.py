"""What is wrong with a recipe, in a user's words: place, key, value, what is allowed, nearest name."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from tbps_cli import methods
from tbps_cli.errors import RecipeError
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.names import nearest

_REQUIREMENTS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string in quotes",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "not empty",
    "too_short": "a list of at least {min_length} entries",
    "too_long": "a list of at most {max_length} entries",
    "literal_error": "one of {expected}",
}
_LONGEST_VALUE = 60

Found = tuple[tuple[str | int, ...], Mapping[str, typing.Any]]


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, what it is, and what to do instead (may be empty)."""

    where: str
    text: str
    hint: str = ""


def refuse(problems: list[Problem], label: str) -> RecipeError:
    """The error that lists all problems, one a line."""
    if len(problems) == 1:
        only = problems[0]
        return RecipeError(f"{only.where}: {only.text}", only.hint or None)
    lines = [f"  {problem.where}: {problem.text} {problem.hint}".rstrip() for problem in problems]
    return RecipeError(
        "\n".join([f"{len(problems)} problems in the recipe {label}:", *lines]),
        "Print a complete recipe with: tbps recipes irra",
    )


def explain(error: ValidationError, draft: Draft, section: str, model: type[BaseModel], owner: str) -> list[Problem]:
    """The problems of one section. owner: how the section is called in a sentence."""
    found = [(_path(item["loc"], draft.values.get(section), item["type"]), item) for item in error.errors()]
    deepest = [
        (path, item)
        for path, item in found
        if not any(len(other) > len(path) and other[: len(path)] == path for other, _ in found)
    ]
    grouped: dict[tuple[str | int, ...], list[Mapping[str, typing.Any]]] = {}
    for path, item in deepest:
        grouped.setdefault(path, []).append(item)
    return [_problem(path, items, draft, section, model, owner) for path, items in grouped.items()]


def _problem(
    path: tuple[str | int, ...],
    items: list[Mapping[str, typing.Any]],
    draft: Draft,
    section: str,
    model: type[BaseModel],
    owner: str,
) -> Problem:
    keys = tuple(str(part) for part in path)
    where = draft.where((section, *keys))
    kind = items[0]["type"]
    name = _spelled(section, path)
    if kind == "missing":
        few = path and isinstance(path[-1], int)
        return Problem(where, f"{_spelled(section, path[:-1])} has too few entries." if few else f"{name} is missing.")
    if not path:
        return Problem(where, f"[{section}] {_own_words(items[0])}.")
    setting = f"{name} = {shown(items[0]['input'])}"
    if kind == "extra_forbidden":
        return Problem(where, f"{setting} is not a setting of {owner}.", _advice(keys, model, section))
    if kind == "value_error":
        return Problem(where, f"{setting} {_own_words(items[0])}.")
    allowed = " or ".join(dict.fromkeys(_requirement(item) for item in items))
    return Problem(where, f"{setting} must be {allowed}.", _near_choice(items))


def _path(loc: tuple[str | int, ...], raw: object, kind: str) -> tuple[str | int, ...]:
    """The keys of a location, without the tags that pydantic adds for the branches of a union."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(raw, dict) and (part in raw or (last and kind == "missing")):
            raw = raw.get(part)
            path.append(part)
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
            path.append(part)
    return tuple(path)


def _spelled(section: str, path: tuple[str | int, ...]) -> str:
    return section + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _own_words(item: Mapping[str, typing.Any]) -> str:
    """The text of a ValueError that a section raised itself."""
    return str(item.get("ctx", {}).get("error", "is not valid")).rstrip(".")


def _requirement(item: Mapping[str, typing.Any]) -> str:
    context = {key: _plain(value) for key, value in item.get("ctx", {}).items()}
    if item["type"] == "literal_error":
        choices = _choices(item)
        return "one of " + ", ".join(f'"{choice}"' for choice in choices) if len(choices) > 1 else f'"{choices[0]}"'
    if item["type"] in _REQUIREMENTS:
        return _REQUIREMENTS[item["type"]].format(**context)
    return "a valid value"


def _plain(value: object) -> object:
    """1.0 is shown as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _choices(item: Mapping[str, typing.Any]) -> list[str]:
    """The values of a Literal, from pydantic's "'a', 'b' or 'c'"."""
    return item["ctx"]["expected"].replace("' or '", "', '").strip("'").split("', '")


def _near_choice(items: list[Mapping[str, typing.Any]]) -> str:
    value = items[0]["input"]
    choices = [choice for item in items if item["type"] == "literal_error" for choice in _choices(item)]
    near = nearest(value, choices) if isinstance(value, str) and choices else None
    return f'Did you mean "{near}"?' if near else ""


def shown(value: object) -> str:
    """A value as it is written in a recipe, shortened where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _advice(keys: tuple[str, ...], model: type[BaseModel], section: str) -> str:
    """What to write instead of an unknown key: the nearest one, the method that has it, or all."""
    for key in keys[:-1]:
        model = next(_models_in(model.model_fields[key].annotation), model) if key in model.model_fields else model
    known = list(model.model_fields)
    pieces = []
    near = nearest(keys[-1], known)
    if near:
        pieces.append(f"Did you mean {near}?")
    if section == "method" and len(keys) == 1:
        owners = [name for name in methods.names() if keys[0] in methods.find(name).Config.model_fields]
        if owners:
            pieces.append(f"{keys[0]} is a key of method {', '.join(owners)}.")
    return " ".join(pieces) or f"Settings: {', '.join(known)}."


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The sections among the alternatives of an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)
