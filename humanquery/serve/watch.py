"""What stands before all routes, and below them: counts requests, and lets go of clients that
neither write nor read."""

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

PIECE = 65_536
"""bytes of an answer that are sent at once"""
HEADER_SECONDS = 10.0
"""in which a client must have said what it wants"""


class Unread(Exception):
    """A client takes nothing of its answer."""


class Watch:
    """ASGI middleware that counts, and breaks off an answer of which nothing is taken for
    `seconds`."""

    def __init__(self, app: ASGIApp, seconds: float | int):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                safe = (b"x-content-type-options", b"nosniff")
                message = message | {"headers": [*message.get("headers", ()), safe]}
            for part in _pieces(message):
                try:
                    async with asyncio.timeout(self.seconds):
                        await send(part)
                except TimeoutError:
                    raise Unread from None

        try:
            await self.app(scope, receive, sent)
        except Unread:
            return  # the server closes a connection whose answer is not whole
        finally:
            metrics = scope["app"].state.service.metrics
            # the route's pattern: addresses that clients make up must not become labels
            route = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)


def _pieces(message: Message) -> list[Message]:
    """An answer in pieces: the server waits between two of them until the client has taken most,
    and one large piece would lie in its memory for as long as the client likes."""
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= PIECE:
        return [message]
    last, more = (len(body) - 1) // PIECE, message.get("more_body", False)
    return [
        {
            "type": "http.response.body",
            "body": body[i * PIECE : (i + 1) * PIECE],
            "more_body": more or i < last,
        }
        for i in range(last + 1)
    ]


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP with an end to its patience: it would wait for ever for the headers of a new
    connection, and for the rest of a body that was refused."""

    patience: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The clock runs while no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self.patience is None and not self.transport.is_closing():
            self.patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None
