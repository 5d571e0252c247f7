"""Connections that say nothing: closed after a while, so that a thousand of them do not keep everybody else out.

uvicorn closes a connection that is idle after a request, but waits for ever for one that never begins a request, or
sends its head byte by byte. Bodies have a limit of their own (`security.BODY_SECONDS`).
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""For a client to send the whole head of a request, once it has connected or begun the next one."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a limit for heads."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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
