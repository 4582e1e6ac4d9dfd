"""Connections that neither wait for slow clients nor drop a request at the shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_LINGER = 0.5  # seconds in which an idle connection may still send a request at the shutdown


class Connection(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """uvicorn's HTTP connection with a time limit for headers and a graceful end.

    uvicorn limits the time between requests only: a client that has sent half of its headers stays
    connected for good. At the shutdown uvicorn closes idle connections at once, also those on
    which a request is under way; here they get an answer and ``connection: close``.

    Parameters
    ----------
    *args, **kwargs
        Of uvicorn.
    header_timeout : float
        Seconds from the first byte (of a new connection: from its beginning) to the last header.
    """

    def __init__(self, *args: Any, header_timeout: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._header_timeout = header_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the headers of the first request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._header_timeout, self._close_idle)

    def data_received(self, data: bytes) -> None:
        """Stop the timer when the headers are complete."""
        super().data_received(data)
        if not self._idle:
            self._stop_timer()
            if self._stopping:
                self._say_close()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._header_timeout, self._close_idle)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(error)

    def shutdown(self) -> None:
        """Finish the request under way; close an idle connection in half a second."""
        if self._idle:
            self._stopping = True
            self.loop.call_later(_LINGER, self._close_idle)
        else:
            self._say_close()
            super().shutdown()

    def _say_close(self) -> None:
        """Let uvicorn's answer have ``connection: close``: it does so if the request had it."""
        self.cycle.keep_alive = False
        self.cycle.scope["headers"].append((b"connection", b"close"))

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_idle(self) -> None:
        if self._idle:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
