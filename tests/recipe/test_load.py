"""Reading recipes: what is merged in which order, and what a mistake looks like."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import RecipeError, UsageError
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build, load
from tbps_cli.recipe.names import list_recipes

GOOD = """\
[data]
name = "synthetic"
[method]
name = "irra"
[train]
epochs = 3
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def mistake(path: Path | str, *sets: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load(path, sets)
    return caught.value


def test_defaults_fill_what_a_short_recipe_leaves_out(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, GOOD))
    assert recipe.name == "mine"
    assert recipe.train.epochs == 3
    assert recipe.train.batch == 64
    assert type(recipe.method).__qualname__ == "IRRA.Config"
    assert recipe.published is None


def test_lists_become_tuples_and_whole_numbers_serve_as_rates(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, GOOD), ["data.image_size=[96, 32]", "optim.lr=1"])
    assert recipe.data.image_size == (96, 32)
    assert recipe.optim.lr == 1.0


def test_the_nearer_file_wins_key_by_key_and_set_comes_last(tmp_path: Path) -> None:
    write(tmp_path, GOOD + "batch = 8\nseed = 5\n", "base.toml")
    write(tmp_path, 'extends = "base.toml"\n[train]\nepochs = 4\n', "middle.toml")
    top = write(tmp_path, 'extends = "middle.toml"\n[train]\nbatch = 16\n')
    train = load(top, ["train.seed=9"]).train
    assert (train.epochs, train.batch, train.seed) == (4, 16, 9)


def test_a_shipped_recipe_can_be_extended_by_name_without_its_published_scores(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, 'extends = "irra"\n[train]\nepochs = 2\n'))
    assert recipe.optim.scale == {"new": 5.0, "bias": 2.0}
    assert recipe.train.epochs == 2
    assert recipe.published is None
    assert recipe.note == ""
    assert recipe.name == "mine"


def test_a_run_folder_is_a_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "irra-0007").mkdir()
    write(tmp_path / "irra-0007", GOOD, "recipe.toml")
    assert load(tmp_path / "irra-0007").name == "irra-0007"


def test_a_circle_of_extends_is_refused_with_its_chain(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "b.toml"\n', "a.toml")
    write(tmp_path, '\nextends = "a.toml"\n', "b.toml")
    error = mistake(tmp_path / "a.toml")
    assert "b.toml:2: extends leads back to itself" in error.message
    assert error.message.count("a.toml ->") == 1


def test_extends_of_a_missing_recipe_names_line_and_nearest(tmp_path: Path) -> None:
    error = mistake(write(tmp_path, '# head\nextends = "irrra"\n'))
    assert "mine.toml:2: extends: there is no recipe 'irrra'." in error.message
    assert error.hint == "Did you mean irra?"


def test_an_unknown_name_suggests_the_nearest_recipe() -> None:
    error = mistake("clipp")
    assert error.hint == "Did you mean clip?"
    assert all(name in (mistake("zzzzzz").hint or "") for name in list_recipes())


ALL_WRONG = """\
[data]
nam = "synthetic"
image_size = [384]
sampler = "ident"

[method]
name = "irra"
temprature = 0.02
sdm = "1"
tower = { width = 0 }

[optim]
lr = 0
betas = [0.9, 1.5]
kind = "adm"

[trian]
epochs = 3
"""


def test_an_image_size_that_no_memory_holds_is_a_mistake(tmp_path: Path) -> None:
    error = mistake(write(tmp_path, GOOD), "data.image_size=[1600000, 128]")
    assert "data.image_size[0] = 1600000 must be at most 8192" in str(error)


def test_all_mistakes_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    error = mistake(write(tmp_path, ALL_WRONG), "train.workers=many", "train.batch=2.5")
    place = tmp_path / "mine.toml"
    expected = [
        f'{place}:2: data.nam = "synthetic" is not a setting of [data]. Did you mean name?',
        f"{place}:1: data.name is missing.",
        f"{place}:3: data.image_size has too few entries.",
        f'{place}:4: data.sampler = "ident" must be one of "auto", "random", "identity", "identity-chunks". '
        'Did you mean "identity"?',
        f"{place}:8: method.temprature = 0.02 is not a setting of irra. Did you mean temperature?",
        f'{place}:9: method.sdm = "1" must be a number.',
        f"{place}:10: method.tower.width = 0 must be at least 1.",
        f"{place}:10: method.tower.layers is missing.",
        f"{place}:13: optim.lr = 0 must be above 0.",
        f"{place}:14: optim.betas[1] = 1.5 must be below 1.",
        f'{place}:15: optim.kind = "adm" must be one of "adam", "adamw", "sgd". Did you mean "adam"?',
        f"{place}:17: trian is not a section of a recipe. Did you mean train?",
        '--set: train.workers = "many" must be "auto" or a whole number.',
        "--set: train.batch = 2.5 must be a whole number.",
    ]
    lines = [line.strip() for line in error.message.splitlines()[1:]]
    assert [line for line in expected if line not in lines] == []
    # Beside those, only the other sizes that the tower's table lacks.
    assert {line for line in lines if line not in expected} == {
        f"{place}:10: method.tower.{size} is missing." for size in ("embed", "text_width", "text_layers")
    }
    assert f"{len(lines)} problems in the recipe" in error.message


def test_a_single_mistake_is_one_line_with_its_hint() -> None:
    error = mistake("irra", "method.temprature=0.1")
    assert error.message == "--set: method.temprature = 0.1 is not a setting of irra."
    assert error.hint == "Did you mean temperature?"


def test_a_key_of_another_method_names_that_method() -> None:
    assert mistake("clip", "method.n_ctx=4").hint == "n_ctx is a key of method cskt."


def test_an_unknown_method_names_the_nearest_and_all(tmp_path: Path) -> None:
    error = mistake(write(tmp_path, GOOD.replace('"irra"', '"ira"')))
    assert error.message.endswith('mine.toml:4: method.name = "ira" is not a method.')
    assert error.hint is not None
    assert error.hint.startswith("Did you mean irra? Methods: clip, ")


def test_an_unknown_tower_lists_the_towers() -> None:
    error = mistake("irra", "method.tower=ViT-B/17")
    assert error.message.startswith('--set: method.tower = "ViT-B/17" must be one of ViT-B-32, ViT-B-16')


def test_a_tower_of_the_wrong_kind_is_one_problem() -> None:
    assert mistake("irra", "method.tower=3").message.endswith("must be a string in quotes or a table.")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[data]\nname = cuhk\n", "mine.toml:2: not valid TOML"),
        ("[data]\nname = 1\nname = 2\n", "mine.toml:3: not valid TOML"),
    ],
)
def test_broken_toml_is_reported_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    assert place in mistake(write(tmp_path, text)).message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert mistake(path).message.endswith("mine.toml is not a text file in UTF-8.")


