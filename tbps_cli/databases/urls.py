"""A gallery in a database is named by a URL: which texts are one, and how one is shown.

A URL may hold a password. It is shown without (`shown`) wherever somebody or something may read it: messages, logs,
JSON, pages, `repr`. `opening.open_database` opens one.
"""

from __future__ import annotations

import re
from typing import TypeGuard
from urllib.parse import unquote

SCHEMES = ("postgresql", "postgres", "milvus")
SECRETS = frozenset({"password", "sslpassword", "token", "oauth_client_secret"})
"""Parameters of a URL that nobody is to see."""
_ADDRESS = re.compile(r"([a-z][\w+.-]+):/+(?=.*[@=])", re.IGNORECASE)
"""The beginning of an address of whatever kind that may hold a password."""
_WORDS = re.compile(r"\s*\w+\s*=.*\s\w+\s*=")
"""What libpq takes besides URLs: `host=h user=u password=p`."""
_SECRET_WORD = re.compile(rf"\b({'|'.join(sorted(SECRETS))})\s*=\s*(?:'(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


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


def shown_place(place: str) -> str:
    """A place as it is shown: of a URL without its password, be it mistyped, of files as they are named."""
    if is_url(place):
        return shown(place)
    if address := _ADDRESS.match(place):
        return shown(f"{address[1]}://{place[address.end() :]}")
    return _SECRET_WORD.sub(r"\1=...", place) if _WORDS.match(place) else place


def _is_secret(parameter: str) -> bool:
    return unquote(parameter.partition("=")[0]).strip().lower() in SECRETS


def scheme_of(url: str) -> str:
    """The kind of database: postgresql for its shorter name too."""
    scheme = url.partition("://")[0].lower()
    return "postgresql" if scheme == "postgres" else scheme
