"""Prometheus metrics of this process. No label names a user or holds a value that a caller chooses."""

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

from cutout.app.db.tables import Channel
from cutout.inference.tiers import Tier

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STORE_KINDS = ("put", "s3")
REMOVAL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60, 300)


class Metrics:
    """Metrics that the service has counted since its start. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._build = Info(
            "cutout_build", "The version and the schema revision that run", registry=self.registry
        )
        self._requests = Counter(
            "cutout_http_requests",
            "Requests, by the template of their route; `other` is a path without one",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "cutout_http_request_duration_seconds",
            "Seconds from the first byte of a request to the last byte of its response",
            ["method", "route"],
            buckets=HTTP_SECONDS,
            registry=self.registry,
        )
        self._removals = Counter(
            "cutout_removals",
            "Removals, by outcome: `completed`, `cancelled` (the client hung up), or the code of an error",
            ["tier", "outcome", "backend"],
            registry=self.registry,
        )
        self._removal_seconds = Histogram(
            "cutout_removal_duration_seconds",
            "Seconds that completed removals took, waiting included",
            ["tier"],
            buckets=REMOVAL_SECONDS,
            registry=self.registry,
        )
        self._credits = Counter("cutout_credits_charged", "Credits charged", registry=self.registry)

        self._notifications = Counter(
            "cutout_notifications",
            "Attempts to send a notification: `delivered`, `failed` (another attempt follows), or `given_up`",
            ["channel", "outcome"],
            registry=self.registry,
        )
        self._stores = Counter(
            "cutout_store_deliveries",
            "Attempts to store a result in a user's own store: `stored`, `failed` (another attempt follows), or `given_up`",
            ["kind", "outcome"],
            registry=self.registry,
        )

        # Alerts watch these from 0 on: Prometheus sees no increase in a series that begins at 1.
        for outcome in ("delivered", "failed", "given_up"):
            for channel in Channel:
                self._notifications.labels(channel.value, outcome)
        for outcome in ("stored", "failed", "given_up"):
            for kind in STORE_KINDS:
                self._stores.labels(kind, outcome)

    def about(self, version: str, schema_revision: str) -> None:
        """Record the versions of the service and of its database schema."""
        self._build.info({"version": version, "schema_revision": schema_revision})

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the route's path template."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def completed(self, tier: Tier, backend: str, seconds: float, credits: int) -> None:
        """Count a completed removal and its cost."""
        self._removals.labels(tier.value, "completed", backend).inc()
        self._removal_seconds.labels(tier.value).observe(seconds)
        self._credits.inc(credits)

    def failed(self, tier: Tier, backend: str, outcome: str) -> None:
        """Count a failed removal."""
        self._removals.labels(tier.value, outcome, backend).inc()

    def notified(self, channel: str, outcome: str) -> None:
        """Count an attempt to send a notification that a batch has ended."""
        self._notifications.labels(channel, outcome).inc()

    def stored(self, kind: str, outcome: str) -> None:
        """Count an attempt to store a result in a user's own store; `kind` is `put` or `s3`."""
        self._stores.labels(kind, outcome).inc()
