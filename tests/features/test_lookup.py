"""Texts are found in a column by their hashes, and only where they are."""

from __future__ import annotations

import numpy as np
import pytest

from tbps_cli.features import lookup
from tbps_cli.features.lookup import Lookup, hashes

TEXTS = np.array([b"", b"a", b"ab", b"cam 1/ab.jpg", b"a", "ä.jpg".encode(), b"x" * 40, b"a" * 8, b"a" * 16])


def test_hashes_are_the_same_in_a_wider_column() -> None:
    assert hashes(TEXTS).tolist() == hashes(TEXTS.astype("S131")).tolist()
    assert hashes(TEXTS[:3]).tolist() == hashes(TEXTS)[:3].tolist()


def test_texts_that_differ_anywhere_have_different_hashes() -> None:
    texts = [bytes([first]) + b"/" * between + bytes([last]) for first in range(33, 97) for last in range(33, 97)
             for between in (5, 6, 14, 30)]  # fmt: skip
    assert len(np.unique(hashes(np.array(texts)))) == len(texts)


@pytest.mark.parametrize("in_order", [3, 1 << 12])
def test_every_text_is_found_where_it_first_stands_and_no_other(monkeypatch, in_order: int) -> None:
    monkeypatch.setattr(lookup, "SORTED", in_order)
    found = Lookup.of(TEXTS)
    asked = np.array([*TEXTS.tolist(), b"b", b"a" * 9, b"x" * 41])
    listed = TEXTS.tolist()
    assert found.find(asked).tolist() == [listed.index(text) if text in listed else -1 for text in asked.tolist()]


def test_texts_with_equal_hashes_are_told_apart(monkeypatch) -> None:
    monkeypatch.setattr(lookup, "hashes", lambda texts: np.full(len(texts), 7, np.int64))
    found = Lookup.of(TEXTS)
    listed = TEXTS.tolist()
    asked = np.array([*reversed(listed), b"zz"])
    assert found.find(asked).tolist() == [*(listed.index(text) for text in reversed(listed)), -1]
    assert found.every(np.array([b"a", b"zz"])).tolist() == [1, 4]


def test_all_rows_of_a_text_are_found() -> None:
    texts = np.array([b"%d" % (number % 7) for number in range(100)])
    some = Lookup.of(texts).every(np.array([b"3", b"5", b"9", b"3"]))
    assert some.tolist() == [number for number in range(100) if number % 7 in (3, 5)]
    assert len(Lookup.of(texts).every(np.array([b"9"]))) == len(Lookup.of(texts[:0]).every(texts)) == 0


@pytest.mark.parametrize("order", [[5, -9, 10**6, 2, 1, 0, 3, 4, 8], [0] * 9])
def test_a_file_that_lies_about_the_order_costs_finds_and_gives_no_wrong_row(order) -> None:
    lies = Lookup(TEXTS, Lookup.of(TEXTS).hash_N, np.array(order, np.int32))
    for place, text in zip(lies.find(TEXTS).tolist(), TEXTS.tolist(), strict=True):
        assert place == -1 or TEXTS[place] == text
