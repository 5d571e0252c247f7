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
from tbps_cli.recipe.save import dump


@pytest.mark.parametrize("name", list_recipes())
def test_a_shipped_recipe_survives_saving(name: str, tmp_path: Path) -> None:
    recipe, _ = resolve(load(name), Facts(cpus=4))
    path = tmp_path / "recipe.toml"
    path.write_text(dump(recipe), encoding="utf-8")
    again = load(path)
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert '"auto"' not in dump(recipe)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
SIDE = st.integers(1, 2**60)


@settings(deadline=None)
@given(TEXT, TEXT, st.tuples(SIDE, SIDE), st.floats(1e-300, 1e300), st.dictionaries(st.text(max_size=5), SIDE))
def test_any_text_number_and_table_survives(name: str, note: str, size: tuple[int, int], rate: float, scale) -> None:
    stated = load("demo")
    data = stated.data.model_copy(update={"name": name, "image_size": size})
    optim = stated.optim.model_copy(update={"lr": rate, "scale": scale})
    recipe = stated.model_copy(update={"data": data, "optim": optim, "note": note})
    assert tomllib.loads(dump(recipe)) == recipe.model_dump(mode="json", exclude_none=True)


def test_a_saved_recipe_has_one_setting_a_line() -> None:
    text = dump(load("irra", ["optim.milestones=[20, 50]"]))
    assert "image_size = [384, 128]\n" in text and "milestones = [20, 50]\n" in text
    assert "\n[optim.scale]\nnew = 5.0\nbias = 2.0\n" in text
    assert all(line.startswith("[") or " = " in line for line in text.splitlines() if line)
