"""What a policy server did, in Prometheus' text format: the page `/stats`."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Stats:
    """Counts and times of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.answered = Counter("tracebed_rows_answered", "observations that were answered", registry=registry)
        self.refused = Counter(
            "tracebed_rows_refused", "observations that were not, by why", ["why"], registry=registry
        )
        self.abandoned = Counter("tracebed_rows_abandoned", "observations whose client went away", registry=registry)
        self.retried = Counter(
            "tracebed_rows_retried", "observations of failed batches, asked again alone", registry=registry
        )
        self.turned_away = Counter(
            "tracebed_connections_turned_away", "connections refused, by why", ["why"], registry=registry
        )
        self.connections = Gauge("tracebed_connections", "open connections", registry=registry)
        self.batch_size = Histogram("tracebed_batch_size", "observations of a batch", buckets=_SIZES, registry=registry)
        self.queue_s = Histogram(
            "tracebed_queue_seconds", "from arrival to inference", buckets=_SECONDS, registry=registry
        )
        self.infer_s = Histogram("tracebed_infer_seconds", "inference of a batch", buckets=_SECONDS, registry=registry)

    def page(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
