"""Recipes as TOML text: what is written into every run, and reads back equal."""

from __future__ import annotations

import re

import tomli_w

from tbps_cli.recipe.schema import Recipe

_LIST = re.compile(r"\[\n([^\[\]{}\"]*?),\n\s*\]")
"""A list of numbers as tomli_w writes it, one entry a line. It quotes strings and escapes their line ends,
so this never matches inside one."""


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML, every setting written out; `load` of the text gives an equal recipe.

    Settings without a value (None) have no spelling in TOML and are left out: None is their default.
    Lists of numbers stand on one line.
    """
    text = tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
    return _LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
