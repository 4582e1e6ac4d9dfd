"""ASGI middleware: limits of request bodies, HEAD and OPTIONS."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The rest of the body stays unread, so the connection cannot be reused.
_CLOSE = {"connection": "close"}


class BodyLimit:
    """Answer bodies of more than `max_bytes` with status 413, and slow ones with 408.

    A declared length is checked before reading; a body without one is read up to the limit only.
    Memory use is bounded in both cases.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; whoever reads too much of its body is interrupted."""
        declared = dict(scope.get("headers", ())).get(b"content-length", b"")[:20]
        size = int(declared) if declared.isdigit() else 0
        room = self.max_bytes if size <= self.max_bytes else -1
        deadline: float | None = asyncio.get_running_loop().time() + self.seconds

        async def limited() -> Message:
            nonlocal room, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive() if room >= 0 else {}
            except TimeoutError:
                detail = f"the body was not complete after {self.seconds:g} seconds"
                raise HTTPException(408, detail, _CLOSE) from None
            room -= len(message.get("body", b""))
            if room < 0:
                detail = f"the body is larger than {self.max_bytes:,} bytes"
                raise HTTPException(413, detail, _CLOSE)
            if not message.get("more_body"):
                deadline = None  # the next message is that the client has gone
            return message

        try:
            await self.app(scope, limited, send)
        except asyncio.CancelledError:  # uvicorn's, when the time of grace is over
            answer = JSONResponse({"detail": "the service stops"}, 503, _CLOSE)
            await answer(scope, receive, send)


class HeadAndOptions:
    """Answer HEAD like GET without the body, and OPTIONS with the methods of a path."""

    def __init__(self, app: ASGIApp, router: Router):
        self.app, self.router = app, router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer OPTIONS; pass HEAD on as GET."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            allowed = self._methods(scope)
            if allowed:
                answer = Response(status_code=204, headers={"allow": ", ".join(allowed)})
                return await answer(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            scope["method"], send = "GET", _without_body(send)
        return await self.app(scope, receive, send)

    def _methods(self, scope: Scope) -> list[str]:
        found = {"OPTIONS"}
        for route in self.router.routes:
            if route.matches(scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
        if "GET" in found:
            found.add("HEAD")
        return sorted(found) if len(found) > 1 else []


def _without_body(send: Send) -> Send:
    async def bare(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bare
