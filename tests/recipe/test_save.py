"""A saved recipe loads equal, whatever it holds."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.recipe.load import load
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.resolve import Facts, resolve
from tbps_cli.recipe.save import dump, toml_value


@pytest.mark.parametrize("name", list_recipes())
def test_a_shipped_recipe_survives_saving(name: str, tmp_path: Path) -> None:
    recipe, _ = resolve(load(name), Facts(cpus=4))
    path = tmp_path / "recipe.toml"
    path.write_text(dump(recipe), encoding="utf-8")
    again = load(path)
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert '"auto"' not in dump(recipe)


@settings(deadline=None)
@given(st.text().filter(lambda text: text.isprintable() or "\n" in text or "\x7f" in text))
def test_any_text_survives(text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    assert tomllib.loads(f"value = {toml_value(text)}")["value"] == text


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60) | st.booleans())
def test_any_number_survives_with_its_type(number: float | int | bool) -> None:
    back = tomllib.loads(f"value = {toml_value(number)}")["value"]
    assert back == number
    assert type(back) is type(number)
