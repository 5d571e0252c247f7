"""Sentences of several requests go through the model together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.encoder import FakeEncoder

from tbps_cli.serving import batching
from tbps_cli.serving.batching import Ended, TextBatches


class Slow(FakeEncoder):
    """Waits with its first batch until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.sizes: list[int] = []

    def encode_texts(self, texts, *, batch=None, query=False):
        self.sizes.append(len(texts))
        self.begun.set()
        assert self.go.wait(20)
        return super().encode_texts(texts, batch=batch, query=query)


def test_what_waits_is_the_next_batch_and_everybody_gets_their_own() -> None:
    model = Slow()
    texts = TextBatches(model)
    with ThreadPoolExecutor(40) as pool:
        first = pool.submit(texts, ["red"])
        assert model.begun.wait(20)
        others = [pool.submit(texts, [f"number {n % 30}", "blue"]) for n in range(39)]
        while texts._waiting.qsize() < 78:
            threading.Event().wait(0.01)
        model.go.set()
        rows = [other.result(20) for other in others]
    assert model.sizes[0] == 1 and len(model.sizes) <= 3
    expected = FakeEncoder().encode_texts(["red"])
    assert np.array_equal(first.result(), expected)
    for n, row in enumerate(rows):
        assert np.array_equal(row, FakeEncoder().encode_texts([f"number {n % 30}", "blue"]))
    texts.close()


def test_a_sentence_is_embedded_once_as_long_as_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "KEPT", 2)
    model = FakeEncoder()
    texts = TextBatches(model)
    for text in ("a", "a", "b", "a", "c", "b"):
        texts([text])
    assert model.texts == ["a", "b", "c", "b"]
    texts.close()


def test_an_error_reaches_who_asked_and_the_next_is_answered() -> None:
    class Failing(FakeEncoder):
        def encode_texts(self, texts, *, batch=None, query=False):
            if "bad" in texts:
                raise ValueError("bad")
            return super().encode_texts(texts, batch=batch, query=query)

    texts = TextBatches(Failing())
    with pytest.raises(ValueError, match="bad"):
        texts(["bad"])
    assert texts(["good"]).shape == (1, 11)
    texts.close()


def test_who_asks_of_a_server_that_has_ended_is_told_so() -> None:
    texts = TextBatches(FakeEncoder())
    texts(["red"])
    texts.close()
    assert texts(["red"]).shape == (1, 11)  # remembered
    with pytest.raises(Ended):
        texts(["blue"])
