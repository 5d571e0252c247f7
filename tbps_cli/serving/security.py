"""Who may ask, and how much: token, Host header, sizes, rates; and what browsers may do with what is sent back.

One ASGI middleware in front of everything, so that no route can be without it. A server on the loopback device may be
asked by anybody on the machine unless it has a token; any other address needs one.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tbps_cli.serving.entrance import entrance, entrance_policy

COOKIE = "tbps_token_"
"""Begins the name of the cookie; a hash of the token follows, as browsers do not tell ports of one host apart."""
JSON_BYTES = 256 << 10
EXPORT_BYTES = 4 << 20
"""Of a list of chosen hits: ids of rows in databases are long."""
UPLOAD_BYTES = 20 << 20
LIMITS = {"/v1/images": UPLOAD_BYTES, "/v1/export": EXPORT_BYTES}
BODY_SECONDS = 20.0
"""For a client to send the whole body."""
CLIENTS = 10_000
"""Clients whose rates are remembered."""
OPEN = frozenset({"/healthz"})
"""What needs no token."""


@dataclass(frozen=True)
class Access:
    """Who may ask this server."""

    token: str | None = None
    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "[::1]"})
    """Values of the Host header that are answered, without port; a page elsewhere that points its name at this machine
    (DNS rebinding) gets nothing."""
    rate: float = 50.0
    """Requests a second from one client; clients on this machine may ask as often as they like."""
    origins: frozenset[str] = frozenset()
    """Other origins whose pages may ask (CORS)."""


@dataclass
class _Bucket:
    """Requests that a client may still make."""

    left: float
    at: float


@dataclass
class Rates:
    """A token bucket a client: `rate` a second, twice as many at once."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def take(self, client: str) -> bool:
        """Whether a client may make one more request now."""
        now, most = self.clock(), 2 * self.rate
        bucket = self.buckets.setdefault(client, _Bucket(most, now))
        bucket.left = min(most, bucket.left + (now - bucket.at) * self.rate)
        bucket.at = now
        self.buckets.move_to_end(client)
        while len(self.buckets) > CLIENTS:
            self.buckets.popitem(last=False)
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True


class _Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str, hint: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers


class Gate:
    """The middleware. `policy` is the Content-Security-Policy of the page."""

    def __init__(self, app: ASGIApp, access: Access, policy: str) -> None:
        self.app, self.access, self.policy = app, access, policy
        self.rates = Rates(access.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        guarded = self._guarded(send, headers.get("origin"))
        try:
            self._check(scope, headers)
            await self._answer(scope, headers, receive, guarded)
        except _Refused as refused:
            if refused.status == 401 and scope["path"] == "/" and "text/html" in headers.get("accept", ""):
                await _ask_for_token(guarded, wrong=bool(_asked_token(scope)))
            else:
                await _reply(guarded, refused)

    async def _answer(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS" and headers.get("origin") in self.access.origins:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        entered = _entered(scope, self.access.token)
        if entered is not None:  # the token leaves the address bar for a cookie that scripts cannot read
            await send({"type": "http.response.start", "status": 303, "headers": entered})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            receive = await _whole(scope, headers, receive)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = _without_port(headers.get("host", ""))
        if host not in self.access.hosts and not _is_reached_by(scope, host):
            raise _Refused(
                421, f"Host {host!r:.100} is not this server.", "Name it when the server starts: --name HOST"
            )
        client = scope["client"][0] if scope.get("client") else ""
        if not is_loopback(client) and not self.rates.take(client):
            raise _Refused(429, "too many requests.", "Wait a second.", **{"retry-after": "1"})
        if scope["path"] not in OPEN and not self._knows_token(scope, headers):
            raise _Refused(
                401, "a token is needed.", "Authorization: Bearer TOKEN, or open /?token=TOKEN once.",
                **{"www-authenticate": "Bearer"},
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and not self._is_own(origin, headers["host"]):
            raise _Refused(403, f"pages of {origin!r:.100} may not ask this server.", "Name it: --origin ORIGIN")

    def _is_own(self, origin: str, host: str) -> bool:
        return origin in self.access.origins or origin.partition("://")[2] == host

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self.access.token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if kind.lower() == "bearer" else []
        named = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        given += [value for name, _, value in named if name == _cookie(self.access.token)]
        given += _asked_token(scope)
        wanted = self.access.token.encode()
        return any(hmac.compare_digest(one.encode("utf-8", "replace"), wanted) for one in given)

    def _guarded(self, send: Send, origin: str | None) -> Send:
        """Adds to every answer what browsers may do with it."""
        more = [
            (b"content-security-policy", self.policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
        ]
        if origin in self.access.origins and origin is not None:
            more = [pair for pair in more if pair[0] != b"cross-origin-resource-policy"]
            more += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-headers", b"authorization, content-type"),
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"vary", b"origin"),
            ]

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                cached = [] if b"cache-control" in given else [(b"cache-control", b"no-store")]
                added = [pair for pair in more if pair[0] not in given]
                message = {**message, "headers": [*message["headers"], *added, *cached]}
            await send(message)

        return guarded


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address == ""  # a socket of this machine has no address
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _is_reached_by(scope: Scope, host: str) -> bool:
    """Whether a Host is the address that the client has connected to: no name, so none that points here by a trick."""
    server = scope.get("server")
    try:
        reached = ipaddress.ip_address(str(server[0]).partition("%")[0] if server else "")
        named = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return named == (getattr(reached, "ipv4_mapped", None) or reached)


def _asked_token(scope: Scope) -> list[str]:
    """The token in the address of the page, which alone takes one there."""
    if scope["path"] != "/" or scope["method"] != "GET":
        return []
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [])


def _entered(scope: Scope, token: str | None) -> list[tuple[bytes, bytes]] | None:
    """The headers that turn a token in the address into a cookie; None where there is none."""
    if token is None or not _asked_token(scope):
        return None
    cookie = f"{_cookie(token)}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
    if scope.get("scheme") == "https":
        cookie += "; Secure"
    asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in asked if name != "token"])
    place = f"/?{rest}" if rest else "/"
    return [(b"location", place.encode("ascii")), (b"set-cookie", cookie.encode("latin-1"))]


def _cookie(token: str) -> str:
    return COOKIE + blake2b(token.encode(), digest_size=4).hexdigest()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


async def _whole(scope: Scope, headers: dict[str, str], receive: Receive) -> Receive:
    """The body, read within its limits, and then handed on in one piece."""
    most = LIMITS.get(scope["path"], JSON_BYTES)
    said = headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Refused(400, "the request ended early.")
                size += len(message.get("body", b""))
                if size > most:
                    raise _too_large(most)
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise _Refused(408, f"the body did not come within {BODY_SECONDS:g} s.") from None
    body: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def handed() -> Message:
        return body.pop() if body else await receive()

    return handed


def _too_large(most: int) -> _Refused:
    amount = f"{most >> 20} MB" if most >= 1 << 20 else f"{most >> 10} kB"
    return _Refused(413, f"the request is larger than {amount}.")


async def _reply(send: Send, refused: _Refused) -> None:
    body = json.dumps(problem(refused.message, refused.hint)).encode()
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _ask_for_token(send: Send, *, wrong: bool) -> None:
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"www-authenticate", b"Bearer")]
    headers.append((b"content-security-policy", entrance_policy()))
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": entrance(wrong=wrong)})


def problem(message: str, hint: str | None = None) -> dict[str, Any]:
    """What is said of a request that was not answered."""
    return {"error": message} | ({"hint": hint} if hint else {})
