"""ASGI middleware that limits the size of request bodies."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answer bodies of more than `max_bytes` with status 413.

    A declared length is checked before reading; a body without one is read up to the limit only.
    Memory use is bounded in both cases.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; whoever reads too much of its body is interrupted."""
        declared = dict(scope.get("headers", ())).get(b"content-length", b"")[:20]
        size = int(declared) if declared.isdigit() else 0
        room = self.max_bytes if size <= self.max_bytes else -1

        async def limited() -> Message:
            nonlocal room
            message = await receive() if room >= 0 else {}
            room -= len(message.get("body", b""))
            if room < 0:
                detail = f"the body is larger than {self.max_bytes:,} bytes"
                # The rest of the body stays unread, so the connection cannot be reused.
                raise HTTPException(413, detail, {"connection": "close"})
            return message

        await self.app(scope, limited, send)
