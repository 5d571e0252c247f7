from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbps_cli.errors import DataError, TbpsError, WeightsError
from tbps_cli.text.tokenizer import from_description
from tbps_cli.text.words import Words, WordTable, build_vocabulary, pair_vocabulary, split_words

VOCABULARY = ["a", "man", "red", "coat"]


def captions_of(figures: Any) -> list[str]:
    return [caption for entry in figures["raw"] for caption in entry["captions"]]


def annotated(figures: Any) -> list[tuple[str, list[int]]]:
    splits = figures["annotations"].values()
    return [(entry["sentence"], entry["onehot"]) for split in splits for entry in split["annotations"]]


def test_the_vocabulary_of_raw_captions_is_the_published_one(textreid_words: Any) -> None:
    assert build_vocabulary(captions_of(textreid_words)) == textreid_words["vocabulary"]


def test_the_vocabulary_that_annotations_imply_is_the_published_one(textreid_words: Any) -> None:
    assert pair_vocabulary(annotated(textreid_words)) == textreid_words["vocabulary"]


def test_every_annotated_sentence_gets_its_published_ids(textreid_words: Any) -> None:
    tokenizer = Words(textreid_words["vocabulary"])
    pairs = annotated(textreid_words)
    rows = tokenizer([sentence for sentence, _ in pairs])
    assert rows.tolist() == [ids + [0] * (105 - len(ids)) for _, ids in pairs]


def test_queries_keep_their_known_words_and_name_the_others(textreid_words: Any) -> None:
    tokenizer = Words(textreid_words["vocabulary"])
    for case in textreid_words["queries"]:
        assert split_words(case["query"]) == case["words"]
        assert tokenizer.encode(case["query"]) == (case["ids_known_only"], case["unknown"])


def test_rare_words_share_the_last_id_at_threshold_one(textreid_words: Any) -> None:
    published = textreid_words["threshold_1"]
    vocabulary = build_vocabulary(captions_of(textreid_words), threshold=1)
    assert vocabulary == published["vocabulary"]
    tokenizer = Words(vocabulary)
    for entry, expected in zip(textreid_words["raw"], published["captions"], strict=True):
        assert [tokenizer.encode(caption)[0] for caption in entry["captions"]] == expected


def test_only_the_first_hundred_words_are_read() -> None:
    rows = Words(VOCABULARY)(["a " * 103])
    assert rows.shape == (1, 105) and int((rows > 0).sum()) == 100


def test_unknown_words_are_named_once_in_captions_and_each_time_in_queries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = Words(VOCABULARY)
    with caplog.at_level(logging.WARNING, "tbps"):
        for _ in range(2):
            tokenizer(["a purple coat", "a purple surfboard"])
        assert [record.message.split(": ")[1] for record in caplog.records] == ["purple, surfboard"]
        caplog.clear()
        for _ in range(2):
            assert tokenizer(["a purple coat"], query=True)[0, :3].tolist() == [1, 4, 0]
        assert len(caplog.records) == 2


def test_a_sentence_without_a_known_word_is_refused() -> None:
    with pytest.raises(DataError, match="none of its words"):
        Words(VOCABULARY)(["zzz qqq"], query=True)


@pytest.mark.parametrize("words", [[], ["a", "a"]])
def test_an_empty_or_repeating_vocabulary_is_refused(words: list[str]) -> None:
    with pytest.raises(DataError, match="vocabulary"):
        Words(words)


def test_a_description_carries_the_vocabulary() -> None:
    tokenizer = Words(VOCABULARY, slots=7, limit=5)
    copy = from_description(tokenizer.describe())
    assert copy.describe() == tokenizer.describe()
    assert copy(["a red coat"]).tolist() == [[1, 3, 4, 0, 0, 0, 0]]


@pytest.mark.parametrize("damage", [{"vocabulary": "a man"}, {"vocabulary": [1]}, {"context": None}, {"limit": True}])
def test_a_damaged_description_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(TbpsError, match="tokenizer"):
        from_description(Words(VOCABULARY).describe() | damage)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([("a man", [1])], "1 ids for the 2 words"),
        ([("a man", [1, 2]), ("a coat", [1, 2])], "2 means both"),
        ([("a man", [1, 3])], "have no word"),
    ],
)
def test_annotations_that_contradict_themselves_are_refused(pairs: list[tuple[str, list[int]]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        pair_vocabulary(pairs)


def test_a_word_table_is_written_and_read_back(tmp_path: Path) -> None:
    table = WordTable(np.arange(10, dtype=np.float32).reshape(5, 2), tuple(VOCABULARY))
    table.write(tmp_path / "words.npy")
    copy = WordTable.read(tmp_path / "words.npy", width=2)
    assert copy.vocabulary == tuple(VOCABULARY) and copy.width == 2
    assert copy.vectors.dtype == np.float32 and np.array_equal(copy.vectors, table.vectors)


def test_a_published_table_of_doubles_is_read_as_float32_with_a_given_vocabulary(tmp_path: Path) -> None:
    np.save(tmp_path / "clip_vocab_vit.npy", np.ones((6, 3)))
    table = WordTable.read(tmp_path / "clip_vocab_vit.npy", VOCABULARY)
    assert table.vectors.shape == (6, 3) and table.vectors.dtype == np.float32


def test_unusable_word_tables_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "words.npy"

    def refused(vocabulary: list[str] | None = VOCABULARY, width: int | None = None) -> str:
        with pytest.raises(WeightsError) as caught:
            WordTable.read(path, vocabulary, width=width)
        assert "words." in caught.value.message
        return caught.value.message

    assert "not a readable" in refused()
    np.save(path, np.array([{"run": "me"}], dtype=object), allow_pickle=True)
    assert "not a readable" in refused()
    np.save(path, np.zeros(5))
    assert "not a table" in refused()
    np.save(path, np.zeros((4, 2)))
    assert "too few" in refused()
    np.save(path, np.full((5, 2), np.nan))
    assert "not finite" in refused()
    np.save(path, np.zeros((5, 2)))
    assert "needs 3" in refused(width=3)
    assert "missing" in refused(None)
    path.with_suffix(".json").write_text('{"a": 1}')
    assert "JSON list" in refused(None)
    path.with_suffix(".json").write_text("[")
    assert "JSON list" in refused(None)