@pytest.mark.parametrize("value", ["nan", "inf", "1979-05-27", "[0.9, nan]"])
def test_values_that_no_setting_can_take_are_refused(value: str) -> None:
    assert "must be a finite number or text" in mistake("irra", f"optim.lr={value}").message


def test_a_section_that_is_no_table_is_refused() -> None:
    assert mistake("irra", "train=3").message == "--set: train must be a table: [train]."


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["optim.schedule=step"], 'schedule = "step" needs milestones'),
        (["optim.milestones=[50, 20]"], "milestones must be in increasing order"),
        (["optim.schedule=cosine-per-step"], "needs lr_start and lr_end"),
        (["train.accumulate=7"], "batch = 64 must be a multiple of accumulate = 7"),
        (["train.accumulate=2", "train.chunk=8"], "both save memory"),
        (["data.noise_file=x.npy"], "noise_rate is 0"),
        (["data.sampler=identity", "data.per_identity=5"], "must be a multiple of data.per_identity = 5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sets: list[str], message: str) -> None:
    assert message in mistake("irra", *sets).message


def test_bytes_that_are_not_utf_8_are_a_wrong_command_line() -> None:
    with pytest.raises(UsageError, match=r"data\.name=a\\udcff: this is not UTF-8"):
        load("irra", ["data.name=a\udcff"])


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_a_number_or_list_that_no_parser_takes_is_refused_as_text(value: str) -> None:
    assert mistake("irra", f"train.epochs={value}").message.endswith("... must be a whole number.")


@pytest.mark.parametrize("assignment", ["train.epochs", "=3", "train.=3", "train..epochs=3"])
def test_a_setting_that_is_no_assignment_is_a_wrong_command_line(assignment: str) -> None:
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        load("irra", [assignment])


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.name=pairs of mine.jsonl", "pairs of mine.jsonl"),
        ('data.name="a = b"', "a = b"),
        ("data.name=a=b", "a=b"),
        ("data.name=x\nother = 3", "x\nother = 3"),
    ],
)
def test_bare_words_of_a_setting_are_a_string(assignment: str, value: str) -> None:
    assert load("demo", [assignment]).data.name == value


def test_numbers_and_truth_are_understood_as_people_type_them() -> None:
    recipe = load("demo", ["data.augment=False", "optim.lr=.5", "optim.eps=1e-6"])
    assert (recipe.data.augment, recipe.optim.lr, recipe.optim.eps) == (False, 0.5, 1e-6)


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "c:x"])
def test_a_name_that_would_leave_the_folder_of_runs_is_refused(name: str) -> None:
    assert "no slash, colon or leading dot" in mistake("demo", f"name={name}").message


def test_extends_cannot_be_set_from_the_command_line() -> None:
    assert mistake("demo", "extends=irra").message == "--set: extends is not a section of a recipe."


ANYTHING = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    ("data", "name"), ("data", "image_size"), ("data", "store"), ("method", "name"), ("method", "tower"),
    ("method", "sdm"), ("optim", "betas"), ("optim", "scale"), ("optim", "milestones"), ("train", "workers"),
    ("train", "seed"), ("published", "R1"), ("train", "no such key"),
]  # fmt: skip


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4),
    st.dictionaries(st.sampled_from(["data", "method", "optim", "train", "name", "x"]), ANYTHING, max_size=1),
)
def test_no_content_of_a_recipe_escapes_as_anything_but_a_recipe_error(
    values: dict[tuple[str, str], object], tops: dict[str, object]
) -> None:
    tables: dict[str, Any] = {"data": {"name": "synthetic"}, "method": {"name": "irra"}}
    for (section, key), value in values.items():
        tables.setdefault(section, {})[key] = value
    tables |= tops
    with contextlib.suppress(RecipeError):
        build(Draft(tables, {}, "invented.toml", "invented"))


def test_a_table_given_by_set_replaces_the_whole_table() -> None:
    assert load("irra", ["optim.scale={bias = 3.0}"]).optim.scale == {"bias": 3.0}
    assert load("irra", ["optim.scale.bias=3.0"]).optim.scale == {"new": 5.0, "bias": 3.0}


def test_a_recipe_of_another_method_keeps_data_and_training_but_not_the_method(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "irra"\n[method]\nname = "clip"\n[train]\nbatch = 32\n')
    recipe = load(path)
    assert (recipe.method.name, recipe.train.batch, recipe.optim.eps) == ("clip", 32, 1e-3)
