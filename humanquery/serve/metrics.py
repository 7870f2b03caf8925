"""What a service tells Prometheus about itself."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""where workers keep their numbers together, see `humanquery.serve.run`"""


class Metrics:
    """Counts of one worker; with several workers `text` is the sum of all."""

    def __init__(self):
        self._registry = CollectorRegistry()
        own = {"registry": self._registry, "namespace": "humanquery"}
        self.requests = Counter(
            "requests", "Requests by route and status.", ["route", "status"], **own
        )
        self.request_seconds = Histogram(
            "request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            **own,
        )
        self.waiting = Gauge(
            "waiting_pictures",
            "Pictures that have been taken and are not answered.",
            multiprocess_mode="livesum",
            **own,
        )
        self.pictures = Counter("pictures", "Pictures and frames that were looked at.", **own)
        self.batch_pictures = Histogram(
            "batch_pictures", "Pictures of each batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self.batch_seconds = Histogram(
            "batch_seconds", "Reading and predicting each batch.", buckets=SECONDS, **own
        )
        self.problems = Counter("problems", "Problems told to clients.", ["error"], **own)

    def batch(self, pictures: int, seconds: float) -> None:
        self.pictures.inc(pictures)
        self.batch_pictures.observe(pictures)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)

    content_type = CONTENT_TYPE_LATEST
