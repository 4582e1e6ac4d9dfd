"""Limits of the HTTP service; the options of ``recbole-lite serve`` come from here."""

from __future__ import annotations

from dataclasses import dataclass, field


def _limit(default: int, help: str) -> int:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Limits of the service; a list of candidates is limited by the catalogue."""

    max_history: int = _limit(1000, "items in a history")
    max_body: int = _limit(256 * 1024, "bytes of a request")
    max_batch: int = _limit(64, "histories scored together")
    max_waiting: int = _limit(1024, "requests that may wait")
    read_timeout: int = _limit(30, "seconds a client has to send its headers, and its body")
    grace: int = _limit(5, "seconds from SIGTERM to the end of the process")
