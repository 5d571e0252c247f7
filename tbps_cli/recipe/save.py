"""Recipes as TOML text: what is written into every run, and reads back equal.

The standard library reads TOML but does not write it; a recipe needs only tables, strings, numbers,
booleans and lists of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tbps_cli.recipe.schema import Recipe

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML, every setting written out; `load` of the text gives an equal recipe.

    Settings without a value (None) have no spelling in TOML and are left out: None is their default.
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    blocks = [_assignments({key: value for key, value in values.items() if key not in tables})]
    blocks += [f"[{name}]\n{_assignments(table)}" for name, table in tables.items()]
    return "\n".join(block for block in blocks if block)


def toml_value(value: object) -> str:
    """One value in TOML's spelling, tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def _assignments(table: Mapping[str, object]) -> str:
    return "".join(f"{_key(key)} = {toml_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)
