"""Opens the gallery at a URL, or at several: the one place that knows which client a kind of database needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tbps_cli.databases.base import Database
from tbps_cli.databases.shards import Shards
from tbps_cli.databases.urls import scheme_of, shown
from tbps_cli.errors import MissingExtra, UsageError


def open_database(
    urls: str | Sequence[str],
    *,
    create: bool = False,
    fingerprint: str | None = None,
    about: Mapping[str, object] | None = None,
) -> Database:
    """The gallery at a URL; of several URLs, each a shard of it, all of them as one.

    create: make what is not there yet; otherwise a database without a gallery is refused.
    fingerprint: of the model in use; a gallery of another one is refused. None takes it as it is.
    about: what is kept with a gallery that is made: `run` is the checkpoint.
    Raises DatabaseError where it cannot be reached or used, UsageError for URLs that make no gallery together, and
    MissingExtra without the database's client.
    """
    listed = [urls] if isinstance(urls, str) else list(urls)
    schemes = {scheme_of(url) for url in listed}
    if len(schemes) != 1:
        raise UsageError("shards of one gallery are databases of one kind.", "Give URLs of PostgreSQL, or of Milvus.")
    if len(set(listed)) < len(listed):
        raise UsageError(f"{shown(listed[0])} is given twice.", "Each URL is another shard of the gallery.")
    opened: list[Database] = []
    try:
        for url in listed:
            opened.append(_open(url, create=create, fingerprint=fingerprint, about=about))
        return opened[0] if len(opened) == 1 else Shards(opened)
    except BaseException:
        for one in opened:
            one.close()
        raise


def _open(url: str, *, create: bool, fingerprint: str | None, about: Mapping[str, object] | None) -> Database:
    if scheme_of(url) == "postgresql":
        try:
            from tbps_cli.databases.postgres import open_postgres
        except ImportError:
            raise MissingExtra("psycopg with pgvector", "postgres", "A gallery in PostgreSQL") from None
        return open_postgres(url, create=create, fingerprint=fingerprint, about=about)
    from tbps_cli.databases.milvus import MilvusDatabase

    return MilvusDatabase.open(url, create=create, fingerprint=fingerprint, about=about)
