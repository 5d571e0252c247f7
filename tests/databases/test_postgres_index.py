"""Indexes of vectors in PostgreSQL: which ranges get one, how much of it is looked at, and what holds without one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from support.galleries import exact, unit_rows

from tbps_cli.databases import postgres_index, postgres_measure
from tbps_cli.databases.opening import open_database
from tbps_cli.features.rows import Row, Rows

WIDTH = 16


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small figures in place of those for real galleries."""
    monkeypatch.setattr(postgres_index, "WAITING", 100)
    monkeypatch.setattr(postgres_index, "LIMIT", 400)


def numbered(start: int, size: int) -> Rows:
    return Rows.of([Row(f"f/{number:06d}.jpg", number, 1) for number in range(start, start + size)])


def add(url: str, start: int, vector_NE: NDArray[np.float32]) -> None:
    """As `tbps index` does: what is new is added, then indexed where it is much."""
    database = open_database(url, create=True, fingerprint="model")
    database.add(numbered(start, len(vector_NE)), vector_NE.astype(np.float16))
    database.close()


def known(url: str) -> list[tuple[int, int, int, int | None]]:
    """What is kept of each range: above, up to, rows, ef; there is an index of each but those with ef 0."""
    with psycopg.connect(url) as reader:
        found = reader.execute("SELECT name, after, upto, rows, ef FROM tbps.hnsw ORDER BY after").fetchall()
        built = "SELECT indexname FROM pg_indexes WHERE schemaname = 'tbps' AND indexname LIKE 'hnsw\\_%\\_%'"
        assert {name for (name,) in reader.execute(built)} == {name for name, *_, ef in found if ef != 0}
    return [(after, upto, rows, ef) for _, after, upto, rows, ef in found]


def share_found(url: str, vector_NE: NDArray[np.float32], query_QE: NDArray[np.float32]) -> float:
    """Recall@10 of a search."""
    database = open_database(url)
    stored_NE = vector_NE.astype(np.float16).astype(np.float32)
    rows, shared = numbered(0, len(vector_NE)), 0
    for matches, query_E in zip(database.search(query_QE, 10), query_QE, strict=True):
        shared += len({*matches.rows.paths} & {*exact(rows, stored_NE, query_E, 10)})
    database.close()
    return shared / (10 * len(query_QE))


def test_no_index_has_more_rows_than_the_limit(postgres_url: str, small: None) -> None:
    vector_NE = unit_rows(1510, WIDTH)
    for start, end in ((0, 1250), (1250, 1400), (1400, 1510)):
        add(postgres_url, start, vector_NE[start:end])
    found = known(postgres_url)
    assert [(after, upto, rows) for after, upto, rows, _ in found] == [
        (0, 400, 400),
        (400, 800, 400),
        (800, 1250, 450),  # fewer than WAITING would be left over
        (1250, 1510, 260),
    ]
    assert share_found(postgres_url, vector_NE, unit_rows(20, WIDTH, seed=9)) >= 0.99


def test_where_directions_are_many_more_of_an_index_is_looked_at(
    postgres_url: str, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_index, "WAITING", 1000)
    monkeypatch.setattr(postgres_measure, "STEPS", (10, 20, 40, 80, 160, 320, 1000))
    monkeypatch.setattr(postgres_measure, "REACH", 10)
    flat_NE = unit_rows(2000, 192)
    steep_NE = flat_NE * np.arange(1, 193, dtype=np.float32) ** -1.5
    chosen = []
    for url, vector_NE in ((postgres_url, flat_NE), (new_postgres(), steep_NE)):
        add(url, 0, vector_NE / np.linalg.norm(vector_NE, axis=1, keepdims=True))
        chosen.append(known(url)[0][3])
    assert chosen[0] is not None and chosen[1] is not None
    assert chosen[0] >= 2 * chosen[1] > 0, chosen


