"""What stands before all routes: counts requests, and lets go of clients that do not read."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Watch:
    """ASGI middleware. An answer of which a client takes nothing for `seconds` is broken off."""

    def __init__(self, app: ASGIApp, seconds: float | int):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            async with asyncio.timeout(self.seconds):
                await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            metrics = scope["app"].state.service.metrics
            # the route's pattern: paths that clients make up must not become labels
            route = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)
