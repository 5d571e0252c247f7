"""A search as a dialogue: what each line makes of what was asked before."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoder import FakeEncoder

from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index import index
from tbps_cli.searching.orders import GroupedBy, SortedBy
from tbps_cli.searching.query import MINUS
from tbps_cli.searching.ranking import Answer
from tbps_cli.searching.session import Dialogue, Session, Wish


@pytest.fixture
def session(model, photos: Path, painted) -> Session:
    painted(photos / "below" / "yellow.png", "yellow")
    return Session(model, index(model, photos))


def names(answer: object) -> list[str]:
    assert isinstance(answer, Answer)
    return [Path(hit.path).stem for hit in answer.hits]


def test_a_line_is_a_query_and_the_next_one_replaces_it(session: Session) -> None:
    assert names(session.said("someone in red"))[0] == "red"
    assert names(session.said("  someone in blue\n"))[0] == "blue"
    assert str(session.now.query) == "someone in blue"
    assert session.said("   ") is None and session.answer is not None


def test_terms_are_added_one_by_one(session: Session) -> None:
    session.said("red")
    assert names(session.said("plus green"))[0] == "yellow"
    assert names(session.said("- 2:green"))[0] == "red"
    assert str(session.now.query) == "red + green - 2 × green"
    assert str(session.said("red + 2:green - blue").query) == "red + 2 × green - blue"


def test_more_and_not_add_the_embedding_of_a_hit_without_its_file(session: Session) -> None:
    first = session.said("red")
    session.gallery.file_of(session.gallery.rows[0]).unlink()
    place = session.gallery.rows.paths.index(first.hits[1].path)
    second = session.said("more 2")
    assert second.query.terms[1].weight == 1 and str(second.query) == f"red + [{first.hits[1].path}]"
    row_E = np.asarray(session.gallery.vector_GE[place], np.float32)
    sum_E = session.model.encode_texts(["red"])[0] + row_E
    assert abs(second.hits[0].score - max((session.gallery.vector_GE @ sum_E) / np.linalg.norm(sum_E))) < 1e-5
    third = session.said("not 1, 3")
    assert [term.weight for term in third.query.terms] == [1, 1, -MINUS, -MINUS]


def test_filters_groups_and_numbers_stay_for_the_next_query(session: Session) -> None:
    session.said("red")
    assert names(session.said('where path like "below/*"')) == ["yellow", "blue"]
    assert names(session.said("top 1")) == ["yellow"]
    assert names(session.said("blue")) == ["blue"]
    assert names(session.said("where")) == ["blue"]
    assert session.said("group near-duplicate").hits[0].members == 1
    assert session.said("sort time").hits and session.now.sort is SortedBy.time
    assert session.said("group").hits[0].members is None


def test_undo_goes_back_and_reset_begins_anew(session: Session) -> None:
    session.said("red")
    session.said("plus green")
    session.said("top 2")
    assert names(session.said("undo"))[0] == "yellow" and session.now.top is None
    assert names(session.said("undo"))[0] == "red"
    assert session.said("undo") is None and session.now.query is None
    with pytest.raises(UsageError, match="nothing to undo"):
        session.said("undo")
    session.said("red")
    assert session.said("reset") is None and session.answer is None
    assert names(session.said("undo"))[0] == "red"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("more 9", "there is no hit 9"),
        ("more 0", "there is no hit 0"),
        ("where camra == 1", "no field 'camra'"),
        ("where camera == 1", "no image here has a camera"),
        ("where path like", "expected a pattern"),
        ("group track", "no image here has a track"),
        ("top 0", "at least one"),
        ("plus ./gone.jpg", "there is no such file"),
        ("minus 2:red", "cancels the whole query"),
        ("plus 12:red", "weight"),
        ("red +", r"nothing follows \+"),
        ("/ red", "there is no such file"),
    ],
)
def test_a_mistake_changes_nothing(session: Session, line: str, message: str) -> None:
    session.said("2:red")
    before, answer = session.now, session.answer
    with pytest.raises(TbpsError, match=message):
        session.said(line)
    assert session.now == before and session.answer is answer


@pytest.mark.parametrize("line", ["more 1", "not 2", "open 1", "copy hits", "html hits.html"])
def test_what_needs_hits_says_that_there_are_none(session: Session, line: str) -> None:
    with pytest.raises(UsageError, match="nothing was searched for yet"):
        session.said(line)


@pytest.mark.parametrize(
    "line",
    [
        "more than three people",
        "more colours",
        "not a man",
        "open jacket",
        "top hat",
        "group of people",
        "where is a man in red",
        "sort of red",
        "copy of a red coat",
        "undo the jacket",
        "html on a shirt",
        '"plus size woman"',
        '"undo"',
        "help me find a man",
    ],
)
def test_a_sentence_that_begins_like_a_command_is_a_sentence(session: Session, line: str) -> None:
    assert session.said(line).query.text == line.strip('"')


def test_commands_may_be_filters_that_come_before_the_first_query(session: Session) -> None:
    assert session.said("top 1") is None
    assert session.said('where path == "green.png"') is None
    assert names(session.said("red")) == ["green"]


def test_wishes_name_what_is_wanted(session: Session) -> None:
    assert session.said("help") == session.said("?") == Wish("help")
    hits = session.said("red").hits
    assert session.said("open 2 1") == Wish("open", (hits[1], hits[0]))
    assert session.said("copy hits") == Wish("copy", path=Path("hits"))
    assert session.said("HTML hits.html") == Wish("html", path=Path("hits.html"))


def test_a_sentence_is_understood_unless_it_stands_in_quotes(model, photos: Path) -> None:
    session = Session(model, index(model, photos), today=lambda: date(2026, 1, 5))
    answer = session.said("someone in red without a backpack, the best 2")
    assert isinstance(answer, Answer) and answer.understood is not None
    assert answer.query.minus == "a backpack" and len(answer.hits) == 2
    assert session.said("top 1").hits[0].path == "red.png" and len(session.answer.hits) == 1
    literal = session.said('"red without green"')
    assert literal.understood is None and literal.query.text == "red without green"
    assert session.said("more 1").understood is None


def test_without_its_record_there_is_no_answer(session: Session) -> None:
    session.said("red")
    recorded = []

    def record(line: str, answer: Answer, where: str | None) -> None:
        recorded.append((line, names(answer)[0], where))
        if "green" in line:
            raise TbpsError("the log is full.")

    session.record = record
    before, answer = session.now, session.answer
    with pytest.raises(TbpsError, match="the log is full"):
        session.said("plus green")
    assert session.now == before and session.answer is answer
    session.said('where path like "*.png"')
    assert recorded == [("plus green", "yellow", None), ('where path like "*.png"', "red", 'path like "*.png"')]


def test_a_dialogue_begins_with_what_the_command_line_said(model, photos: Path) -> None:
    gallery = index(model, photos)
    session = Session(model, gallery, Dialogue(where='path like "*.png"', top=1))
    assert names(session.said("blue")) != ["blue"]
    assert session.said("reset") is None and session.now == session.start
    for start, message in (
        (Dialogue(where="camera == 1"), "no image here has a camera"),
        (Dialogue(group=GroupedBy.person), "no image here has a person"),
    ):
        with pytest.raises(UsageError, match=message):
            Session(model, gallery, start)


def _small() -> Session:
    vector_GE = np.eye(4, FakeEncoder.embed, dtype=np.float32)
    rows = Rows.of([Row(f"{place}.jpg") for place in range(4)])
    return Session(FakeEncoder(), Gallery("made", Roots(Path("made")), rows, vector_GE))


COMMANDS = ["red", "more", "not", "plus", "minus", "where", "top", "undo", "reset", "group", "sort", "score", "time"]
WORDS = st.sampled_from([*COMMANDS, "1", "2", "9", "==", "path", '"', "(", "+", "-", "./"])


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, max_size=4).map(" ".join) | st.text(max_size=12), max_size=8))
def test_whatever_is_typed_is_answered_or_a_mistake(lines: list[str]) -> None:
    session = _small()
    for line in lines:
        before = session.now
        try:
            reply = session.said(line)
        except TbpsError:
            assert session.now == before
        else:
            assert reply is None or isinstance(reply, Wish) or reply is session.answer


def test_each_answer_says_which_words_its_hits_support_as_long_as_there_are_words(session: Session) -> None:
    session.now = Dialogue(explain=True)
    assert [word.word for word in session.said("red").hits[0].explain] == ["red"]
    assert session.said("plus green").hits[0].explain


def test_the_calibration_is_read_once_a_file_and_again_when_it_changes(model, monkeypatch) -> None:
    from tbps_cli.searching import sure
    from tbps_cli.trust import calibration
    from tbps_cli.trust.kept import place_of

    read: list[str] = []

    def of_other_weights(path: Path) -> SimpleNamespace:
        read.append(str(path))
        return SimpleNamespace(fingerprint="another")

    monkeypatch.setattr(calibration, "read_calibration", of_other_weights)
    place = place_of(model)
    assert sure._calibration_of(model) is None and not read
    place.parent.mkdir(parents=True)
    place.write_text("one")
    for _ in range(3):
        sure._calibration_of(model)
    assert len(read) == 1
    place.write_text("another")
    sure._calibration_of(model)
    place.unlink()
    sure._calibration_of(model)
    assert len(read) == 2
