"""What goes wrong with a gallery in Milvus is one line, and what was kept survives a kill of the server."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from support.galleries import exact, odd_rows, plain_rows, unit_rows
from support.milvus_server import MilvusProcess
from support.postgres_server import free_port

from tbps_cli.databases.milvus_connection import MilvusAddress
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import DatabaseError, TbpsError, UnreachableError, UsageError
from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.tree import Like, Tree

MADE: dict[str, Any] = {"create": True, "fingerprint": "model-1", "about": {"run": "runs/irra-0001"}}


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs the server."""
    return pytest.mark.slow(pytest.mark.xdist_group("milvus")(test))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("milvus://h:19530", "milvus://h:19530 needs the name of a collection"),
        ("milvus:///people", "milvus:///people names no host"),
        ("milvus://h/peo-ple", "needs the name of a collection"),
        ("milvus://h:port/people", "is not a URL of Milvus"),
        ("milvus://me:secret@h/a/b", "milvus://me@h/a/b needs the name of a collection"),
        ("milvus://h/people?metric=L2", "there is no parameter metric"),
        ("milvus://h/people?consistency=weak", "consistency is strong or bounded, not weak"),
    ],
)
def test_a_url_that_names_no_collection_is_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("?", r"\?")) as refused:
        open_database(url)
    assert refused.value.hint and "secret" not in str(refused.value)


def test_a_url_says_who_asks_which_server_for_what() -> None:
    found = MilvusAddress.of("milvus://me:p%40ss@[::1]:5/people?tls=true&database=city")
    assert (found.uri, found.collection, found.database) == ("https://[::1]:5", "people", "city")
    assert (found.user, found.password) == ("me", "p@ss")
    assert "p@ss" not in repr(found) and "p%40ss" not in found.title
    plain = MilvusAddress.of("milvus://h/people")
    assert (plain.uri, plain.bounded) == ("http://h:19530", False)
    assert MilvusAddress.of("milvus://h/people?consistency=bounded").bounded


def test_a_password_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_PASSWORD", "geheim")
    monkeypatch.setenv("MILVUS_TOKEN", "zeichen")
    found = MilvusAddress.of("milvus://me@h/people")
    assert (found.password, found.token) == ("geheim", "") and "geheim" not in repr(found)
    assert MilvusAddress.of("milvus://me:else@h/people").password == "else"
    found = MilvusAddress.of("milvus://h/people")
    assert (found.password, found.token) == ("", "zeichen") and "zeichen" not in repr(found)
    assert MilvusAddress.of("milvus://h/people?token=else").token == "else"


def test_a_server_that_does_not_answer_is_one_line_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseError) as refused:
        open_database(f"milvus://me:geheim@127.0.0.1:{port}/people")
    assert refused.value.message == (
        f"milvus://me@127.0.0.1:{port}/people: no Milvus server answers at 127.0.0.1:{port}."
    )
    assert refused.value.hint
    assert "geheim" not in str(refused.value) + caplog.text + refused.value.hint


