"""Sentences of witnesses with what each must be read as, and that a reading never changes anything silently."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.asking.lexicon import vocabulary
from tbps_cli.asking.understand import LONGEST, may_say_where_or_when, understand
from tbps_cli.asking.understood import Askable, Understood, without
from tbps_cli.filtering.columns import Columns, Texts
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import render
from tbps_cli.synthetic.camera import Shot
from tbps_cli.synthetic.captions import describe
from tbps_cli.synthetic.figure import draw_stance
from tbps_cli.synthetic.person import people

HERE = Path(__file__).parent
TODAY = date(2026, 11, 28)
"""A Saturday."""
KNOWN = Askable(("cam1", "cam2", "cam3", "gate-2", "platform"), "2026-10-01T00:00:05", "2026-11-28T20:00:00")
FILES = {"sentences": 95.0, "fresh_sentences": 95.0}
"""Least share of a file that is read exactly, in percent."""


def read(text: str) -> Understood:
    return understand(text, today=TODAY, known=KNOWN)


def sentences(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def reading(text: str) -> dict[str, Any]:
    """What a sentence was read as, in the form of the files; what is empty is left out."""
    found = read(text)
    words = {kind: [remark.words for remark in found.remarks if remark.kind == kind] for kind in ("left", "persons")}
    languages = [remark.done.split(":")[0] for remark in found.remarks if remark.kind == "language"]
    made = {
        "minus": list(found.minus),
        "where": render(found.conditions) if found.conditions is not None else None,
        "top": found.top,
        "left": words["left"],
        "persons": "".join(words["persons"]),
        "language": "".join(languages).removeprefix("this looks like "),
        "offers": {offer.words: offer.done.rstrip("?") for offer in found.suggestions},
    }
    return {"text": text, "read": found.text} | {key: value for key, value in made.items() if value}


@pytest.mark.parametrize("name", FILES)
def test_sentences_are_read_exactly(name: str) -> None:
    wanted = sentences(name)
    wrong = [(entry, found) for entry in wanted if (found := reading(entry["text"])) != entry]
    exact = 100 * (1 - len(wrong) / len(wanted))
    assert exact >= FILES[name], "\n".join(f"{entry}\n  but {found}" for entry, found in wrong)


def test_there_are_two_hundred_sentences_and_a_quarter_of_them_is_left_alone() -> None:
    listed = sentences("sentences")
    assert len({entry["text"] for entry in listed}) == len(listed) >= 200
    assert sum(set(entry) == {"text", "read"} for entry in listed) >= 50


def check_that_nothing_is_silent(text: str) -> Understood:
    """The text is the question less the cuts; whatever goes elsewhere has a remark that shows its words."""
    found = read(text)
    cut = [remark.cut for remark in found.remarks if remark.cut is not None]
    assert all(0 <= start < end <= len(text) for start, end in cut)
    assert without(text, cut) == found.text
    kinds = {remark.kind for remark in found.remarks}
    assert (found.conditions is not None) <= bool(kinds & {"camera", "time"})
    assert bool(found.minus) <= ("minus" in kinds)
    assert (found.top is not None) <= ("count" in kinds)
    assert all(remark.words in text and remark.done for remark in found.remarks)
    assert may_say_where_or_when(text) or not kinds & {"camera", "time"}
    assert found.conditions is None or parse(render(found.conditions)).tree == found.conditions
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_sentence_is_changed_silently(name: str) -> None:
    for entry in sentences(name):
        check_that_nothing_is_silent(entry["text"])


GLUE = """
yesterday|between 5 and 6 pm|on cam3|camera 9|no|not|without|neither|nor|and|or|,|.|(|)|show 5|top 20|the first three
on Monday|last night|at 17:05|from|to|until|since|2026-11-05|5 November|in the|a|an|the|isn't|wearing|carrying|seen|was
who|with|but|two men|5|17|pm|o'clock|\t|-|–|#|redd|shrit|cam1 or cam2|every|except|not before|at night|in the morning
"""
PIECES = sorted(vocabulary()) + GLUE.strip("\n").replace("\n", "|").split("|")


def test_no_caption_of_drawn_persons_is_changed_or_doubted() -> None:
    rng = np.random.default_rng(0)
    shots = [Shot(b"", (80, 200), draw_stance(person, rng), frozenset()) for person in people(200, 0, [0])]
    texts = [describe(person, shot, rng).text for person, shot in zip(people(200, 0, [0]), shots, strict=True)]
    changed = [text for text in texts if (found := read(text)).changed or found.suggestions]
    doubted = [text for text in texts if {remark.kind for remark in read(text).remarks} - {"missing"}]
    assert (changed, doubted) == ([], [])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_whatever_words_stand_together_nothing_is_changed_silently(pieces: list[str]) -> None:
    check_that_nothing_is_silent(" ".join(pieces))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_whatever_characters_a_question_has_nothing_is_changed_silently(text: str) -> None:
    check_that_nothing_is_silent(text)


@given(st.lists(st.sampled_from(PIECES), max_size=10))
@settings(max_examples=50, deadline=None)
def test_a_question_is_always_read_the_same_way(pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert read(text) == read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\n\t",
        "😀🧥👖",
        "\x00\x1b[31mred\x07",
        "\u202ea man in red\u202c",
        "\ud800",
        "!!!???",
        "no",
        "not not not not",
        "a man in a red coat " * 40,
        "no hat, " * 120,
        "between 5 " * 90,
        "cam1, " * 160,
        "1 " * 490,
    ],
)
def test_odd_questions_are_read_in_bounded_time(text: str) -> None:
    read("warm")
    start = time.process_time()
    check_that_nothing_is_silent(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("text", ["word " * 10_000, "no hat " * 10_000, "5 " * 10_000, "😀" * 50_000])
def test_a_question_of_ten_thousand_words_is_taken_as_it_is_with_one_line(text: str) -> None:
    start = time.process_time()
    found = read(text)
    assert time.process_time() - start < 0.05
    assert found.text == text
    assert [remark.kind for remark in found.remarks] == ["length"]
    assert f"{LONGEST:,}" in found.remarks[0].done


# Empty answers --------------------------------------------------------------------------------

PLACES = """
yesterday|today|on Monday|last Friday|from Monday to Wednesday|last week|this week|in October|5 November|,|or|and
before Wednesday|at 5 pm|around noon|between 5 and 6 pm|from 10 pm to 2 am|in the morning|every evening|at night
after 8 pm|until 9 am|or 7 pm|last night|this morning|yesterday at 5 pm|Monday evening|at midnight|before midnight
2026-11-05 10:30|14:00-15:00|two days ago|on the weekend|after 4 pm on Friday|after Friday 4 pm|not today|tonight
on cam1|on cam2|on cam1 or cam3|on the platform camera|not on Monday|not at night|from yesterday 10 pm to today 2 am
since 3 November|until 10 November
"""


@pytest.fixture(scope="module")
def everywhere() -> Columns:
    """Images of every camera at every quarter of an hour of a year."""
    times = np.arange("2025-11-01T00:00", "2026-12-01T00:00", 15, dtype="datetime64[m]").astype("S16")
    cameras = np.array(KNOWN.cameras, "S8")
    return Columns(
        len(times) * len(cameras),
        {
            "time": lambda: Texts(np.repeat(times, len(cameras))),
            "camera": lambda: Texts(np.tile(cameras, len(times))),
        },
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PLACES.strip("\n").replace("\n", "|").split("|")), min_size=1, max_size=5))
def test_whatever_is_said_of_where_and_when_some_image_can_fit(everywhere: Columns, pieces: list[str]) -> None:
    found = check_that_nothing_is_silent("a man in a coat " + " ".join(pieces))
    assert found.conditions is None or mask(found.conditions, everywhere).any(), render(found.conditions)
