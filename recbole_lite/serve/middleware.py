"""ASGI middleware: log and figures of requests, token, limits of bodies, HEAD and OPTIONS."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from logging import getLogger

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_lite.serve.metrics import Metrics

# The rest of the body stays unread, so the connection cannot be reused.
_CLOSE = {"connection": "close"}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_OPEN = ("/health/live", "/health/ready")  # probes send no token
_METHODS = ("GET", "HEAD", "OPTIONS", "POST")  # clients may make up others
ACCESS_LOG = "recbole_lite.access"


class Observed:
    """Give each answer a request id and the model's version; log and count it.

    An exception is logged with the request id and answered with status 500. `version` gives the
    version of the current model.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, version: Callable[[], str]):
        self.app, self.metrics, self.version = app, metrics, version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 0, scope["method"]
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-model-version"] = state.get("version") or self.version()
            await send(message)

        try:
            await self.app(scope, receive, named)
        except asyncio.CancelledError:  # uvicorn's, when the time of grace is over
            if not status:
                await _problem("the service stops", 503)(scope, receive, named)
        except Exception:
            getLogger("uvicorn.error").exception(f"request {request_id} failed")
            if status:  # the answer has begun
                raise
            await _problem(f"internal error; request id {request_id}", 500)(scope, receive, named)
        finally:
            self._record(scope, method, status, time.perf_counter() - started, request_id)

    def _record(
        self, scope: Scope, method: str, status: int, seconds: float, request_id: str
    ) -> None:
        route = getattr(scope.get("route"), "path", "other")
        counted = method if method in _METHODS else "other"
        self.metrics.requests.labels(route, counted, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        logger = getLogger(ACCESS_LOG)
        if logger.handlers:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": request_id,
                "client": (scope.get("client") or [None])[0],
                "method": method,
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 2),
                "version": scope["state"].get("version") or self.version(),
            }
            logger.info(json.dumps(line))


class BearerToken:
    """Answer requests without the token with status 401, except for the probes."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if it has the token."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and path not in _OPEN:
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self.expected):
                send_problem = _problem("send the header authorization: Bearer TOKEN", 401)
                send_problem.headers["www-authenticate"] = "Bearer"
                return await send_problem(scope, receive, send)
        return await self.app(scope, receive, send)


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

        await self.app(scope, limited, send)


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


def _problem(detail: str, status: int) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, _CLOSE)


def _without_body(send: Send) -> Send:
    async def bare(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bare
