"""Figures of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

_PREFIX = "recbole_lite_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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
            f"{_PREFIX}waiting", "Requests that wait for the model.", registry=here
        )
        self.reloads = Counter(f"{_PREFIX}reloads", "Replacements.", ["outcome"], registry=here)
        self.model = Info(f"{_PREFIX}model", "The model being served.", registry=here)

    def text(self, waiting: int, model: dict[str, str]) -> bytes:
        """All figures in Prometheus' text format."""
        self.waiting.set(waiting)
        self.model.info(model)
        return generate_latest(self.registry)
