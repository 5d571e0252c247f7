"""One set of tests over all galleries: an index file, PostgreSQL and Milvus answer alike, as an exact search does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from support.galleries import by_bytes, exact, odd_rows, unit_rows
from support.trees import ASKED, trees

from tbps_cli.databases.base import Database
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import TbpsError
from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import And, Compare, Like, Tree, render

ABOUT = {"run": "runs/irra-0001"}
WIDTH = 16
FIELDS = (*(field for field in ASKED if field != "score"), "source", "width", "height", "detection", "split")
ENGINES = [
    "local",
    "postgres",
    "shards",
    pytest.param("milvus", marks=[pytest.mark.slow, pytest.mark.xdist_group("milvus")]),
]

Open = Callable[..., Database]


@dataclass
class Filled:
    """A gallery that holds known rows."""

    database: Database
    rows: Rows
    vector_NE: Any


def opener(engine: str, request: pytest.FixtureRequest) -> Open:
    """What opens a gallery that is new; each call is another connection to the same one."""
    if engine in ("postgres", "shards"):
        new_postgres = request.getfixturevalue("new_postgres")
        urls = [new_postgres() for _ in range(2 if engine == "shards" else 1)]
        return lambda **options: open_database(urls, **options)
    if engine == "milvus":
        url = request.getfixturevalue("milvus_server").url()
        return lambda **options: open_database(url, **options)
    path = request.getfixturevalue("tmp_path_factory").mktemp("gallery") / "gallery.h5"
    return lambda **options: LocalDatabase.open(path, **options)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def another(engine: str, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a new gallery, again and again; closes everything at the end."""
    yield from _closing(opener(engine, request))


@pytest.fixture
def gallery(another: Open) -> Database:
    """A gallery without rows."""
    return another(create=True, fingerprint="model-1", about=ABOUT)


@pytest.fixture(scope="module")
def odd(engine: str, request: pytest.FixtureRequest) -> Iterator[Filled]:
    """300 rows with everything unusual, which no test changes."""
    for another in _closing(opener(engine, request)):
        database = another(create=True, fingerprint="model-1", about=ABOUT)
        rows, vector_NE = odd_rows(300), unit_rows(300, WIDTH)
        database.add(rows, vector_NE)
        yield Filled(database, rows, np.float16(vector_NE).astype(np.float32) if engine == "local" else vector_NE)


def _closing(open_one: Open) -> Iterator[Open]:
    opened: list[Database] = []

    def another(**options: Any) -> Database:
        opened.append(open_one(**options))
        return opened[-1]

    yield another
    for database in opened:
        database.close()


def paths_of(database: Database, query_E: Any, k: int, where: Tree | None = None) -> list[str]:
    (matches,) = database.search(query_E[None], k, where)
    assert np.all(np.diff(matches.score_K) <= 0)
    assert len(matches.rows) == len(matches.score_K) == len(matches.vector_KE)
    return matches.rows.paths


def all_pages(database: Database, size: int) -> tuple[Rows, Any]:
    """Everything, page by page."""
    rows, vectors, after = [], [], None
    while len((page := database.page(after, size))[0]):
        rows.append(page[0])
        vectors.append(page[1])
        after = page[0].paths[-1]
    return Rows.joined(rows), np.concatenate(vectors)


def test_rows_come_back_as_they_were_kept_in_the_order_of_their_paths(odd: Filled) -> None:
    rows, vector_NE = all_pages(odd.database, 70)
    assert rows.paths == by_bytes(odd.rows.paths)
    assert {row.path: row for row in rows} == {row.path: row for row in odd.rows}
    place = {path: index for index, path in enumerate(odd.rows.paths)}
    np.testing.assert_allclose(vector_NE, odd.vector_NE[[place[path] for path in rows.paths]], atol=5e-4)


