"""Whatever embeds says which sentences it does not read to their end, in one sentence of one function."""

from __future__ import annotations

import pytest
from support.encoder import FakeEncoder

from tbps_cli.features.encoder import warn_of_cut
from tbps_cli.text.words import Words


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a man"], []),
        (["red " * 40], ["the sentence is longer than the model reads, so the last words do not count; ask less"]),
        (
            ["red " * 40, "a man", "red " * 9, "a woman"],
            ["captions: 1 of 4 (25.0 %) are longer than the model reads, so the last words do not count; ask less"],
        ),
    ],
)
def test_sentences_that_are_cut_are_one_warning(texts: list[str], said: list[str], caplog) -> None:
    warn_of_cut(FakeEncoder(), texts, "captions", "ask less")
    assert [record.getMessage() for record in caplog.records] == said


def test_whole_words_are_counted_too() -> None:
    words = Words(["a", "man"], slots=5, limit=3)
    assert words.cut_count(["a man a", "a man a man", "  a  man, a - ", ""]) == 1