def test_where_no_index_finds_enough_all_rows_are_compared_and_a_line_says_so(
    postgres_url: str, small: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vector_NE, query_QE = unit_rows(1100, 64), unit_rows(20, 64, seed=9)
    with monkeypatch.context() as poor, caplog.at_level(logging.WARNING, logger="tbps"):
        poor.setattr(postgres_index, "M", 2)
        poor.setattr(postgres_index, "EF_CONSTRUCTION", 4)
        poor.setattr(postgres_measure, "STEPS", (1,))
        poor.setattr(postgres_measure, "EF_MOST", 1)
        poor.setattr(postgres_measure, "REACH", 10)
        add(postgres_url, 0, vector_NE[:300])
    (said,) = [record.getMessage() for record in caplog.records]
    assert "of the ten best of 300 rows, so it was dropped" in said and "which misses none and takes" in said
    assert known(postgres_url) == [(0, 300, 300, 0)]
    database = open_database(postgres_url)
    assert database.exact
    database.close()
    add(postgres_url, 300, vector_NE[300:600])  # not tried again before there are LIMIT
    assert known(postgres_url) == [(0, 300, 300, 0)]
    assert share_found(postgres_url, vector_NE[:600], query_QE) == 1.0
    add(postgres_url, 600, vector_NE[600:1100])
    assert [(after, rows, ef) for after, _, rows, ef in known(postgres_url)] == [
        (0, 300, 0),
        (300, 400, 200),
        (700, 400, 200),
    ]
    assert share_found(postgres_url, vector_NE, query_QE) >= 0.99


def test_indexes_of_an_older_version_are_measured_and_too_large_ones_built_anew(
    postgres_url: str, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector_NE = unit_rows(1000, WIDTH)
    with monkeypatch.context() as before:
        before.setattr(postgres_index, "LIMIT", 2000)
        add(postgres_url, 0, vector_NE[:850])
        add(postgres_url, 850, vector_NE[850:])
    with psycopg.connect(postgres_url) as writer:
        writer.execute("UPDATE tbps.hnsw SET ef = NULL")
    assert [rows for _, _, rows, _ in known(postgres_url)] == [850, 150]
    query_QE = unit_rows(20, WIDTH, seed=9)
    assert share_found(postgres_url, vector_NE, query_QE) >= 0.99
    open_database(postgres_url, create=True, fingerprint="model").close()
    assert [(rows, ef) for _, _, rows, ef in known(postgres_url)] == [(400, 200), (450, 200), (150, 200)]
    assert share_found(postgres_url, vector_NE, query_QE) >= 0.99


def test_a_range_that_has_lost_most_of_its_rows_gives_up_its_index(postgres_url: str, small: None) -> None:
    vector_NE = unit_rows(1400, WIDTH)
    add(postgres_url, 0, vector_NE[:1200])
    database = open_database(postgres_url, create=True)
    assert database.delete(numbered(0, 800).paths[:790]) == 790
    database.close()
    add(postgres_url, 1200, vector_NE[1200:])
    assert [(after, upto, rows) for after, upto, rows, _ in known(postgres_url)] == [
        (800, 1200, 400),
        (1200, 1400, 200),
    ]
    database = open_database(postgres_url)
    (found,) = database.search(vector_NE[795:796], 1)  # one of the ten that are left has no index
    assert found.rows.paths == ["f/000795.jpg"]
    database.close()


def test_an_index_that_somebody_dropped_is_built_again(postgres_url: str, small: None) -> None:
    vector_NE = unit_rows(900, WIDTH)
    add(postgres_url, 0, vector_NE)
    before = known(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("DROP INDEX tbps.hnsw_0_400")
    assert share_found(postgres_url, vector_NE, unit_rows(20, WIDTH, seed=9)) >= 0.99
    open_database(postgres_url, create=True, fingerprint="model").close()
    assert known(postgres_url) == before


def test_drawn_queries_are_no_rows_and_lie_between_a_row_and_all_others() -> None:
    row_NE = unit_rows(1000, 64) + 2
    row_NE /= np.linalg.norm(row_NE, axis=1, keepdims=True)
    query_QE = postgres_measure.queries(row_NE)
    assert query_QE.shape == (100, 64)
    off_NE = row_NE - row_NE.mean(0)
    cosine_QN = query_QE @ (off_NE / np.linalg.norm(off_NE, axis=1, keepdims=True)).T
    assert 0.4 < np.median(cosine_QN.max(1)) < 0.6
    assert abs(float((query_QE @ row_NE.mean(0)).mean())) < 0.1