def test_the_best_rows_are_those_of_an_exact_search(odd: Filled) -> None:
    query_QE = unit_rows(20, WIDTH, seed=9)
    found = odd.database.search(query_QE, 10)
    for matches, query_E in zip(found, query_QE, strict=True):
        assert matches.rows.paths == exact(odd.rows, odd.vector_NE, query_E, 10)
        np.testing.assert_allclose(matches.score_K, matches.vector_KE.astype(np.float32) @ query_E, rtol=0, atol=1e-6)
        assert matches.score_K.dtype == np.float32


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=trees(FIELDS))
@example(where=Like("path", "*写*1*"))
@example(where=Like("path", "b/100%_sure{x}[1]*"))
@example(where=Compare("path", "==", 'e/" or path != "'))
@example(where=Compare("path", ">", "e/' or path != '"))
@example(where=And((Like("path", "*b*"), Compare("camera", "==", "c1"))))
def test_a_filter_lets_through_what_its_tree_means(odd: Filled, where: Tree) -> None:
    right = {path for path, fits in zip(odd.rows.paths, mask(where, columns_of(odd.rows)), strict=True) if fits}
    query_E = unit_rows(1, WIDTH, seed=7)[0]
    with odd.database.moment():
        assert odd.database.count(where) == len(right), render(where)
        assert set(paths_of(odd.database, query_E, 300, where)) == right, render(where)
        assert paths_of(odd.database, query_E, 5, where) == exact(odd.rows, odd.vector_NE, query_E, 5, where)
        assert len(odd.database.sample(400, where)) == len(right)


def test_the_fields_with_values_are_named(odd: Filled, gallery: Database) -> None:
    assert set(odd.database.columns()) == set(columns_of(odd.rows).known()) - {"score"}
    assert gallery.columns() == ()
    gallery.add(Rows.of([Row("a.jpg", 1, 2, "", "c1")]), unit_rows(1, WIDTH))
    assert set(gallery.columns()) == {"path", "camera"}


def test_the_texts_of_a_field_are_listed_in_the_order_of_their_bytes(odd: Filled, gallery: Database) -> None:
    columns = columns_of(odd.rows)
    for field in ("camera", "time", "clock", "person", "track", "source", "path"):
        column = columns.column(field)
        texts = [text.decode("utf-8", "surrogateescape") for text in np.unique(column.text_V[column.known_V]).tolist()]
        assert odd.database.values(field) == texts, field
        assert odd.database.extent(field) == (texts[0], texts[-1]), field
    assert odd.database.values("path", most=299) is None
    assert odd.database.values("split") == [] and odd.database.extent("split") is None
    assert gallery.values("camera") == [] and gallery.extent("camera") is None


def test_a_sample_has_rows_that_pass_each_once(odd: Filled) -> None:
    where = parse("camera == 'c1'").tree
    passing_N = mask(where, columns_of(odd.rows))
    found = odd.database.sample(10, where)
    assert found.shape == (10, WIDTH) and found.dtype == np.float32
    nearest_N = (found @ odd.vector_NE[passing_N].T).argmax(axis=1)
    assert len(set(nearest_N.tolist())) == 10
    np.testing.assert_allclose(found, odd.vector_NE[passing_N][nearest_N], atol=5e-4)
    assert len(odd.database.sample(1000)) == 300


def test_a_gallery_without_rows_answers_with_nothing(gallery: Database) -> None:
    assert gallery.count() == 0 and gallery.count(parse("camera == 'c1'").tree) == 0
    assert [len(matches.rows) for matches in gallery.search(unit_rows(2, WIDTH), 10)] == [0, 0]
    assert len(gallery.page(None, 10)[0]) == 0
    assert len(gallery.sample(10)) == 0
    assert gallery.delete(["a.jpg"]) == 0
    assert dict(gallery.roots()) == {}
    assert gallery.fingerprint == "model-1"


def test_more_hits_than_rows_are_all_rows(gallery: Database) -> None:
    gallery.add(odd_rows(5), unit_rows(5, WIDTH))
    query_E = unit_rows(1, WIDTH, seed=3)[0]
    assert sorted(paths_of(gallery, query_E, 50)) == sorted(odd_rows(5).paths)


def test_a_row_of_a_known_path_is_replaced_and_a_deleted_one_is_gone(gallery: Database) -> None:
    rows, vector_NE = odd_rows(20), unit_rows(20, WIDTH)
    gallery.add(rows, vector_NE)
    changed = Row(rows.paths[4], 77, 88, "new", "c9", "2026-03-01T00:00:00", "p")
    gallery.add(Rows.of([changed]), vector_NE[7:8])
    assert gallery.count() == 20
    assert gallery.count(parse("camera == 'c9'").tree) == 1
    (matches,) = gallery.search(vector_NE[7:8], 2)
    assert sorted(matches.rows.paths) == sorted([rows.paths[4], rows.paths[7]])
    assert next(row for row in matches.rows if row.path == rows.paths[4]) == changed
    assert gallery.delete([rows.paths[4], rows.paths[5], "nobody.jpg"]) == 2
    assert gallery.count() == 18
    assert gallery.delete([rows.paths[4]]) == 0
    assert rows.paths[4] not in paths_of(gallery, vector_NE[7], 20)
    gallery.add(Rows.of([changed]), vector_NE[7:8])
    assert gallery.count() == 19


