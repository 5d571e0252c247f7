"""Questions of `tbps search`: what was understood reaches the filter, --minus and --top, and is always shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from support.encoder import FakeEncoder
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching.document import document, table
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.query import MINUS, Query, Term
from tbps_cli.searching.questions import askable, understanding, understood_query
from tbps_cli.searching.search import search_all

TODAY = date(2026, 11, 28)
QUESTION = "show 2 red coats with no hat yesterday between 5 and 6 pm on cam3"


def gallery(rows: int = 40, *, dated: bool = True, truth: dict[str, frozenset[int]] | None = None) -> Gallery:
    """Images of three cameras and two days, one every hour of a day and half an hour later on the next."""
    listed = [
        Row(
            f"{place}.jpg",
            camera=f"cam{place % 3 + 1}" if dated else None,
            time=f"2026-11-2{6 + place // 24}T{place % 24:02d}:30:00" if dated else None,
        )
        for place in range(rows)
    ]
    vector_GE = np.random.default_rng(0).normal(size=(rows, FakeEncoder.embed)).astype(np.float32)
    vector_GE /= np.linalg.norm(vector_GE, axis=1, keepdims=True)
    return Gallery("street", Roots(Path()), Rows.of(listed), vector_GE, truth=truth or {})


def asked(text: str, **options: object):
    place = options.pop("gallery", gallery())
    return search_all(FakeEncoder(), place, [Query(text)], today=TODAY, **options).answers[0]


def test_a_gallery_says_what_it_can_be_asked_for() -> None:
    known = askable(gallery())
    assert known.cameras == ("cam1", "cam2", "cam3")
    assert (known.first, known.last, known.clocks) == ("2026-11-26T00:30:00", "2026-11-27T15:30:00", True)
    bare = askable(gallery(dated=False))
    assert (bare.cameras, bare.first, bare.clocks) == ((), None, False)


def test_times_that_are_no_dates_cannot_be_asked_for() -> None:
    rows = Rows.of([Row("a.jpg", time="000151"), Row("b.jpg", time="7")])
    place = Gallery("frames", Roots(Path()), rows, np.eye(2, FakeEncoder.embed, dtype=np.float32))
    assert askable(place).first is None
    answer = asked("red coat yesterday", gallery=place)
    assert answer.candidates == 2


def test_conditions_negations_and_counts_go_where_they_belong() -> None:
    answer = asked("show 2 red coats with no hat yesterday between 9 am and 4 pm on cam3")
    assert (answer.query.text, answer.query.minus) == ("red coats", "hat")
    hours = [hit.time for hit in answer.hits]
    assert len(hours) == 2
    assert answer.candidates == sum(24 + hour < 40 and (24 + hour) % 3 == 2 for hour in range(9, 16))
    assert all("2026-11-27T09" <= str(time) < "2026-11-27T16" for time in hours)


def test_conditions_join_where_by_and() -> None:
    answer = asked("a red coat on cam3", where='time < "2026-11-26T12"')
    assert answer.candidates == sum(place % 3 == 2 for place in range(12))


def test_top_of_the_command_line_beats_the_count_of_the_sentence_and_says_so() -> None:
    answer = asked("show 2 red coats", top=5)
    assert len(answer.hits) == 5
    assert answer.understood is not None
    assert [remark.done for remark in answer.understood.remarks if remark.kind == "count"][1] == (
        "--top 5 counts, and not the 2 of the sentence"
    )


def test_without_a_day_to_count_from_sentences_are_taken_as_they_are() -> None:
    answer = search_all(FakeEncoder(), gallery(), [Query(QUESTION)]).answers[0]
    assert (answer.query.text, answer.understood, answer.candidates, len(answer.hits)) == (QUESTION, None, 40, 10)


def test_a_caption_of_the_data_set_is_searched_as_it_is() -> None:
    text = "a man without a hat in a coat"
    place = gallery(truth={text: frozenset({1})})
    answer = asked(f" {text} ", gallery=place)
    assert (answer.query.text, answer.understood, answer.persons) == (f" {text} ", None, frozenset({1}))


@pytest.mark.parametrize(("captions", "doubted"), [(2, True), (3, False)])
def test_words_that_several_captions_of_the_data_set_have_are_not_doubted(captions: int, doubted: bool) -> None:
    truth = {f"A man in a Jackett, number {number}.": frozenset({number}) for number in range(captions)}
    answer = asked("red jackett and blak boots", gallery=gallery(truth=truth))
    assert answer.understood is not None
    assert [offer.words for offer in answer.understood.suggestions] == ["jackett", "blak"][1 - doubted :]


def test_an_empty_answer_has_words() -> None:
    answer = asked("a red coat on 2026-01-05")
    assert answer.candidates == 0
    assert answer.understood is not None
    assert answer.understood.remarks[-1].done == 'no image passes time == "2026-01-05"'
    assert "2026-11-26T00:30:00" in answer.understood.remarks[0].done


def test_an_empty_answer_says_how_many_images_pass_each_part() -> None:
    answer = asked("a red coat on cam3 yesterday at 9 pm")
    assert answer.understood is not None
    assert answer.understood.remarks[-1].done == (
        'no image passes all of camera == "cam3" (13 images), '
        'time >= "2026-11-27T20:45" and time < "2026-11-27T21:15" (0 images)'
    )


def test_minus_of_the_command_line_and_of_the_sentence_both_count() -> None:
    query = Query("a red coat without gloves", minus="a hat")
    found = understanding(gallery(), query, today=TODAY)
    assert found is not None
    assert understood_query(query, found) == Query("a red coat", minus="a hat", more=(Term("gloves", -MINUS),))


def test_beside_an_image_the_sentence_may_be_all_conditions(tmp_path: Path) -> None:
    save_image(tmp_path / "one.jpg", 1)
    query = Query("on cam3, no hat", image=tmp_path / "one.jpg")
    found = understanding(gallery(), query, today=TODAY)
    assert found is not None
    assert understood_query(query, found) == replace(query, text=None, minus="hat")


def test_the_document_and_the_table_have_the_question_as_it_was_asked() -> None:
    answer = asked(QUESTION)
    made = document(answer, gallery(), "run")
    assert made["query"] == QUESTION
    assert made["understood"]["text"] == "red coats"
    assert made["understood"]["where"] == (
        'time >= "2026-11-27T17:00" and time < "2026-11-27T18:00" and camera == "cam3"'
    )
    assert json.loads(json.dumps(made["understood"])) == made["understood"]
    small = asked("red coats on cam3, top 1")
    assert table([small]).splitlines()[1].startswith('"red coats on cam3, top 1",1,')


# The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    for seed in range(4):
        save_image(place / "photos" / f"{seed}.jpg", seed)
    return place


def run(made: Path, tmp_path: Path, *arguments: str) -> tuple[str, str]:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    result = CliRunner().invoke(app, ["search", *arguments, "--in", "photos"])
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def test_what_was_understood_is_printed_beside_the_results(made: Path, tmp_path: Path) -> None:
    out, err = run(made, tmp_path, "show 2 men in a redd coat without a hat on camera 7")
    assert out.splitlines()[0] == "men in a redd coat on camera 7 - a hat"
    assert len(out.splitlines()) == 4
    assert err.splitlines()[-7:-1] == [
        'Understood: "show 2": the first 2 hits are shown',
        'Understood: "without a hat": searched away from: a hat',
        'Not understood: "on camera 7": no image of this gallery has a camera: the words stay in the sentence',
        "Not named: the legs (trousers, skirt), shoes, a bag",
        "Searched for: men in a redd coat on camera 7 (--plain-query takes the sentence as it is)",
        'Misspelt: "redd" (red?): searched as it stands. Corrected: show 2 men in a red coat without a hat on camera 7',
    ]


def test_a_plain_query_is_taken_as_it_is_without_a_word(made: Path, tmp_path: Path) -> None:
    out, err = run(made, tmp_path, "--plain-query", "show 2 men without a hat")
    assert out.splitlines()[0] == "show 2 men without a hat"
    assert len(out.splitlines()) == 6
    assert "Understood" not in err and "Not named" not in err


def test_queries_of_a_file_are_taken_as_they_are(made: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("show 2 men without a hat\n")
    out, err = run(made, tmp_path, "--queries", str(tmp_path / "queries.txt"), "--json")
    assert "understood" not in json.loads(out)[0]
    assert "Understood" not in err


@pytest.mark.parametrize("text", ["word " * 10_000, "😀 🧥", "\x1b[2J red \x07 coat", "\u202ea red coat\u202c"])
def test_odd_questions_are_answered_and_shown_safely(made: Path, tmp_path: Path, text: str) -> None:
    out, err = run(made, tmp_path, text)
    assert len([line for line in out.splitlines() if ".jpg" in line]) == 4
    assert "\x1b" not in err + out and "\u202e" not in err + out


def test_the_page_shows_what_was_understood_and_the_whole_filter(made: Path, tmp_path: Path) -> None:
    run(
        made,
        tmp_path,
        "a man in red without a <hat> or gloves, since 2020-01-31",
        "--where",
        'path like "*"',
        "--html",
        "a.html",
    )
    page = (tmp_path / "a.html").read_text()
    assert "&#34;since 2020-01-31&#34;: only images from 2020-01-31" in page
    assert "(path like &#34;*&#34;) and time &gt;= &#34;2020-01-31&#34;" in page


def test_what_another_term_may_show_is_not_said_to_be_missing() -> None:
    def missing(query: Query) -> bool:
        found = understanding(gallery(), query, today=TODAY)
        return found is not None and any(remark.kind == "missing" for remark in found.remarks)

    assert missing(Query("a red coat")) and missing(Query("a red coat", minus="a hat"))
    assert not missing(Query("a red coat", more=(Term("black trousers", 2.0),)))
    assert not missing(Query("a red coat", image=Path("crop.jpg")))


def test_a_page_of_a_sum_names_all_of_it(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path, "a man without a hat", "--plus", "2:black trousers", "--html", "a.html")
    assert "a man without a hat + 2 × black trousers" in (tmp_path / "a.html").read_text()
    out, _ = run(made, tmp_path, "a man without a hat", "--plus", "2:black trousers", "--json")
    assert json.loads(out)["query"] == "a man without a hat"
