"""The record of what was chosen on which split: written into heads of files, and read from any file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.choices import LABELS, Choice, Choices

MADE = Choices({"epoch": Choice("val", "cuhk-pedes", 60), "file": Choice("test", "icfg-pedes", 3)})


def test_what_is_written_is_read_again() -> None:
    assert Choices.read(MADE.facts()) == MADE
    assert MADE.facts()["selected_on"] == MADE.selected_on == "val"
    assert Choices.read({"choices": MADE.document()}) == MADE  # an export holds it as a table
    assert Choices().facts() == {}


def test_a_file_of_before_says_where_its_epoch_was_chosen() -> None:
    assert Choices.read({"selected_on": "test"}) == Choices({"epoch": Choice("test")})


def test_a_choice_counts_on_the_split_that_made_it_alone() -> None:
    made = Choice("test", "cuhk-pedes", 3)
    assert made.is_on("test", "cuhk-pedes")
    assert not made.is_on("val", "cuhk-pedes") and not made.is_on("test", "rstpreid")
    assert made.words("cuhk-pedes") == "test (best of 3)"
    assert made.words("rstpreid") == "test of cuhk-pedes (best of 3)"
    assert Choice("test").is_on("test", "anything")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LABELS, "on", "of", "data"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_any_head_is_read_without_an_error(value: object) -> None:
    for given_value in (value, json.dumps(value)):
        for choice in Choices.read({"choices": given_value}).made.values():
            assert isinstance(choice.on, str) and isinstance(choice.data, str | None)


def test_a_head_cannot_write_lines_of_its_own() -> None:
    forged = {"selected_on": "val\n- R@1 99.9", "choices": {"file": {"on": "test", "data": "a\nb", "of": True}}}
    assert Choices.read(forged) == Choices({"file": Choice("test")})


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "null"])
def test_a_broken_head_is_no_record(text: str) -> None:
    assert Choices.read({"choices": text}) == Choices()
