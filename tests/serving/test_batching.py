"""Sentences of several requests go through the model together, and so do their searches through a gallery."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.encoder import FakeEncoder

from tbps_cli.errors import DataError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.retrieval.rank import topk
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.serving import batching
from tbps_cli.serving.batching import Ended, TextBatches
from tbps_cli.serving.shared_ranking import SharedGallery


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


def test_searches_that_wait_are_ranked_together_and_each_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vector_GE = rng.standard_normal((5000, 16)).astype(np.float32)
    vector_GE[100] = vector_GE[7]  # of equals the first is the better one
    rows = Rows.of([Row(f"{number}.png") for number in range(5000)])
    shared = SharedGallery.of(Gallery("photos", Roots(Path()), rows, vector_GE))
    begun, go, sizes = threading.Event(), threading.Event(), list[int]()
    usual = Gallery.best

    def best(self, query_QE, k, place_K=None):
        sizes.append(len(query_QE))
        begun.set()
        assert go.wait(20)
        return usual(self, query_QE, k, place_K)

    monkeypatch.setattr(Gallery, "best", best)
    asked = [(vector_GE[[7, *range(200, 230)][number]][None], 1 + number % 9) for number in range(31)]
    with ThreadPoolExecutor(31) as pool:
        begun_first = pool.submit(shared.best, *asked[0])
        assert begun.wait(20)
        others = [pool.submit(shared.best, *one) for one in asked[1:]]
        while len(shared._turns.waiting) < 30:
            threading.Event().wait(0.01)
        go.set()
        found = [one.result(20) for one in (begun_first, *others)]
    assert sizes == [1, 30]
    for (query_QE, k), (score_QK, place_QK) in zip(asked, found, strict=True):
        alone = topk(query_QE, vector_GE, k)
        assert np.array_equal(score_QK, alone[0]) and np.array_equal(place_QK, alone[1])


def test_only_whoever_asked_what_cannot_be_answered_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vector_GE = np.eye(4, dtype=np.float32)
    rows = Rows.of([Row(f"{number}.png") for number in range(4)])
    shared = SharedGallery.of(Gallery("photos", Roots(Path()), rows, vector_GE))
    begun, go = threading.Event(), threading.Event()
    usual = Gallery.best

    def best(self, query_QE, k, place_K=None):
        begun.set()
        assert go.wait(20)
        return usual(self, query_QE, k, place_K)

    monkeypatch.setattr(Gallery, "best", best)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shared.best, vector_GE[:1], 1)
        assert begun.wait(20)
        wrong = pool.submit(shared.best, np.full((1, 4), np.nan, np.float32), 1)
        right = pool.submit(shared.best, vector_GE[2:3], 1)
        while len(shared._turns.waiting) < 2:
            threading.Event().wait(0.01)
        go.set()
        assert first.result(20)[1].tolist() == [[0]]
        with pytest.raises(DataError):
            wrong.result(20)
        assert right.result(20)[1].tolist() == [[2]]
