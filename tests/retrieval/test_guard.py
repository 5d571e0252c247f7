"""The checks before a score: a model that looks at its batch, copies, a collapsed model, ties."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.encoder import FakeEncoder, Neighbours
from support.sets import cuhk_records, write_set

from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.retrieval.guard import equal_rows, tied, words


class Undeclared(Neighbours):
    """Depends on the rest of the batch and does not say so."""


class Pads(FakeEncoder):
    """Captions depend on the largest entry of their batch, as with padding to the longest."""

    def mixed_texts(self, row_BE):
        return np.maximum(row_BE, row_BE.max() - 3)


class Collapsed(FakeEncoder):
    """Every image is the same."""

    def mixed_images(self, row_BE):
        return np.ones_like(row_BE)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(1, 1, 20)))
    return open_dataset("cuhk-pedes", tmp_path)


def guarded(model: FakeEncoder, dataset: Dataset, cache: Path | None = None):
    evaluation = evaluate(model, dataset, cache_dir=cache)
    return evaluation, evaluation.protocol.document()["guard"]


def test_an_honest_model_passes(dataset) -> None:
    evaluation, guard = guarded(FakeEncoder(), dataset)
    assert guard["ok"] and guard["difference"] < 1e-6 and (guard["rows"], guard["queries"]) == (32, 64)
    assert evaluation.warning is None and evaluation.protocol.batch_dependent is False
    assert "batch" not in evaluation.protocol.line  # it speaks when something is wrong
    assert words(guard).startswith("guard: batch-independent (32 checked, max difference ")


@pytest.mark.parametrize("model", [Undeclared, Pads])
def test_a_form_that_depends_on_its_batch_is_flagged_though_it_does_not_say_so(dataset, model) -> None:
    evaluation, guard = guarded(model(), dataset)
    assert not guard["ok"] and guard["difference"] > 1e-3
    assert evaluation.protocol.batch_dependent is True
    assert "embeddings depend on the rest of the batch" in (evaluation.warning or "")
    shown = evaluation.protocol.line
    assert shown.count("embeddings depend on the rest of the batch (32 checked, max difference ") == 1


def test_the_check_embeds_forty_rows_once(dataset, tmp_path) -> None:
    model = FakeEncoder()
    seen = lambda: len(model.texts) + model.seen  # noqa: E731
    first = guarded(model, dataset, tmp_path / "cache")[1]
    assert seen() == 80 + 40 + 2 * (16 + 4)
    second = guarded(model, dataset, tmp_path / "cache")[1]
    assert seen() == 160 and second == first
    for memory in (tmp_path / "cache" / "features").glob("*guard*.json"):
        memory.write_text('{"diff', encoding="utf-8")
    assert guarded(model, dataset, tmp_path / "cache")[1] == first
    assert seen() == 200


def test_copies_of_an_image_are_counted_and_do_no_harm(dataset) -> None:
    split = dataset.split("test")
    shutil.copy(split.paths[0], split.paths[1])
    shutil.copy(split.paths[4], split.paths[5])
    _, guard = guarded(FakeEncoder(), dataset)
    assert (guard["duplicates"], guard["alike"], guard["ok"]) == (2, 0, True)
    assert "2 duplicate images" in words(guard)


def test_a_collapsed_model_is_told_from_copies(dataset, caplog) -> None:
    evaluation, guard = guarded(Collapsed(), dataset)
    assert (guard["duplicates"], guard["alike"], guard["tied"]) == (39, 39, 64)
    assert not guard["ok"] and evaluation.protocol.labels == []
    assert "64 of 64 captions tie with a wrong image" in evaluation.protocol.line
    assert "order of the file decides" in caplog.text and "different image" in caplog.text
    assert (
        "39 images with the embedding of another, different image, 64 of 64 captions tie with a wrong image"
        in words(guard)
    )


small = arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=st.sampled_from([0.5, 1.0]))


@settings(max_examples=60, deadline=None)
@given(small)
def test_equal_rows_are_those_of_two_loops(row_GE) -> None:
    rows = row_GE.tolist()
    expected = [(rows.index(row), place) for place, row in enumerate(rows) if rows.index(row) < place]
    assert equal_rows(row_GE) == expected


@settings(max_examples=60, deadline=None)
@given(small, st.data())
def test_ties_are_those_of_plain_loops(gallery_GE, data) -> None:
    width = gallery_GE.shape[1]
    query_SE = data.draw(arrays.arrays(np.float32, (3, width), elements=st.sampled_from([-1.0, 0.0, 1.0])))
    ids = st.integers(0, 2)
    person_S = data.draw(st.lists(ids, min_size=3, max_size=3))
    person_G = data.draw(st.lists(ids, min_size=len(gallery_GE), max_size=len(gallery_GE)))
    expected = 0
    for query, person in zip(query_SE.tolist(), person_S, strict=True):
        score = [sum(a * b for a, b in zip(query, row, strict=True)) for row in gallery_GE.tolist()]
        right = [value for value, other in zip(score, person_G, strict=True) if other == person]
        wrong = [value for value, other in zip(score, person_G, strict=True) if other != person]
        expected += bool(right) and max(right) in wrong
    assert tied(query_SE, gallery_GE, np.array(person_S), np.array(person_G)) == expected
