"""Counts as people say them."""

from __future__ import annotations

from tbps_cli.amounts import amount


def test_one_is_singular_and_none_and_many_are_plural() -> None:
    assert [amount(count, "epoch") for count in (0, 1, 2, 1200)] == ["0 epochs", "1 epoch", "2 epochs", "1,200 epochs"]


def test_words_that_do_not_take_an_s_are_given() -> None:
    assert [amount(count, "image is", "images are") for count in (1, 3)] == ["1 image is", "3 images are"]
