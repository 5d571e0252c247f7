"""Connections: what is answered leaves at once, and who says nothing is closed after a while.

A socket that was made before the event loop has Nagle's algorithm on (`asyncio` turns it off for those that it makes):
the body of an answer would wait until the client has acknowledged its head, which clients put off for 40 ms.

A thousand connections that say nothing must not keep everybody else out. uvicorn closes one that is idle after a
request, but waits for ever for one that never begins a request, or sends its head byte by byte. Bodies have a limit of
their own (`security.BODY_SECONDS`).
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""For a client to send the whole head of a request, once it has connected or begun the next one."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, without delays, and with a limit for heads."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        with suppress(OSError, AttributeError):  # a client that has gone already
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._arrived()
        elif self.waiting is None:
            self.waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _arrived(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
