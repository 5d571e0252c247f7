"""A connection to PostgreSQL that comes back once when it is lost, and whose errors are a line without a password."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

import psycopg
from psycopg import conninfo, errors

from tbps_cli.databases.postgres_schema import Connection
from tbps_cli.databases.urls import is_misread, shown
from tbps_cli.errors import DatabaseError, UnreachableError, UsageError

DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "tbps",
}
"""So that a server that is gone is noticed within a minute; what a URL says counts more."""
AGAIN = 5.0
"""Seconds in which a lost connection may come back: a server that was killed reads its log, a standby takes over."""

CIRCLES = 5
"""Times that work is done again which waited in a circle with other writers."""

_STARTING = "starting up", "in recovery mode", "not yet accepting connections"
"""What a server says that will let in soon: after its start, after a crash, as a standby that reads its log."""

_FULL = "too many clients", "too many connections", "remaining connection slots"

T = TypeVar("T")
_NAME = re.compile("[a-z0-9_]{1,50}")


def parted(url: str) -> tuple[str, str | None]:
    """A URL as libpq takes it, and the name of the gallery in it (`?gallery=NAME`). Raises UsageError."""
    scheme, _, rest = url.partition("://")
    url = f"{scheme.lower()}://{rest}"  # libpq knows no other spelling
    before, _, behind = url.partition("?")
    parameters = behind.split("&") if behind else []
    names = [unquote(part.partition("=")[2]) for part in parameters if part.startswith("gallery=")]
    if not names:
        return url, None
    if len(names) > 1 or not _NAME.fullmatch(names[0]):
        raise UsageError(f"{shown(url)}: gallery={names[-1]} is no name.", "A name has a-z, 0-9 and _, at most 50.")
    rest = "&".join(part for part in parameters if not part.startswith("gallery="))
    return before + ("?" + rest if rest else ""), names[0]


class Link:
    """One connection, made when it is needed; `ready` is called with each new one."""

    def __init__(self, url: str, title: str, ready: Callable[[Connection], None], *, writes: bool) -> None:
        self.title, self._ready = title, ready
        try:
            if is_misread(url):
                raise ValueError
            given = conninfo.conninfo_to_dict(url)
        except (psycopg.ProgrammingError, ValueError):  # its message may hold a part of the password
            raise UsageError(
                f"{title} is no URL of PostgreSQL.",
                "postgresql://USER@HOST:PORT/DATABASE; in a password, @ is %40, / is %2F, : is %3A, % is %25.",
            ) from None
        self._given: dict[str, Any] = {**DEFAULTS, **given, "client_encoding": "UTF8"}  # whatever a user is given else
        if writes:
            self._given.setdefault("target_session_attrs", "read-write")
        self._secrets = [str(given[key]) for key in ("password", "sslpassword") if given.get(key)]
        self._connection: Connection | None = None
        self._lock = threading.RLock()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something with the connection; once more if it is lost meanwhile. Raises DatabaseError.

        What waits in a circle with other writers is ended and undone by the server, and done again.
        """
        with self._lock:
            lost, circles = False, 0
            while True:
                try:
                    return work(self._open(AGAIN if lost else 0.0))
                except psycopg.Error as error:
                    if not lost and (self._connection is None or self._connection.closed):
                        lost = True
                    elif circles < CIRCLES and isinstance(error, errors.DeadlockDetected | errors.SerializationFailure):
                        circles += 1
                    else:
                        raise self.explained(error) from None

    def close(self) -> None:
        """End the connection."""
        with self._lock, contextlib.suppress(psycopg.Error):
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self, patience: float) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        until = time.monotonic() + patience
        while True:
            try:
                self._connection = psycopg.connect(**self._given, autocommit=True, prepare_threshold=None)
                break
            except psycopg.Error as error:
                if time.monotonic() >= until:
                    raise self._unreachable(error) from None
                time.sleep(0.2)
        try:
            self._ready(self._connection)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            explained = self.explained(error)
            self.close()
            raise explained from None
        except BaseException:
            self.close()
            raise
        return self._connection

    def _unreachable(self, error: psycopg.Error) -> DatabaseError:
        said = self._first_line(error)
        if "password" in said:
            return DatabaseError(
                f"{self.title}: the server does not accept the user or the password.",
                "The password may stand in the URL, in PGPASSWORD, or in the file ~/.pgpass.",
            )
        if any(words in said for words in _STARTING):
            return UnreachableError(f"{self.title}: the server is starting up.", "Try again in a moment.")
        if any(words in said for words in _FULL):
            return UnreachableError(
                f"{self.title}: the server has no connection to give: {said}.",
                "Try again in a moment, close other programs, or let it have more (max_connections).",
            )
        if "FATAL" in said and "does not exist" in said:
            return DatabaseError(
                f"{self.title} cannot be used: {said}.", "Make it on the server: see docs/databases.md."
            )
        kind = DatabaseError if "FATAL" in said and "shutting down" not in said else UnreachableError
        return kind(
            f"{self.title} cannot be reached: {said}.", "Does the server run, and may this machine connect to it?"
        )

    def explained(self, error: psycopg.Error) -> DatabaseError:
        """An error of the server as a line and a hint."""
        said = self._first_line(error)
        if self._connection is None or self._connection.closed:
            return UnreachableError(
                f"{self.title}: the connection was lost, and once more at the second try ({said}).",
                "What was acknowledged is kept. Try again when the server runs.",
            )
        for kind, message, hint in _KNOWN:
            if isinstance(error, kind):
                return DatabaseError(f"{self.title}: {message} ({said}).", hint)
        return DatabaseError(f"{self.title}: {said}.", None)

    def _first_line(self, error: psycopg.Error) -> str:
        """What the server said, without a password."""
        said = str(error.diag.message_primary or error).strip()
        first, *more = [line.strip() for line in said.splitlines()[:2]] or [""]
        said = (
            " ".join([first, *(line for line in more if line not in first and "Is the server" not in line)]).rstrip(
                ".?"
            )
            or type(error).__name__
        )
        for secret in self._secrets:
            for spelling in {secret, unquote(secret)}:
                said = said.replace(spelling, "...")
        return said

    def __repr__(self) -> str:
        return f"<Link {self.title}>"


_OTHER = "Restore it from a backup, or choose another gallery in this database: 'URL?gallery=NAME'"
_KNOWN: tuple[tuple[type[psycopg.Error], str, str], ...] = (
    (
        errors.DiskFull,
        "the server's disk is full",
        "What was acknowledged before is kept. Make room, then run it again.",
    ),
    (
        errors.ReadOnlySqlTransaction,
        "this server only reads, as a standby does",
        "Name all hosts in the URL, so that the one that writes is found: postgresql://HOST1,HOST2/DATABASE",
    ),
    (errors.InsufficientPrivilege, "the user may not do this", "Grant it, or give the URL with another user."),
    (
        errors.ProgramLimitExceeded,
        "a text is too long for the database",
        "A path, camera, time, person or source has 2,700 bytes at most.",
    ),
    (errors.OutOfMemory, "the server is out of memory", "Give it more, or close other connections."),
    (
        errors.LockNotAvailable,
        "somebody else has locked it for a long time",
        "Try again later; pg_locks and pg_stat_activity on the server say who it is.",
    ),
    (errors.QueryCanceled, "the server ended the query", "Is statement_timeout set too low for it?"),
    (errors.DuplicateTable, "tables of something else lie in the gallery's schema", _OTHER),
    (errors.UndefinedColumn, "a table of the gallery is not as tbps made it", _OTHER),
    (errors.UndefinedTable, "a table of the gallery is gone", "Was it deleted meanwhile?"),
)
