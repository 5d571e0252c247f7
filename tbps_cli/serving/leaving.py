"""Who leaves before an answer begins waits no longer: the place in a queue goes to the next who asks."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HELD = 1 << 20
"""Bytes of a body that are held for the application; of a longer one nobody notices that its client has left."""


class Leaving:
    """The middleware. It stands behind what limits bodies, since it reads them as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came: asyncio.Queue[Message] = asyncio.Queue()
        begun = asyncio.Event()

        async def sent(message: Message) -> None:
            begun.set()
            await send(message)

        async def handed() -> Message:
            return await (came.get() if not listening.done() or not came.empty() else receive())

        listening = asyncio.create_task(_listen(receive, came))
        answering = asyncio.ensure_future(self.app(scope, handed, sent))
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and listening.result() and not begun.is_set():
                answering.cancel()
                await asyncio.wait({answering})
                if answering.cancelled():
                    return
            await answering
        finally:
            listening.cancel()
            answering.cancel()


async def _listen(receive: Receive, came: asyncio.Queue[Message]) -> bool:
    """Hand on what comes; whether its end was that the client has left."""
    held = 0
    while held <= HELD:
        message = await receive()
        held += len(message.get("body", b""))
        came.put_nowait(message)
        if message["type"] == "http.disconnect":
            return True
    return False
