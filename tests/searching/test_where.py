"""The filter language of a search."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.errors import UsageError
from tbps_cli.searching.where import parse, require

ROW: dict[str, Any] = {
    "path": "night/gate/03.jpg",
    "person": 12,
    "camera": "c1",
    "time": "2026-03-04T05:06:07",
    "split": "test",
    "score": 0.31,
}
NOTHING: dict[str, Any] = dict.fromkeys(ROW)


@pytest.mark.parametrize(
    "text",
    [
        'camera == "c1"',
        "camera = 'c1'",
        'camera == "c1" and time >= "2026-01-01"',
        'path like "night/*"',
        'path like "*.jp?"',
        "person == 12",
        'person == "12"',
        "person in (3, 12)",
        'camera not in ("c2", "c3")',
        "score > 0.3 and score <= 3.1e-1",
        'not camera == "c2"',
        'camera == "c2" or camera == "c3" or split == "test"',
        'camera == "c1" or camera == "c2" and split == "train"',
        '(camera == "c1" or camera == "c2") and person != none',
        'NOT (camera == "c9" AND person == 12)',
        r'camera != "a\"b"',
        "  person==12  ",
    ],
)
def test_an_image_that_fits_is_kept(text: str) -> None:
    assert parse(text)(ROW)


@pytest.mark.parametrize(
    "text",
    [
        'camera == "C1"',
        'path like "day/*"',
        "person == 13",
        "score > 0.31",
        'time < "2026"',
        "person in (1, 2)",
        "person not in (12)",
        '(camera == "c1" or camera == "c2") and split == "train"',
    ],
)
def test_an_image_that_does_not_fit_is_left_out(text: str) -> None:
    assert not parse(text)(ROW)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*[1]*", "IMG [1].png", True),
        ("*[1]*", "IMG 1.png", False),
        ("IMG [1].png", "IMG [1].png", True),
        ("[ab]*", "a.png", False),
        ("[ab]*", "[ab].png", True),
        ("[!a]?", "[!a]b", True),
        ("a.b", "axb", False),
        ("*]*", "a]b", True),
        ("*a*a*a*a*a*a*a*a*a*a*a*a*b", "a" * 250, False),
    ],
)
def test_like_knows_the_star_and_the_question_mark_and_nothing_else(pattern: str, name: str, fits: bool) -> None:
    assert parse(f'path like "{pattern}"')({"path": name}) is fits


@pytest.mark.parametrize(
    "text", ['camera == "c1"', "not camera in (1, 2)", 'camera != "c1"', 'score > 0 or camera < "z"']
)
def test_a_field_that_no_image_has_is_an_error_that_names_what_there_is(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        require(parse(text), lambda field: field in ("path", "time"))
    assert caught.value.message == "--where: no image here has a camera."
    assert caught.value.hint and caught.value.hint.startswith("What is known of them: path, time, score.")
    require(parse(text), lambda field: True)


def test_whether_a_field_is_unknown_may_always_be_asked() -> None:
    require(parse("camera == none or person != none and score > 0.1"), lambda field: False)


@pytest.mark.parametrize("text", ['camera >= "a"', 'path like "*"', "person == 12", "score < 1", "person in (12)"])
def test_what_is_unknown_fits_no_comparison(text: str) -> None:
    assert not parse(text)(NOTHING)


def test_what_is_unknown_can_be_asked_for() -> None:
    assert parse("person == none")(NOTHING)
    assert not parse("person == null")(ROW)
    assert parse("camera != 'c1'")(NOTHING)


def test_a_person_named_like_no_number_is_compared_as_a_text() -> None:
    assert parse('person == "nan"')({"person": "nan"})
    assert not parse('person == "1_2"')({"person": 12})


def test_the_fields_of_a_filter_are_known() -> None:
    assert parse('camera == "c1" and not (score < 1)').fields == {"camera", "score"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a field"),
        ("camera", "expected a comparison"),
        ("camera ==", "expected a value"),
        ("camera == c1", "expected a value: a number, none, or a text in quotes instead of 'c1' (character 11"),
        ("path == 'a' or camera == c1", "(character 26: \"path == 'a' or camera == ^c1\")"),
        ('camra == "c1"', "no field 'camra'"),
        ('camera == "c1" camera', "expected and, or, or the end"),
        ('(camera == "c1"', "expected )"),
        ("person in ()", "expected a value"),
        ("person in 3", "expected ("),
        ("score < none", "makes no sense"),
        ("score > 'high'", "a score is a number (character 9: \"score > ^'high'\")"),
        ("time > 'yesterday'", "not a time (character 8"),
        ('camera == "c1', "not understood (character 11: 'camera == ^\"c1')"),
        ("__import__('os')", "no field"),
        ("camera == 'a'; 1", "not understood"),
        ("score > 1x", "not understood"),
        ("camera not like 'a'", "expected in"),
        ("(" * 500, "inside each other"),
        ("not " * 400 + "person == 1", "inside each other"),
        ("x" * 3000, "longer than"),
    ],
)
def test_a_filter_that_makes_no_sense_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in caught.value.message


def test_a_misspelt_field_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        parse("scores > 1")
    assert caught.value.hint == "Did you mean score?"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"(camera|person|score|and|or|not|in|like|[()=<>,'\"0-9 ])*"))
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse(text)(ROW) in (True, False)
