"""Searches of a gallery in a database say what they say of the same gallery in memory."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder
from support.galleries import odd_rows, unit_rows

from tbps_cli.databases.opening import open_database
from tbps_cli.errors import DatabaseError, UsageError
from tbps_cli.features.rows import Row, Rows, content_hash
from tbps_cli.filtering.parse import Where, parse
from tbps_cli.searching.database_gallery import DatabaseGallery, database_gallery
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.query import Query
from tbps_cli.searching.questions import ask
from tbps_cli.searching.ranking import Answer
from tbps_cli.searching.remote import answers
from tbps_cli.searching.session import Dialogue, Session
from tbps_cli.trust.calibration import write_calibration
from tbps_cli.trust.fitting import Labelled, fit
from tbps_cli.types import Hit

MODEL = FakeEncoder()
COUNT = 700
QUERIES = [Query("a red coat"), Query("blue trousers"), Query("somebody")]


@pytest.fixture(scope="module")
def here() -> Gallery:
    rows, vector_NE = odd_rows(COUNT), unit_rows(COUNT, MODEL.embed)
    return Gallery("here", Roots(Path("/data")), rows, vector_NE, str(MODEL.path))


ENGINES = ["postgres", pytest.param("milvus", marks=[pytest.mark.slow, pytest.mark.xdist_group("milvus")])]


@pytest.fixture(scope="module", params=ENGINES)
def url(here: Gallery, request: pytest.FixtureRequest) -> str:
    """Of a database that holds the same rows."""
    if request.param == "milvus":
        url = request.getfixturevalue("milvus_server").url()
    else:
        url = request.getfixturevalue("new_postgres")()
    database = open_database(url, create=True, fingerprint=MODEL.fingerprint, about={"folder": "/data"})
    database.add(here.rows, here.vector_GE)
    database.close()
    return url


@pytest.fixture
def there(url: str) -> DatabaseGallery:
    return database_gallery(open_database(url), MODEL)


def told(hit: Hit) -> dict[str, Any]:
    """What is said of a hit; of scores as much as is printed."""
    names = "score", "percentile", "z", "probability"
    figures = {name: pytest.approx(value, abs=1e-5) for name in names if (value := getattr(hit, name)) is not None}
    return {**hit.__dict__, **figures}


def alike(here: Gallery, there: Gallery, **options: Any) -> list[Answer]:
    """The answers over both, which must be equal."""
    near = answers(MODEL, here, QUERIES, **options)
    far = answers(MODEL, there, QUERIES, **options)
    for one, other in zip(near, far, strict=True):
        assert [hit.__dict__ for hit in other.hits] == [told(hit) for hit in one.hits]
        assert other.candidates == one.candidates
    return far


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top": 300},
        {"top": 5000},
        {"where": 'camera == "c1"'},
        {"where": "camera == none or time >= 2026-01-06", "top": 40},
        {"where": "score > 0.2"},
        {"where": 'camera == "c1" and score < 0.1', "top": 7},
        {"min_score": 0.5, "top": 50},
        {"min_score": 2.0},
        {"group": "person", "top": 4},
        {"group": "track", "top": 12, "per_group": 2},
        {"group": "source", "where": "detection > 0.5"},
        {"group": "near-duplicate"},
        {"sort": "time"},
    ],
    ids=str,
)
def test_a_database_answers_as_the_same_gallery_in_memory(
    here: Gallery, there: DatabaseGallery, options: dict[str, Any]
) -> None:
    alike(here, there, **options)


def test_sets_that_are_sure_and_probabilities_are_the_same(
    here: Gallery, there: DatabaseGallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    person_G = np.arange(COUNT) % 100
    text_QE = here.vector_GE[:200] + 0.4 * rng.standard_normal((200, MODEL.embed)).astype(np.float32)
    text_QE /= np.linalg.norm(text_QE, axis=1, keepdims=True)
    split = Labelled.of(text_QE, here.vector_GE, person_G[:200].tolist(), person_G.tolist())
    made = fit(split, fingerprint=MODEL.fingerprint, data="drawn", name="val")
    monkeypatch.chdir(tmp_path)  # where the run's own calibration is looked for
    write_calibration(MODEL, made)
    for options in ({}, {"sure": 0.5, "top": 20}, {"sure": 0.8, "where": 'camera == "c1"'}):
        far = alike(here, there, **options)
        near = answers(MODEL, here, QUERIES, **options)
        assert [answer.sure for answer in far] == [answer.sure for answer in near]
    assert all(hit.probability is not None for hit in answers(MODEL, there, QUERIES)[0].hits)


def test_words_are_explained_alike(here: Gallery, there: DatabaseGallery) -> None:
    one, other = (answers(MODEL, gallery, QUERIES[:1], explain=True, top=3)[0].hits for gallery in (here, there))
    assert [hit.explain for hit in one] == [hit.explain for hit in other] != [()] * 3


def test_an_image_that_is_searched_by_is_left_out_of_its_hits(here: Gallery, tmp_path: Path, new_postgres: Any) -> None:
    image = tmp_path / "red.png"
    Image.new("RGB", (8, 16), (220, 10, 10)).save(image)
    vector_NE = np.repeat(MODEL.encode_images([image]), 130, axis=0)
    rows = Rows.of([Row(f"{place}.png", content=content_hash(image)) for place in range(130)])
    rest = here.rows.take(np.arange(12, 40))
    database = open_database(new_postgres(), create=True, fingerprint=MODEL.fingerprint)
    database.add(rows, vector_NE)
    database.add(rest, here.vector_GE[12:40])
    gallery = database_gallery(database, MODEL)
    found = answers(MODEL, gallery, [Query(image=image)], top=10, with_self=False)[0].hits
    assert len(found) == 10 and {hit.path for hit in found} <= set(rest.paths)
    assert len(answers(MODEL, gallery, [Query(image=image)], top=10)[0].hits) == 10


def test_few_rows_are_fetched_for_few_hits(there: DatabaseGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    search = there.database.search
    monkeypatch.setattr(there.database, "search", lambda query, k, where: asked.append(k) or search(query, k, where))
    answers(MODEL, there, QUERIES[:1], top=10)
    assert asked == [100]


def test_a_field_that_no_row_has_is_told_with_those_that_there_are(there: DatabaseGallery) -> None:
    with pytest.raises(UsageError, match="split") as refused:
        answers(MODEL, there, QUERIES, where='split == "test"')
    assert "camera" in str(refused.value.hint)


@pytest.mark.parametrize(
    "sentence", ["a red coat on camera 12", "somebody on camera c1 after 17:00", "a man in january"]
)
def test_questions_are_understood_alike(here: Gallery, there: DatabaseGallery, sentence: str) -> None:
    def asked(gallery: Gallery) -> Answer:
        def rank(queries: list[Query], *, top: int, where: Where | None) -> list[Answer]:
            return answers(MODEL, gallery, queries, top=top, where=where)

        return ask(rank, gallery, Query(sentence), today=date(2026, 1, 7), top=None, where=None)

    near, far = asked(here), asked(there)
    assert far.understood == near.understood
    assert [hit.path for hit in far.hits] == [hit.path for hit in near.hits]


def test_why_nothing_passes_is_told_with_counts(there: DatabaseGallery) -> None:
    tree = parse('camera == "c1"').tree
    assert there.count(tree) == there.database.count(tree) > 0


def test_a_dialogue_goes_on_from_hits_and_undoes(there: DatabaseGallery) -> None:
    session = Session(MODEL, there, Dialogue())
    first = session.said("a red coat")
    more = session.said("more 2")
    assert isinstance(first, Answer) and isinstance(more, Answer)
    assert more.hits[0].path in {hit.path for hit in first.hits}
    grouped = session.said("group person")
    assert isinstance(grouped, Answer) and {hit.group for hit in grouped.hits} >= {"a", "12"}
    undone = session.said("undo")
    assert isinstance(undone, Answer) and [hit.path for hit in undone.hits] == [hit.path for hit in more.hits]


def test_everybody_in_a_frame_is_known_for_blurring(here: Gallery, there: DatabaseGallery) -> None:
    row = next(row for row in here.rows if row.source and row.seconds is not None and row.box)
    assert sorted(there.boxes_in(row.source, row.seconds)) == sorted(here.boxes_in(row.source, row.seconds))
    track = next(row for row in here.rows if row.source and row.seconds is not None and row.track)
    assert there.duration_of(track.source, track.track, track.seconds) == here.duration_of(
        track.source, track.track, track.seconds
    )


def test_images_that_are_not_here_are_told_once(there: DatabaseGallery, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        answers(MODEL, there, QUERIES)
    assert sum("not on this machine" in record.getMessage() for record in caplog.records) == 1


def test_images_without_an_index_are_told_until_it_is_there(
    there: DatabaseGallery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = iter([300, 200, 0, 100])
    monkeypatch.setattr(there.database, "unfinished", lambda: next(waiting))
    for _ in range(4):
        answers(MODEL, there, QUERIES[:1])
    told = [record.getMessage() for record in caplog.records if "have no index yet" in record.getMessage()]
    assert ["300 of 700 images" in told[0], "100 of 700 images" in told[1], len(told)] == [True, True, 2]


def test_another_model_is_refused_with_the_name_of_the_right_one(new_postgres: Any) -> None:
    database = open_database(new_postgres(), create=True, fingerprint="other", about={"run": "runs/other-0001"})
    with pytest.raises(DatabaseError, match="runs/other-0001"):
        database_gallery(database, MODEL)


def test_an_empty_gallery_has_no_hits(new_postgres: Any) -> None:
    database = open_database(new_postgres(), create=True, fingerprint=MODEL.fingerprint)
    assert answers(MODEL, database_gallery(database, MODEL), QUERIES)[0].hits == []
