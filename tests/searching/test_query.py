"""Which images a query finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.retrieval.embed import embed_split
from tbps_cli.searching.dataset import of_split
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index import index
from tbps_cli.searching.query import MINUS, Query, encode
from tbps_cli.searching.ranking import answers
from tbps_cli.searching.search import search


@pytest.fixture
def gallery(model, photos: Path, painted) -> Gallery:
    painted(photos / "below" / "yellow.png", "yellow")
    return index(model, photos)


def order(hits) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_the_image_that_fits_comes_first(model, gallery: Gallery, colour: str) -> None:
    hits = search(model, gallery, f"a person in {colour}")
    assert order(hits)[0] == colour
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_the_score_is_the_cosine(model, gallery: Gallery) -> None:
    hit = search(model, gallery, "red", top=1)[0]
    image_E, text_E = model.encode_images([hit.file])[0], model.encode_texts(["red"])[0]
    assert abs(hit.score - float(image_E @ text_E)) < 5e-4  # the index is in half precision


def test_a_folder_can_be_searched_at_once(model, photos: Path) -> None:
    assert order(search(model, photos, "blue", top=1)) == ["blue"]
    assert order(search(model, str(photos), "green", top=1)) == ["green"]


def test_an_image_is_a_query_too(model, gallery: Gallery, photos: Path) -> None:
    assert order(search(model, gallery, image=photos / "green.png", top=1)) == ["green"]


def test_a_sentence_and_an_image_add_up(model, gallery: Gallery, photos: Path) -> None:
    """Red light and green light make yellow."""
    assert order(search(model, gallery, "red", image=photos / "green.png", top=1)) == ["yellow"]


def test_minus_takes_away(model, gallery: Gallery) -> None:
    assert order(search(model, gallery, "yellow", top=1)) == ["yellow"]
    assert order(search(model, gallery, "yellow", minus="green", top=4))[:2] in (["red", "yellow"], ["yellow", "red"])
    text_E, less_E = model.encode_texts(["yellow", "green"])
    expected = text_E - MINUS * less_E
    found = encode(model, [Query("yellow", minus="green")])[0]
    assert np.abs(found - expected / np.linalg.norm(expected)).max() < 1e-6


def test_a_filter_comes_before_the_ranking(model, gallery: Gallery) -> None:
    found = answers(model, gallery, [Query("red"), Query("green")], top=1, where='path like "below/*"')
    assert [order(answer.hits) for answer in found] == [["yellow"], ["yellow"]]
    assert found[0].candidates == 2


def test_a_filter_may_ask_for_the_score(model, gallery: Gallery) -> None:
    everything = search(model, gallery, "red")
    middle = everything[1].score
    assert order(search(model, gallery, "red", where=f"score <= {middle + 1e-4}", top=2)) == order(everything[1:3])
    both = search(model, gallery, "red", where='score > 0.01 and path like "*.png"')
    assert [hit.rank for hit in both] == list(range(1, len(both) + 1))


def test_a_filter_that_nothing_fits_gives_no_hits(model, gallery: Gallery) -> None:
    assert search(model, gallery, "red", where='path like "*.gif"') == []


def test_a_filter_for_what_no_image_has_is_an_error_and_no_empty_answer(model, gallery: Gallery) -> None:
    for where in ('camera == "c9"', 'camera == "c9" or score > 0'):
        with pytest.raises(UsageError, match="no image here has a camera"):
            search(model, gallery, "red", where=where)


def test_a_lowest_score_cuts_the_list(model, gallery: Gallery) -> None:
    assert order(search(model, gallery, "red", min_score=0.9)) == ["red"]
    assert search(model, gallery, "red", min_score=1.5) == []


@pytest.mark.parametrize("query", [None, "", "   ", "\n"])
def test_an_empty_query_is_a_usage_error(model, gallery: Gallery, query: str | None) -> None:
    with pytest.raises(UsageError, match="the query is empty"):
        search(model, gallery, query)


def test_other_senseless_wishes_are_usage_errors(model, gallery: Gallery) -> None:
    for options in (
        {"top": 0},
        {"min_score": float("nan")},
        {"min_score": float("inf")},
        {"minus": " "},
        {"where": "x"},
    ):
        with pytest.raises(UsageError):
            search(model, gallery, "red", **options)


def test_a_query_longer_than_the_context_is_said(model, gallery: Gallery, lines) -> None:
    search(model, gallery, "red " * 40)
    assert "longer than the model reads" in lines()
    search(model, gallery, "red")
    assert lines() == ""


def test_a_batch_dependent_model_is_refused(model, gallery: Gallery) -> None:
    model.batch_dependent = "the reason"
    with pytest.raises(TbpsError, match="the reason"):
        search(model, gallery, "red")


# The run's own data set -----------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path, painted):
    records = cuhk_records(persons=(1, 1, 4))
    write_set(tmp_path / "CUHK-PEDES", records)
    for record, colour in zip(
        records[4:], ["red", "red", "green", "green", "blue", "blue", "yellow", "yellow"], strict=True
    ):
        painted(tmp_path / "CUHK-PEDES" / "imgs" / record["file_path"], colour)
        record["captions"] = [f"someone in {colour}", f"a {colour} one"]
    (tmp_path / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")
    return open_dataset("cuhk-pedes", tmp_path).split("test")


def test_a_test_split_is_a_gallery_with_persons(model, split) -> None:
    gallery = of_split(model, split)
    assert (gallery.name, len(gallery)) == ("cuhk-pedes test", 8)
    hits = search(model, gallery, "someone in green", top=2)
    assert [hit.person for hit in hits] == [4, 4]


def test_hits_of_a_known_caption_are_right_or_wrong(model, split) -> None:
    gallery = of_split(model, split)
    known, unknown, mixed = answers(
        model, gallery, [Query("someone in green"), Query("green"), Query("someone in green", minus="red")], top=3
    )
    assert known.persons == {4}
    assert [known.is_right(hit) for hit in known.hits] == [True, True, False]
    assert unknown.persons is None and unknown.is_right(unknown.hits[0]) is None
    assert mixed.persons is None


def test_evaluation_and_search_share_their_features(model, split, tmp_path: Path) -> None:
    embed_split(model, split, cache_dir=tmp_path / "cache")
    seen = model.seen
    of_split(model, split)
    assert model.seen == seen


def test_a_filter_may_ask_for_person_and_split(model, split) -> None:
    gallery = of_split(model, split)
    assert {hit.person for hit in search(model, gallery, "red", where='person in (4, 5) and split == "test"')} == {4, 5}
    assert search(model, gallery, "red", where='split == "train"') == []


def test_missing_images_of_the_data_set_are_told(model, split) -> None:
    split.paths[2].unlink()
    with pytest.raises(DataError, match="1 of 8 images are missing"):
        of_split(model, split)


def test_a_large_gallery_is_ranked_exactly(model) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, model.embed)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = Gallery("made", Roots(Path("made")), Rows.of([Row(f"{n}.png") for n in range(5000)]), vectors)
    expected = np.argsort(-(vectors @ model.encode_texts(["red"])[0]), kind="stable")[:20]
    assert [int(hit.path[:-4]) for hit in search(model, gallery, "red", top=20)] == expected.tolist()


def test_noise_is_no_reason_to_fail(model, tmp_path: Path) -> None:
    for seed in range(3):
        save_image(tmp_path / "noise" / f"{seed}.png", seed)
    assert len(search(model, tmp_path / "noise", "🙂 <|endoftext|> " + "\x00")) == 3


def test_a_model_that_gives_no_numbers_is_said_to_be_broken(model, gallery: Gallery, monkeypatch) -> None:
    monkeypatch.setattr(model, "encode_texts", lambda texts, **_: np.full((len(texts), 8), np.nan, np.float32))
    with pytest.raises(DataError, match="query features hold NaN") as caught:
        search(model, gallery, "a person in red")
    assert "model" in str(caught.value.hint)
