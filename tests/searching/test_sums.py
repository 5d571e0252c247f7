"""Sums of sentences and images: what a command line means, and the vector it becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.errors import UsageError
from tbps_cli.searching.document import document
from tbps_cli.searching.index import index
from tbps_cli.searching.query import MINUS, Query, StoredRow, Term, encode
from tbps_cli.searching.ranking import answers
from tbps_cli.searching.search import search
from tbps_cli.searching.sums import query, term


@pytest.mark.parametrize(
    ("text", "weight", "rest"),
    [
        ("a red coat", 1.0, "a red coat"),
        ("2:a red coat", 2.0, "a red coat"),
        ("0.5:a red coat", 0.5, "a red coat"),
        (".5: a red coat", 0.5, "a red coat"),
        (" 9.99:x", 9.99, "x"),
        ("10:30 at the gate", 1.0, "10:30 at the gate"),
        ("9:15 in the morning", 1.0, "9:15 in the morning"),
        ("3: 4 people", 1.0, "3: 4 people"),
        ("16:9", 1.0, "16:9"),
        ("at 5:a gate", 1.0, "at 5:a gate"),
        ("-2:x", 1.0, "-2:x"),
        ("2 red coats: one", 1.0, "2 red coats: one"),
        ("1e1:x", 1.0, "1e1:x"),
    ],
)
def test_a_weight_is_a_small_number_with_a_colon_and_no_digit_behind_it(text: str, weight: float, rest: str) -> None:
    assert term(text) == Term(rest, weight)
    assert term(text, minus=True) == Term(rest, -MINUS if rest == text.strip() else -weight)


@pytest.mark.parametrize("text", ["12:a coat", "10:a", "0:a coat", "0.0:a coat", "99999999999999999999:a"])
def test_a_number_that_is_no_weight_and_no_time_is_not_guessed_at(text: str) -> None:
    with pytest.raises(UsageError, match="not between 0 and 10") as caught:
        term(text, name="--plus")
    assert caught.value.message.startswith("--plus: ")


@pytest.mark.parametrize("text", ["", "  ", "2:", "2:  "])
def test_an_empty_term_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--minus is empty"):
        term(text, minus=True, name="--minus")


@given(st.text(max_size=30))
def test_any_text_is_a_term_or_a_usage_error(text: str) -> None:
    try:
        made = term(text)
    except UsageError:
        return
    assert isinstance(made.what, str) and made.what.strip() and 0 < made.weight < 10


def test_words_on_a_command_line_are_terms_between_plus_and_minus(tmp_path: Path) -> None:
    image = tmp_path / "it.jpg"
    image.touch()
    made = query(["a", "red", "coat", "+", str(image), "-", "0.8:a bag", "-", "a hat"], plus=["2:snow"])
    assert made.terms == (
        Term("a red coat"),
        Term(image),
        Term("a hat", -MINUS),
        Term("a bag", -0.8),
        Term("snow", 2.0),
    )
    assert str(made) == "a red coat + [it.jpg] + 2 × snow - a hat - 0.8 × a bag"
    assert query(["a man - in red + blue"]).terms == (Term("a man - in red + blue"),)
    assert query(["one", "+one"]).text == "one +one"


@pytest.mark.parametrize("words", [["a", "+"], ["a", "-", "+", "b"], ["-"], ["+"]])
def test_a_sign_that_nothing_follows_is_an_error(words: list[str]) -> None:
    with pytest.raises(UsageError, match="nothing follows"):
        query(words)


def test_a_query_of_unwanted_things_alone_is_empty() -> None:
    for made in (lambda: query(minus=["a bag"]), lambda: query(["-", "a bag"]), lambda: Query(more=(Term("x", -1),))):
        with pytest.raises(UsageError, match="the query is empty"):
            made()


def test_an_image_that_is_not_there_is_an_error_and_no_sentence() -> None:
    with pytest.raises(UsageError, match=r"--plus ./gone.jpg: there is no such file"):
        query(["a man"], plus=["./gone.jpg"])


def test_the_vector_is_the_weighted_sum_of_all_terms(model, photos: Path) -> None:
    text_E, less_E, far_E = model.encode_texts(["red", "green", "yellow"])
    image_E = model.encode_images([photos / "below" / "blue.jpg"])[0]
    stored = StoredRow("green.png", np.asarray(less_E, np.float16))
    made = Query("red", minus="green", more=(Term(photos / "below" / "blue.jpg", 2.0), Term("yellow", -0.25)))
    expected = text_E - MINUS * less_E + 2 * image_E - 0.25 * far_E
    assert np.abs(encode(model, [made])[0] - expected / np.linalg.norm(expected)).max() < 1e-6
    liked = encode(model, [Query("red", more=(Term(stored, 0.5),))])[0]
    expected = text_E + 0.5 * less_E.astype(np.float16).astype(np.float32)
    assert np.abs(liked - expected / np.linalg.norm(expected)).max() < 1e-6


def test_several_images_add_up_and_none_is_its_own_hit(model, photos: Path, painted) -> None:
    painted(photos / "yellow.png", "yellow")
    gallery = index(model, photos)
    images = [photos / "red.png", photos / "green.png"]
    assert search(model, gallery, image=images)[0].path == "yellow.png"
    alone = answers(model, gallery, [query(images=images)], with_self=False)[0]
    assert alone.hits[0].path == "yellow.png"
    assert {hit.path for hit in alone.hits} == {"yellow.png", "below/blue.jpg"}
    assert search(model, gallery, "red", plus="green", minus=["3:blue"])[0].path == "yellow.png"


def test_a_document_says_what_was_added_up(model, photos: Path) -> None:
    gallery = index(model, photos)
    made = document(answers(model, gallery, [query(["2:red", "-", "blue"])])[0], gallery, "run")
    assert (made["query"], made["minus"]) == ("2 × red - blue", "blue")
    assert made["terms"] == [{"text": "blue", "weight": -0.5}, {"text": "red", "weight": 2.0}]
    assert "terms" not in document(answers(model, gallery, [query(["red", "-", "blue"])])[0], gallery, "run")
