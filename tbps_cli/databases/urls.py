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
_SECRET = re.compile(r"pass(?!file\b)|pwd|token|secret", re.IGNORECASE)
"""Parameters that are not shown: those, and what may be meant for one of them."""
_ADDRESS = re.compile(
    r"(?P<before>(?:\w+\s*=)?\s*['\"]?\s*)"
    rf"(?:(?P<scheme>[a-z][\w+.-]+):/+(?=.*[@=])|(?P<bare>{'|'.join(SCHEMES)}):(?=.*@))",
    re.IGNORECASE,
)
"""The beginning of an address of whatever kind that may hold a password; be it in quotes, or behind `NAME=`."""
_CREDENTIALS = re.compile(
    rf"(\b(?:[a-z][\w+.-]*:/+|(?:{'|'.join(SCHEMES)}):)[^\s/:@?#'\"]*):\S*@",
    re.IGNORECASE,
)
_PARAMETER = re.compile(rf"(\b[a-z][\w+.-]*:/+\S*[?&;][^\s=&;]*(?:{_SECRET.pattern})[^\s=&;]*=)[^\s&;]+", re.IGNORECASE)
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d*))?")
_WORDS = re.compile(r"\s*\w+\s*=.*\s\w+\s*=")
"""What libpq takes besides URLs: `host=h user=u password=p`."""
_SECRET_WORD = re.compile(rf"\b({'|'.join(sorted(SECRETS))})\s*=\s*(?:'(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def is_url(place: object) -> TypeGuard[str]:
    """Whether a place names a database, rather than files."""
    return isinstance(place, str) and place.partition("://")[0].lower() in SCHEMES and "://" in place


def shown(url: str) -> str:
    """A URL without its password. What cannot be told from a password is left out too."""
    scheme, _, rest = url.partition("://")
    credentials, where, behind = _divided(rest)
    hosts, slash, name = where.partition("/")
    name, _, more = name.partition("&")  # a mistyped ?
    parameters = [part for text in (more, behind) for part in text.split("&")]
    kept = "&".join(part for part in parameters if part and not _is_secret(part))
    user = credentials.partition(":")[0]
    hosts = ",".join(_shown_host(host) for host in hosts.split(","))
    return f"{scheme}://{user}{'@' if user else ''}{hosts}{slash}{name}{'?' if kept else ''}{kept}"


def is_misread(url: str) -> bool:
    """Whether what reads a URL would take a part of the password for a host, a port or the name of a database."""
    credentials, where, _ = _divided(url.partition("://")[2])
    if ":" in credentials and {"/", "@"} & set(credentials):
        return True
    return not all(_HOST.fullmatch(host) for host in where.partition("/")[0].split(","))


def without_passwords(text: str) -> str:
    """A text in which addresses may stand, without their passwords."""
    return _PARAMETER.sub(r"\1...", _CREDENTIALS.sub(r"\1@", text))


def _divided(rest: str) -> tuple[str, str, str]:
    """What stands behind :// as user and password, hosts and name, parameters."""
    before, _, behind = rest.partition("?")
    # a password that was not escaped may hold an @ and a ?: then it ends at the last @
    credentials, at, where = (rest if "@" in behind and ":" in before else before).rpartition("@")
    where, _, parameters = rest[len(credentials) + len(at) :].partition("?")
    return credentials, where, parameters


def _shown_host(host: str) -> str:
    """A host and its port; what is no port may be a password, as in USER:PASSWORD without a host."""
    if _HOST.fullmatch(host):
        return host
    return (re.match(r"\[[^\]]*\]|[^:]*", host) or [""])[0] + ":..."


def shown_place(place: str) -> str:
    """A place as it is shown: of a URL without its password, be it mistyped, of files as they are named."""
    if is_url(place):
        return shown(place)
    if address := _ADDRESS.match(place):
        scheme = address["scheme"] or address["bare"]
        return address["before"] + shown(f"{scheme}://{place[address.end() :]}")
    return _SECRET_WORD.sub(r"\1=...", place) if _WORDS.match(place) else place


def _is_secret(parameter: str) -> bool:
    return _SECRET.search(unquote(parameter)) is not None


def scheme_of(url: str) -> str:
    """The kind of database: postgresql for its shorter name too."""
    scheme = url.partition("://")[0].lower()
    return "postgresql" if scheme == "postgres" else scheme
