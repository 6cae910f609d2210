"""What the endpoint tells Prometheus about itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts of one ingress replica, in a registry of their own. No label holds what a client wrote."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sftfilter_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.tokens = Counter(
            "sftfilter_tokens",
            "Tokens by model; kind is prompt or completion.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "sftfilter_request_seconds",
            "Until the reply was complete.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first = Histogram(
            "sftfilter_first_event_seconds", "Until a stream's first event.", buckets=_SECONDS, registry=self.registry
        )
        self.running = Gauge("sftfilter_requests_running", "Requests without a complete reply.", registry=self.registry)

    @contextmanager
    def request(self, route: str) -> Iterator[None]:
        """Time a request."""
        began = time.monotonic()
        with self.running.track_inprogress():
            try:
                yield
            finally:
                self.seconds.labels(route).observe(time.monotonic() - began)

    def count_tokens(self, model: str, prompt: int, completion: int) -> None:
        """Of one reply."""
        self.tokens.labels(model, "prompt").inc(prompt)
        self.tokens.labels(model, "completion").inc(completion)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
