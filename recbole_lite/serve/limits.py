"""Limits and options of the HTTP service; ``recbole-lite serve`` has them as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_lite.inference.recommender import Recommender


def _limit(default: int, help: str) -> int:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Limits of the service; a list of candidates is limited by the catalogue."""

    max_history: int = _limit(1000, "items in a history")
    max_users: int = _limit(256, "histories in a request for several users")
    max_body: int = _limit(256 * 1024, "bytes of a request")
    max_batch: int = _limit(64, "histories scored together")
    max_waiting: int = _limit(1024, "requests that may wait")
    read_timeout: int = _limit(30, "seconds a client has to send its headers, and its body")
    grace: int = _limit(5, "seconds from SIGTERM to the end of the process")


@dataclass(frozen=True)
class Options:
    """How a service is deployed."""

    # Loads the model again from its folder, for a replacement while requests go on.
    load: Callable[[], Recommender] | None = None
    watch: bool = False  # replace the model when its files change
    root_path: str = ""  # path of the service behind a proxy
    token: str | None = None  # bearer token that requests must have
    cors_origins: Sequence[str] = ()  # origins of other pages that may use the service