def test_what_listens_but_does_not_let_in_is_told_from_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client says "server unavailable" of a wrong password too."""
    import grpc

    monkeypatch.setattr("tbps_cli.databases.milvus_connection.TIMEOUT", 1.0)

    def refused_call(request: bytes, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

    class Refusing(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refused_call)

    refusing = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
    port = refusing.add_insecure_port("127.0.0.1:0")
    refusing.start()
    try:
        with pytest.raises(DatabaseError, match="refuses this user or password, or is no Milvus") as refused:
            open_database(f"milvus://me:geheim@127.0.0.1:{port}/people")
    finally:
        refusing.stop(None)
    assert not isinstance(refused.value, UnreachableError), "it does not get better by itself"
    assert "geheim" not in str(refused.value) + str(refused.value.hint)


@pytest.mark.parametrize("kind", ["silent", "hangs up", "HTTP"])
def test_what_listens_but_is_dead_is_no_refused_password(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps_cli.databases.milvus_connection.TIMEOUT", 1.0)
    monkeypatch.setattr("tbps_cli.databases.milvus_connection.ANSWERS", 0.5)
    taken = list[socket.socket]()

    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                if kind == "HTTP":
                    taken[-1].sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                if kind != "silent":
                    taken[-1].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        where = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnreachableError) as dead:
            open_database(f"milvus://me:geheim@{where}/people")
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()
    assert dead.value.message == (
        f"milvus://me@{where}/people: something listens at {where}, but does not answer as Milvus does."
    )
    assert dead.value.hint and "geheim" not in dead.value.hint


@real
def test_a_collection_of_somebody_else_is_refused(milvus_server: MilvusProcess) -> None:
    from pymilvus import MilvusClient

    url = milvus_server.url()
    client = MilvusClient(f"http://127.0.0.1:{milvus_server.port}", timeout=30, dedicated=True)
    client.create_collection(url.rpartition("/")[2], dimension=4)
    client.close()
    for options in ({}, MADE):
        with pytest.raises(DatabaseError, match="holds no gallery of tbps"):
            open_database(url, **options)


@real
def test_a_gallery_of_a_newer_version_is_refused(milvus_server: MilvusProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    url = milvus_server.url()
    with monkeypatch.context() as newer:
        newer.setattr("tbps_cli.databases.milvus_collection.VERSION", 2)
        database = open_database(url, **MADE)
        database.add(odd_rows(2), unit_rows(2, 8))
        database.close()
    with pytest.raises(DatabaseError, match="made by a newer tbps") as refused:
        open_database(url)
    assert refused.value.hint == "Update tbps here."


@real
def test_vectors_of_another_width_are_refused(milvus_server: MilvusProcess) -> None:
    database = open_database(milvus_server.url(), **MADE)
    database.add(odd_rows(2), unit_rows(2, 8))
    with pytest.raises(DatabaseError, match="8 wide, not 16"):
        database.add(odd_rows(2), unit_rows(2, 16))
    with pytest.raises(DatabaseError, match="8 wide, not 16"):
        database.search(unit_rows(1, 16), 1)
    database.close()


@real
def test_twenty_thousand_rows_by_a_graph_are_found_as_by_an_exact_search(milvus_server: MilvusProcess) -> None:
    """Goal: recall@10 .99 without a filter, 1.0 under narrow ones; whatever kind of search answers."""
    count, width = 20_000, 64
    rows, vector_NE, query_QE = plain_rows(count), unit_rows(count, width), unit_rows(30, width, seed=5)
    url = milvus_server.url()
    database = open_database(url, **MADE)
    database.add(rows, vector_NE)
    assert open_database(url).unfinished() == count
    narrow = parse("camera == 'c3' and time < 2026-01-05T00:16:40").tree  # exact before there is a graph, too
    for query_E, found in zip(query_QE, database.search(query_QE, 10, narrow), strict=True):
        assert found.rows.paths == exact(rows, vector_NE, query_E, 10, narrow)
    told: list[tuple[int, int]] = []
    assert database.settle(lambda ready, total: told.append((ready, total)))
    assert told[-1] == (count, count) and database.unfinished() == 0
    filters: dict[str, tuple[Tree | None, float]] = {
        "all": (None, 0.99),
        "12 rows": (parse("time <= 2026-01-05T00:00:11").tree, 1.0),
        "a camera and 5 %": (parse("camera == 'c3' and time < 2026-01-05T00:16:40").tree, 1.0),
        "5 %": (parse("time < 2026-01-05T00:16:40").tree, 1.0),
        "a camera": (parse("camera == 'c3'").tree, 1.0),
        "half": (parse("time < 2026-01-05T02:45:00").tree, 1.0),
        "a middle": (Like("path", "*3/*7.jpg"), 1.0),
        "nearly all": (parse("camera != 'c3'").tree, 0.99),
        "nearly all by a middle": (Like("path", "cam*1*.jpg"), 0.99),
    }
    for name, (where, goal) in filters.items():
        found = database.search(query_QE, 10, where)
        right = [exact(rows, vector_NE, query_E, 10, where) for query_E in query_QE]
        hits = sum(len(set(one.rows.paths) & set(best)) for one, best in zip(found, right, strict=True))
        assert hits / sum(map(len, right)) >= goal, f"{name}: {hits / sum(map(len, right)):.3f}"
    database.close()


@real
def test_a_row_is_seen_by_others_as_soon_as_it_is_kept(milvus_server: MilvusProcess) -> None:
    """With weaker consistency 39 of 40 were not."""
    url = milvus_server.url()
    writer = open_database(url, **MADE)
    rows, vector_NE = plain_rows(60), unit_rows(60, 16)
    writer.add(rows.take(np.arange(40)), vector_NE[:40])
    reader, relaxed = open_database(url), open_database(f"{url}?consistency=bounded", **MADE)
    for place in range(40, 50):
        writer.add(rows.take(np.arange(place, place + 1)), vector_NE[place : place + 1])
        assert reader.search(vector_NE[place : place + 1], 1)[0].rows.paths == [rows.paths[place]]
    for place in range(50, 60):  # its own changes are seen in any case
        relaxed.add(rows.take(np.arange(place, place + 1)), vector_NE[place : place + 1])
        assert relaxed.search(vector_NE[place : place + 1], 1)[0].rows.paths == [rows.paths[place]]
    for database in (writer, reader, relaxed):
        database.close()


@real
def test_rows_that_replace_many_others_are_waited_for(milvus_server: MilvusProcess) -> None:
    """They are in no count and no list of the server's until they are flushed."""
    url = milvus_server.url()
    writer = open_database(url, **MADE)
    rows, vector_NE = plain_rows(6000), unit_rows(6000, 16)
    writer.add(rows, vector_NE)
    assert writer.settle() and open_database(url).unfinished() == 0
    writer.add(rows, vector_NE[::-1])
    assert open_database(url).unfinished() > 4992
    assert writer.settle()
    reader = open_database(url)
    assert (reader.count(), reader.unfinished()) == (6000, 0)
    writer.close()


@pytest.fixture
def own_server(milvus_server: MilvusProcess) -> Iterator[MilvusProcess]:
    """The server for a test that kills it; it runs again afterwards."""
    yield milvus_server
    if milvus_server.starter is None:
        milvus_server.start()


@real
def test_no_row_that_was_acknowledged_is_lost_when_the_server_is_killed(own_server: MilvusProcess) -> None:
    name = own_server.url().rpartition("/")[2]
    database = open_database(f"milvus://127.0.0.1:{own_server.port}/{name}", **MADE)
    rows, vector_NE = plain_rows(3000), unit_rows(3000, 16)
    for start in range(0, 3000, 500):
        database.add(rows.take(np.arange(start, start + 500)), vector_NE[start : start + 500])
    own_server.kill()
    begin = time.monotonic()
    with pytest.raises(DatabaseError, match="no Milvus server answers"):
        database.search(vector_NE[:1], 1)
    assert time.monotonic() - begin < 60
    with pytest.raises(TbpsError):
        database.close()
    own_server.start()
    again = open_database(f"milvus://127.0.0.1:{own_server.port}/{name}", **MADE)
    assert again.count() == 3000
    (matches,) = again.search(vector_NE[2999:], 1)
    assert matches.rows.paths == [rows.paths[2999]]
    again.close()
