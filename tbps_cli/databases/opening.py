"""Opens the gallery at a URL, or at several: the one place that knows which client a kind of database needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tbps_cli.databases.base import Database
from tbps_cli.databases.shards import SHARD, Shards
from tbps_cli.databases.urls import scheme_of, shown
from tbps_cli.errors import DatabaseError, MissingExtra, UsageError


def open_database(
    urls: str | Sequence[str],
    *,
    create: bool = False,
    fingerprint: str | None = None,
    about: Mapping[str, object] | None = None,
) -> Database:
    """The gallery at a URL; of several URLs, each a shard of it, all of them as one, always in the same order.

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
        for number, url in enumerate(listed, 1):
            place = None if len(listed) == 1 else f"{number} of {len(listed)}"
            told = {key: value for key, value in (about or {}).items() if key != SHARD}
            marked = told if place is None else {**told, SHARD: place}
            opened.append(_open(url, create=create, fingerprint=fingerprint, about=marked))
            _check_place(opened[-1], place)
        return opened[0] if len(opened) == 1 else Shards(opened)
    except BaseException:
        for one in opened:
            one.close()
        raise


def _check_place(database: Database, place: str | None) -> None:
    """Raises DatabaseError where a database is another shard than the one it is given as, or none, or one of several.

    An image lies in the shard that a hash of its path names, so answers would lack images, and writers add some twice.
    """
    made_as = database.about.get(SHARD)
    if database.fingerprint is None or made_as == place:
        return
    if made_as is None:
        raise DatabaseError(
            f"{database.title} holds a whole gallery, and is no shard of one.",
            'Give it alone, or spread it over new shards: tbps index --move URL "URL1 URL2"',
        )
    given = "it was given alone" if place is None else f"it was given as {place}"
    raise DatabaseError(
        f"{database.title} is shard {made_as} of a gallery, but {given}.",
        "Give the URLs of all its shards, in the order in which it was made.",
    )


def _open(url: str, *, create: bool, fingerprint: str | None, about: Mapping[str, object] | None) -> Database:
    if scheme_of(url) == "postgresql":
        try:
            from tbps_cli.databases.postgres import open_postgres
        except ImportError:
            raise MissingExtra("psycopg with pgvector", "postgres", "A gallery in PostgreSQL") from None
        return open_postgres(url, create=create, fingerprint=fingerprint, about=about)
    from tbps_cli.databases.milvus import MilvusDatabase

    return MilvusDatabase.open(url, create=create, fingerprint=fingerprint, about=about)
