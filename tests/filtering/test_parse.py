"""The filter language: what a text means, and how a mistake in it is shown."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.filters import columns_of

from tbps_cli.errors import FilterError, UsageError
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import excerpt, parse, require
from tbps_cli.filtering.tree import And, Between, Compare, In, Like, Not, Or

ROW: dict[str, Any] = {
    "path": "night/gate/03.jpg",
    "person": 12,
    "camera": "c1",
    "time": "2026-03-04T05:06:07",
    "split": "test",
    "score": 0.31,
}
NOTHING: dict[str, Any] = dict.fromkeys(ROW)


def fits(text: str, row: dict[str, Any]) -> bool:
    """Whether an image with these values is let through."""
    return bool(mask(parse(text).tree, columns_of([row]))[0])


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
    assert fits(text, ROW)


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
    assert not fits(text, ROW)


@pytest.mark.parametrize(
    ("pattern", "name", "right"),
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
def test_like_knows_the_star_and_the_question_mark_and_nothing_else(pattern: str, name: str, right: bool) -> None:
    assert fits(f'path like "{pattern}"', {"path": name}) is right


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
    assert not fits(text, NOTHING)


def test_what_is_unknown_can_be_asked_for() -> None:
    assert fits("person == none", NOTHING)
    assert not fits("person == null", ROW)
    assert fits("camera != 'c1'", NOTHING)


def test_a_person_named_like_no_number_is_compared_as_a_text() -> None:
    assert fits('person == "nan"', {"person": "nan"})
    assert not fits('person == "1_2"', {"person": 12})


def test_the_fields_of_a_filter_are_known() -> None:
    assert parse('camera == "c1" and not (score < 1)').fields == {"camera", "score"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a field"),
        ("camera", "expected a comparison"),
        ("camera ==", "expected a value"),
        ("camera == c1", "expected a value: a number, none, or a text in quotes instead of 'c1' (character 11)"),
        ("path == 'a' or camera == c1", "(character 26)"),
        ('camra == "c1"', "no field 'camra'"),
        ('camera == "c1" camera', "expected and, or, or the end"),
        ('(camera == "c1"', "expected )"),
        ("person in ()", "expected a value"),
        ("person in 3", "expected ("),
        ("score < none", "makes no sense"),
        ("score > 'high'", "a score is a number (character 9)"),
        ("time > 'yesterday'", "not a time (character 8"),
        ("time > 5", "not a time, nor a year (character 8"),
        ('camera == "c1', "not understood (character 11)"),
        ("__import__('os')", "no field"),
        ("camera == 'a'; 1", "not understood"),
        ("score > 1x", "not understood"),
        ("camera not like 'a'", "expected in"),
        ("(" * 500, "inside each other"),
        ("not " * 400 + "person == 1", "inside each other"),
        ("x" * 3000, "longer than"),
        ("seconds == 1:30", "a seconds is a number"),
        ("seconds between 20 and 10", "the range ends before it begins"),
        ("22:00 <= clock < 02:00", "the range ends before it begins"),
        ("10 <= seconds > 3", "two signs of one direction"),
        ("10 <= seconds < none", "makes no sense"),
        ("seconds between 10 or 20", "expected and instead of 'or'"),
        ("score like '0.3*'", "score is a number, and like is for texts"),
        ("time >= 2026-13-01", "there is no such time (character 9)"),
        ("time >= '31.01.2026'", "not a time"),
        ("clock >= '8 am'", "not a time of day"),
        ("clock == 25:00", "not a time of day"),
        ("person == 1e999", "a number too large"),
        ("person == 12 && score > 0", "not understood (character 14)"),
        ("path == 'a\0b'", "not understood"),
        ("12", "expected a comparison"),
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
        assert fits(text, ROW) in (True, False)


def test_the_caret_stands_below_its_character() -> None:
    with pytest.raises(FilterError) as caught:
        parse("path == 'a' or camera == c1")
    assert caught.value.excerpt == ("path == 'a' or camera == c1", " " * 25 + "^")


@pytest.mark.parametrize(
    ("before", "columns"),
    [("", 0), ("camera == ", 10), ('path == "写真" and ', 19), ("e\u0301 == ", 5), ("a\tb ", 5), ("\x1b[2J ", 8)],
)
def test_the_caret_counts_the_columns_of_a_terminal(before: str, columns: int) -> None:
    shown, caret = excerpt(f"{before}x", len(before))
    assert caret == " " * columns + "^"
    assert "\n" not in shown and "\x1b" not in shown


def test_of_a_long_filter_the_part_around_the_mistake_is_shown() -> None:
    text = " or ".join(f'camera == "摄像机{number}"' for number in range(60))
    shown, caret = excerpt(text, 500)
    assert len(shown) < 75 and len(caret) < 40 and shown.startswith("…") and shown.endswith("…")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("seconds between 10 and 20", Between("seconds", 10, 20)),
        ("10 <= seconds <= 20", Between("seconds", 10, 20)),
        ("10 <= seconds < 20", And((Compare("seconds", ">=", 10), Compare("seconds", "<", 20)))),
        ("20 > seconds >= 10", And((Compare("seconds", "<", 20), Compare("seconds", ">=", 10)))),
        ("0.3 < score", Compare("score", ">", 0.3)),
        ("seconds not between 10 and 20", Not(Between("seconds", 10, 20))),
        ('score > "0.5"', Compare("score", ">", 0.5)),
        ("camera not in (1, none)", Not(In("camera", (1, None)))),
        ("time == 2026-01-05", Compare("time", "==", "2026-01-05")),
        ("time >= 2026-01-05T17:00", Compare("time", ">=", "2026-01-05T17:00")),
        ('time >= "2026-1-5 7:00"', Compare("time", ">=", "2026-01-05T07:00")),
        ('"17:05" <= clock < "18:00"', And((Compare("clock", ">=", "17:05"), Compare("clock", "<", "18:00")))),
        ("clock < 8:30", Compare("clock", "<", "08:30")),
        ("clock == 17", Compare("clock", "==", "17")),
        ("path like 2026-01-05", Like("path", "2026-01-05")),
        (
            "camera == 1 or camera == 2 and not (split = 'test' or split = 'val')",
            Or(
                (
                    Compare("camera", "==", 1),
                    And(
                        (
                            Compare("camera", "==", 2),
                            Not(Or((Compare("split", "==", "test"), Compare("split", "==", "val")))),
                        )
                    ),
                )
            ),
        ),
    ],
)
def test_a_text_becomes_this_tree(text: str, tree: object) -> None:
    assert parse(text).tree == tree


def test_other_languages_signs_get_the_word_to_write() -> None:
    with pytest.raises(UsageError) as caught:
        parse("person == 12 && score > 0")
    assert caught.value.hint and caught.value.hint.startswith("Write and instead of &.")


def test_a_range_over_midnight_gets_the_filter_to_write() -> None:
    with pytest.raises(UsageError) as caught:
        parse("clock between 22:00 and 2:00")
    assert caught.value.hint == 'Over midnight: clock >= "22:00" or clock < "02:00"'
