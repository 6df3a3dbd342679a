"""What a server counts and times, as Prometheus reads it from ``/metrics``."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)  # upper bounds of the histograms' bins


class Monitoring:
    """Counters of one server.

    Args:
        waiting: number of images before the network.
        in_progress: number of requests that are received, wait or are answered now.

    Attributes:
        requests: for a translation, by status.
        errors: of them that failed, by kind; and requests to any address without a valid token.
        seconds: histogram of the time to an answer with an image.
        queue_seconds: histogram of the part of it that an image spent in the queue.
    """

    def __init__(self, waiting: Callable[[], float], in_progress: Callable[[], float]) -> None:
        disable_created_metrics()  # a second series for each
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("one_step_requests", "Requests for a translation.", ["status"], registry=registry)
        self.errors = Counter("one_step_errors", "Requests that failed.", ["kind"], registry=registry)
        self.seconds = Histogram(
            "one_step_request_seconds",
            "Time from a request to its translation.",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "one_step_queue_seconds", "Time of an image in the queue.", buckets=SECONDS, registry=registry
        )
        for name, text, count in (
            ("one_step_requests_in_progress", "Requests in progress.", in_progress),
            ("one_step_queue_length", "Images that wait for the network.", waiting),
        ):
            Gauge(name, text, registry=registry).set_function(count)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