def test_rows_given_twice_at_once_count_once_and_the_last_stays(gallery: Database) -> None:
    rows = Rows.of([Row("a.jpg", 1, 2, "x"), Row("b.jpg", 1, 2, "y"), Row("a.jpg", 3, 4, "z")])
    gallery.add(rows, unit_rows(3, WIDTH))
    assert gallery.count() == 2
    assert gallery.page(None, 1)[0][0] == Row("a.jpg", 3, 4, "z")


def test_rows_of_equal_scores_are_all_found(gallery: Database) -> None:
    gallery.add(odd_rows(12), np.repeat(unit_rows(1, WIDTH), 12, axis=0))
    (matches,) = gallery.search(unit_rows(1, WIDTH), 12)
    assert sorted(matches.rows.paths) == sorted(odd_rows(12).paths)
    assert len(set(matches.score_K.tolist())) == 1


def test_two_writers_see_what_the_other_has_kept(gallery: Database, another: Open) -> None:
    rows, vector_NE = odd_rows(20), unit_rows(20, WIDTH)
    second = another(create=True, fingerprint="model-1", about=ABOUT)
    gallery.add(rows.take(np.arange(12)), vector_NE[:12])
    assert second.count() == 12, "opened before there was anything"
    second.add(rows.take(np.arange(8, 20)), vector_NE[8:])
    assert gallery.count() == second.count() == 20
    assert second.delete(rows.paths[:3]) == 3
    assert gallery.count() == second.count() == 17
    (matches,) = gallery.search(vector_NE[19:], 1)
    assert matches.rows.paths == [rows.paths[19]]


def test_what_was_kept_before_a_moment_is_found_within_it(gallery: Database, another: Open) -> None:
    rows, vector_NE = odd_rows(20), unit_rows(20, WIDTH)
    gallery.add(rows.take(np.arange(10)), vector_NE[:10])
    reader = another()
    for place in range(10, 15):
        gallery.add(rows.take(np.arange(place, place + 1)), vector_NE[place : place + 1])
        assert paths_of(reader, vector_NE[place], 1) == [rows.paths[place]]
    gallery.delete([rows.paths[14]])
    with reader.moment():
        assert reader.count() == 14
        assert rows.paths[14] not in paths_of(reader, vector_NE[14], 20)
        reader.delete([rows.paths[13]])
        assert reader.count() == 13, "what it changes itself"
    assert gallery.count() == 13


def test_rows_are_settled_when_that_was_waited_for(gallery: Database) -> None:
    assert gallery.settle() and gallery.unfinished() == 0
    gallery.add(odd_rows(30), unit_rows(30, WIDTH))
    told: list[tuple[int, int]] = []
    assert gallery.settle(lambda ready, total: told.append((ready, total)))
    assert gallery.unfinished() == 0
    assert all(0 <= ready <= total for ready, total in told)


def test_what_is_said_of_a_gallery_is_found_again(gallery: Database, another: Open) -> None:
    gallery.add(odd_rows(2), unit_rows(2, WIDTH))
    assert gallery.add_root("photos", "/data/photos") == "photos"
    assert gallery.add_root("photos", "/data/photos") == "photos"
    other = gallery.add_root("photos", "/else/photos")
    assert other != "photos"
    later = another()
    assert later.fingerprint == "model-1"
    assert later.about["run"] == "runs/irra-0001"
    assert dict(later.roots()) == {"photos": "/data/photos", other: "/else/photos"}
    assert later.count() == 2


def test_a_gallery_of_another_model_is_refused(gallery: Database, another: Open) -> None:
    gallery.add(odd_rows(2), unit_rows(2, WIDTH))
    with pytest.raises(TbpsError, match="runs/irra-0001"):
        another(fingerprint="model-2")
    with pytest.raises(TbpsError, match="runs/irra-0001"):
        another(create=True, fingerprint="model-2")


def test_a_gallery_that_is_not_there_is_refused_unless_it_is_to_be_made(another: Open) -> None:
    with pytest.raises(TbpsError) as refused:
        another()
    assert refused.value.hint
