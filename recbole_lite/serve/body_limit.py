"""ASGI middleware that limits the size of request bodies."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answer bodies of more than `max_bytes` with status 413.

    A declared length is checked before reading; a body without one is read up to the limit only.
    Memory use is bounded in both cases.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        room = self.max_bytes
        if declared.isdigit() and int(declared[:20]) > room:
            room = -1
        messages: list[Message] = []
        more = room >= 0
        while more:
            messages.append(await receive())
            room -= len(messages[-1].get("body", b""))
            more = messages[-1].get("more_body", False) and room >= 0
        if room < 0:
            await self._refuse()(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    def _refuse(self) -> JSONResponse:
        detail = f"the body is larger than {self.max_bytes:,} bytes"
        # The rest of the body stays unread, so the connection cannot be reused.
        return JSONResponse({"detail": detail}, 413, headers={"connection": "close"})
