"""Calls of a Milvus server: a mistake is one line without a password, a server that is still loading is waited for.

Every call of ours may be repeated: rows are replaced by their paths.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from tbps_cli.databases.urls import shown
from tbps_cli.errors import DatabaseError, MissingExtra, UnreachableError, UsageError

logger = logging.getLogger("tbps")
Found = TypeVar("Found")
Field: TypeAlias = tuple[str, Any, dict[str, Any]]
"""Name, type and options of a field."""

PORT = 19530
TIMEOUT = 15.0
"""Seconds that one call may take."""
ANSWERS = 3.0
"""Seconds in which what listens shows that it speaks gRPC."""
LOADING = 90.0
"""Seconds that a server which was just started may take until it has loaded a gallery; seen: 8 to 35."""
WITH_PASSWORD = (
    "Give both in the URL, milvus://USER:PASSWORD@HOST:PORT/COLLECTION, or the password in MILVUS_PASSWORD; in a URL, "
    "@ is %40, / is %2F, : is %3A, % is %25."
)
EXAMPLE = "For example: milvus://HOST:19530/people"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_LOST = re.compile(r"fail connecting|unavailable|connection reset|socket closed|connection refused", re.IGNORECASE)
_SLOW = re.compile(r"deadline|retry timeout|context done|loading collection timeout", re.IGNORECASE)
_NOT_YET = re.compile(
    _SLOW.pattern + r"|unrecoverable error|not loaded|not fully loaded|no available|not ready|not available|offline"
    r"|node not found|not serving|lag too large|channel not found|node not match",
    re.IGNORECASE,
)
"""What a server says that has not loaded a gallery yet."""
_REFUSED = re.compile(r"unauthenticated|auth check|permission|privilege|password", re.IGNORECASE)


@dataclass(frozen=True)
class MilvusAddress:
    """What a URL says: milvus://[user:password@]host[:port]/collection[?tls=true&database=NAME&consistency=bounded]."""

    title: str
    uri: str
    collection: str
    database: str
    user: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)
    bounded: bool = False
    """Whether reads may lack the last seconds (`consistency=bounded`)."""

    @classmethod
    def of(cls, url: str) -> MilvusAddress:
        """Read a URL; what it does not say may stand in MILVUS_PASSWORD or MILVUS_TOKEN.

        Raises UsageError, without the password.
        """
        title = shown(url)
        try:
            parts = urlsplit(url)
            port = parts.port or PORT
        except ValueError:
            raise UsageError(f"{title} is not a URL of Milvus.", EXAMPLE) from None
        host, collection = parts.hostname or "", parts.path.strip("/")
        if not host or not _NAME.fullmatch(collection):
            what = "names no host" if not host else "needs the name of a collection: letters, digits and _"
            raise UsageError(f"{title} {what}.", EXAMPLE)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := options.keys() - {"tls", "database", "token", "consistency"}:
            raise UsageError(
                f"{title}: there is no parameter {min(unknown)}.",
                "There are tls=true, database=NAME and consistency=bounded.",
            )
        consistency = options.get("consistency", "strong").lower()
        if consistency not in ("strong", "bounded"):
            raise UsageError(
                f"{title}: consistency is strong or bounded, not {consistency}.",
                "strong, as without it, finds every row that was kept; bounded does not wait for the last seconds.",
            )
        scheme = "https" if options.get("tls", "").lower() in ("true", "1", "yes") else "http"
        uri = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        token = options.get("token", "") or ("" if user else os.environ.get("MILVUS_TOKEN", ""))
        password = password or (os.environ.get("MILVUS_PASSWORD", "") if user else "")
        bounded = consistency == "bounded"
        return cls(title, uri, collection, options.get("database", ""), user, password, token, bounded)

    def listens(self) -> bool:
        """Whether anything listens there."""
        parts = urlsplit(self.uri)
        try:
            socket.create_connection((parts.hostname or "", parts.port or PORT), timeout=2.0).close()
        except OSError:
            return False
        return True

    def speaks(self) -> bool:
        """Whether what listens there answers as a gRPC server does, before it knows who asks."""
        import grpc

        place = self.uri.partition("://")[2]
        secure = self.uri.startswith("https:")
        channel = grpc.secure_channel(place, grpc.ssl_channel_credentials()) if secure else grpc.insecure_channel(place)
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWERS)
        except grpc.FutureTimeoutError:
            return False
        finally:
            channel.close()
        return True


