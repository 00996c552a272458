"""Prometheus metrics of this process. No label names a user or holds a value that a caller chooses."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy.exc import OperationalError

from cutout.app.jobs.queue_stats import Backlog
from cutout.app.ratelimit.limits import Kind
from cutout.inference.engine import Engine
from cutout.inference.tiers import Tier

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
REMOVAL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60, 300)


class Metrics:
    """Metrics that the service has counted since its start. Thread-safe."""

    def __init__(
        self,
        engine: Callable[[], Engine | None] = lambda: None,
        refused: Mapping[Kind, int] | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        """Start all counters at zero; `engine`, `refused` (by kind of call) and `backlog` are read at each scrape."""
        self.registry = CollectorRegistry()
        self.registry.register(_Looked(engine, {} if refused is None else refused, backlog))
        ProcessCollector(registry=self.registry)
        self._build = Info("cutout_build", "What runs", registry=self.registry)
        self._requests = Counter(
            "cutout_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "cutout_http_request_duration_seconds",
            "From a request's first byte to its answer's last",
            ["method", "route"],
            buckets=HTTP_SECONDS,
            registry=self.registry,
        )
        self._removals = Counter(
            "cutout_removals",
            "Removals by how they ended: completed, cancelled by who hung up, or an error's code",
            ["tier", "outcome", "backend"],
            registry=self.registry,
        )
        self._removal_seconds = Histogram(
            "cutout_removal_duration_seconds",
            "Of completed removals, waiting included",
            ["tier"],
            buckets=REMOVAL_SECONDS,
            registry=self.registry,
        )
        self._credits = Counter("cutout_credits_charged", "Credits charged", registry=self.registry)

        self._notifications = Counter(
            "cutout_notifications",
            "Attempts to tell a batch's end: delivered, failed and to be tried again, or given_up",
            ["channel", "outcome"],
            registry=self.registry,
        )

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


class _Looked:
    """Metrics that other objects hold, read at each scrape."""

    def __init__(
        self, engine: Callable[[], Engine | None], refused: Mapping[Kind, int], backlog: Backlog | None
    ) -> None:
        self._engine = engine
        self._refused = refused
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        ready = engine is not None and engine.lost is None
        yield GaugeMetricFamily("cutout_engine_ready", "1 where pictures can be made", float(ready))
        if engine is not None:
            yield GaugeMetricFamily("cutout_photos_waiting", "Photos waiting for their turn", engine.waiting)
            yield GaugeMetricFamily("cutout_photos_in_work", "Photos being worked on", engine.in_work)
            busy = "Seconds that the device was at work on networks"
            yield CounterMetricFamily("cutout_device_busy_seconds", busy, engine.network_seconds)
        limited = CounterMetricFamily(
            "cutout_rate_limited", "Calls refused as too many, by kind", labels=["kind"]
        )
        for kind in Kind:
            limited.add_metric([kind.value], self._refused.get(kind, 0))
        yield limited
        if self._backlog is not None and self._backlog.is_kept:
            yield from _of_batches(self._backlog)


def _of_batches(backlog: Backlog) -> Iterator[Metric]:
    """Yield metrics of the batch queue and its workers; a metric that cannot be read is left out."""
    workers = backlog.workers()
    yield GaugeMetricFamily("cutout_queue_answers", "1 where the queue answers", float(workers is not None))
    if workers is not None:
        yield GaugeMetricFamily("cutout_workers_alive", "Workers that said so lately", len(workers))
    try:
        waiting = backlog.waiting()
    except OperationalError:
        return
    yield GaugeMetricFamily("cutout_batch_photos_waiting", "Photos of batches that wait", waiting.photos)
    yield GaugeMetricFamily("cutout_batches_unfinished", "Batches that have not ended", waiting.batches)
