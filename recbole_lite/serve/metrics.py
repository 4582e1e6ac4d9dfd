"""Figures of the service for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

_PREFIX = "recbole_lite_"
# Folder of the figures of several workers; prometheus-client reads it when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Sums(MultiProcessCollector):
    """Figures of all workers; the library fails on the file that a worker is just creating."""

    def collect(self) -> Iterable[Metric]:
        """Merge the files that are not empty."""
        files = []
        for path in Path(self._path).glob("*.db"):
            with suppress(FileNotFoundError):  # of a worker that has died
                if path.stat().st_size:
                    files.append(str(path))
        return self.merge(files)


class Metrics:
    """Requests, batches, queue, model and process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        ProcessCollector(registry=here)
        self.requests = Counter(
            f"{_PREFIX}requests", "Answers.", ["route", "method", "status"], registry=here
        )
        self.seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "Time to an answer.",
            ["route"],
            buckets=_SECONDS,
            registry=here,
        )
        self.batches = Histogram(
            f"{_PREFIX}batch_size", "Histories scored together.", buckets=_SIZES, registry=here
        )
        self.waiting = Gauge(
            f"{_PREFIX}waiting",
            "Requests that wait for the model.",
            registry=here,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(f"{_PREFIX}reloads", "Replacements.", ["outcome"], registry=here)
        self.model = Gauge(
            f"{_PREFIX}model_info",
            "Workers that serve the model.",
            ["model", "dataset", "items", "version"],
            registry=here,
            multiprocess_mode="livesum",
        )
        self._served: dict[str, str] = {}

    def update(self, waiting: int, model: dict[str, str]) -> None:
        """Set what is a state and no event."""
        self.waiting.set(waiting)
        if model != self._served:
            if self._served:
                self.model.labels(**self._served).set(0)
            self.model.labels(**model).set(1)
            self._served = model

    def text(self) -> bytes:
        """All figures in Prometheus' text format; with several workers their sums."""
        registry = self.registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            registry.register(_Sums(None, os.environ[FOLDER]))
        return generate_latest(registry)