class Connection:
    """A client of one server, for one collection."""

    def __init__(self, address: MilvusAddress) -> None:
        self.address = address
        try:
            import grpc
            import pymilvus
        except ImportError:
            raise MissingExtra("pymilvus", "milvus", "a gallery in Milvus") from None
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs what it raises, with a traceback
        self.types: Any = pymilvus.DataType
        self._failures: tuple[type[Exception], ...] = (pymilvus.MilvusException, grpc.RpcError)
        self.client: Any = self._explained(
            lambda: pymilvus.MilvusClient(
                address.uri,
                user=address.user,
                password=address.password,
                token=address.token,
                db_name=address.database,
                timeout=TIMEOUT,
                dedicated=True,
            )
        )

    def call(self, method: str, *arguments: Any, timeout: float = TIMEOUT, **options: Any) -> Any:
        """A method of the client, for the collection. Raises DatabaseError."""
        run = getattr(self.client, method)
        return self._explained(lambda: run(self.address.collection, *arguments, timeout=timeout, **options))

    def read(self, method: str, *arguments: Any, timeout: float = TIMEOUT, **options: Any) -> Any:
        """The same for what needs a loaded collection.

        A connection that is lost is tried once more; a server that was just started, and is slow or refuses until it
        has loaded everything, is waited for.
        """
        run = getattr(self.client, method)
        return self._repeated(lambda: run(self.address.collection, *arguments, timeout=timeout, **options))

    def _repeated(self, ask: Callable[[], Found]) -> Found:
        end, lost, told = time.monotonic() + LOADING, False, False
        while True:
            try:
                return ask()
            except self._failures as error:
                said = str(error)
                once_more = bool(_LOST.search(said)) and not lost
                wait = bool(_NOT_YET.search(said)) and time.monotonic() < end
                if not (once_more or wait):
                    raise self._error(error) from None
            lost = lost or once_more
            if wait and not told:
                logger.info("%s: waiting until the server has loaded the gallery.", self.address.title)
                told = True
            time.sleep(1.0)

    def timestamp(self) -> int:
        """Now, as the server counts time; 0 where it does not say, which a read takes for "now" too."""
        handler = self.client._get_connection()
        return int(self._repeated(lambda: handler.alloc_timestamp(timeout=TIMEOUT)))

    def description(self) -> dict[str, Any] | None:
        """What the server says of the collection; None where there is none."""
        there = self._explained(lambda: self.client.has_collection(self.address.collection, timeout=TIMEOUT))
        return dict(self.call("describe_collection")) if there else None

    def create(
        self, fields: Sequence[tuple[str, Any, dict[str, Any]]], description: str, index: dict[str, Any]
    ) -> None:
        """Make the collection, and load it."""
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
        for name, kind, options in fields:
            schema.add_field(name, kind, **options)
        indexes = self.client.prepare_index_params()
        indexes.add_index(**index)
        self.call("create_collection", schema=schema, index_params=indexes, consistency_level="Strong", timeout=LOADING)

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def _explained(self, ask: Callable[[], Found]) -> Found:
        try:
            return ask()
        except self._failures as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> DatabaseError:
        """A line for what the client raises; never a password."""
        title, said = self.address.title, " ".join(str(error).split())
        for secret in filter(None, (self.address.password, self.address.token)):
            said = said.replace(secret, "***")
        where = self.address.uri.partition("://")[2]
        if _LOST.search(said) and self.address.listens():  # the client says the same of a wrong password
            if not self.address.speaks():
                return UnreachableError(
                    f"{title}: something listens at {where}, but does not answer as Milvus does.",
                    "The server may hang or have ended behind an open port (of Docker, of a proxy), or this is another "
                    "program's port; an encrypted server wants ?tls=true.",
                )
            hint = (
                "See user and password: milvus://USER:PASSWORD@HOST:PORT/COLLECTION; ?tls=true for an encrypted server."
            )
            return DatabaseError(
                f"{title}: what listens at {where} refuses this user or password, or is no Milvus.", hint
            )
        if _LOST.search(said):
            return UnreachableError(f"{title}: no Milvus server answers at {where}.", "Is it running on this port?")
        if _SLOW.search(said):
            return UnreachableError(f"{title}: the Milvus server at {where} does not answer in time.", "See its log.")
        if _REFUSED.search(said):
            return DatabaseError(f"{title}: the server refuses this user or password.", WITH_PASSWORD)
        return DatabaseError(f"{title}: Milvus refuses this: {said[:200]}", "See the server's log.")
