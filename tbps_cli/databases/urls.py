"""A gallery in a database is named by a URL: which texts are one, how it is shown, and how it is opened.

A URL may hold a password. It is shown without (`shown`) wherever somebody or something may read it: messages, logs,
JSON, pages, `repr`. Several URLs are the shards of one gallery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard
from urllib.parse import unquote

from tbps_cli.databases.base import Database
from tbps_cli.databases.shards import Shards
from tbps_cli.errors import MissingExtra, UsageError

SCHEMES = ("postgresql", "postgres", "milvus")
SECRETS = frozenset({"password", "sslpassword", "token", "oauth_client_secret"})
"""Parameters of a URL that nobody is to see."""


def is_url(place: object) -> TypeGuard[str]:
    """Whether a place names a database, rather than files."""
    return isinstance(place, str) and place.partition("://")[0].lower() in SCHEMES and "://" in place


def shown(url: str) -> str:
    """A URL without its password. What cannot be told from a password is left out too."""
    scheme, _, rest = url.partition("://")
    before, _, behind = rest.partition("?")
    # a password that was not escaped may hold an @ and a ?: then it ends at the last @
    credentials, at, where = (rest if "@" in behind and ":" in before else before).rpartition("@")
    where, _, parameters = rest[len(credentials) + len(at) :].partition("?")
    kept = "&".join(part for part in parameters.split("&") if part and not _is_secret(part))
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}{at if user else ''}{where}{'?' if kept else ''}{kept}"


def _is_secret(parameter: str) -> bool:
    return unquote(parameter.partition("=")[0]).strip().lower() in SECRETS


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
    schemes = {_scheme(url) for url in listed}
    if len(schemes) != 1:
        raise UsageError("shards of one gallery are databases of one kind.", "Give URLs of PostgreSQL, or of Milvus.")
    if len(set(listed)) < len(listed):
        raise UsageError(f"{shown(listed[0])} is given twice.", "Each URL is another shard of the gallery.")
    opened = [_open(url, create=create, fingerprint=fingerprint, about=about) for url in listed]
    return opened[0] if len(opened) == 1 else Shards(opened)


def _open(url: str, *, create: bool, fingerprint: str | None, about: Mapping[str, object] | None) -> Database:
    if _scheme(url) == "postgresql":
        try:
            from tbps_cli.databases.postgres import open_postgres
        except ImportError:
            raise MissingExtra("psycopg with pgvector", "postgres", "A gallery in PostgreSQL") from None
        return open_postgres(url, create=create, fingerprint=fingerprint, about=about)
    raise UsageError(f"{shown(url)}: databases of this kind cannot be opened.")


def _scheme(url: str) -> str:
    """The kind of database: postgresql for its shorter name too."""
    scheme = url.partition("://")[0].lower()
    return "postgresql" if scheme == "postgres" else scheme
