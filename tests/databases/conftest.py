"""Databases for tests: a PostgreSQL and a Milvus server, started once and stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from support.milvus_server import MilvusProcess, NoMilvus
from support.postgres_server import Server

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server for all tests that do not stop it. Skips, with the reason, where none can be started."""
    server = Server.or_skip()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def new_postgres(postgres_server: Server) -> Callable[[], str]:
    """Makes a fresh, empty database with the extension `vector`; returns its URL."""

    def made() -> str:
        name = f"test{next(_NUMBERS)}"
        postgres_server.create(name)
        return postgres_server.url(name)

    return made


@pytest.fixture
def postgres_url(new_postgres: Callable[[], str]) -> str:
    """The URL of a fresh, empty database with the extension `vector`."""
    return new_postgres()


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[MilvusProcess]:
    """A server for all tests that do not stop it. Skips, with the reason, where none can be started."""
    try:
        server = MilvusProcess.new()
    except NoMilvus as error:
        pytest.skip(f"no Milvus server here: {error}")
    yield server
    server.remove()
