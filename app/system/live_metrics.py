"""Metrics that are read from other components at each scrape."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from cutout.app.jobs.queue_stats import QueueStats
from cutout.app.ratelimit.limits import Kind
from cutout.inference.engine import Engine


class LiveMetrics(Collector):
    """Collector for the state of the engine, the rate limits per kind of call, and the queue."""

    def __init__(
        self, engine: Callable[[], Engine | None], refused: Mapping[Kind, int], queue_stats: QueueStats | None
    ) -> None:
        self._engine = engine
        self._refused = refused
        self._queue_stats = queue_stats

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        ready = engine is not None and engine.lost is None
        yield GaugeMetricFamily("cutout_engine_ready", "1 if pictures can be made", float(ready))
        if engine is not None:
            yield GaugeMetricFamily("cutout_photos_waiting", "Photos waiting for their turn", engine.waiting)
            yield GaugeMetricFamily("cutout_photos_in_work", "Photos in work", engine.in_work)
            busy = "Seconds that the device ran networks; the rate is its utilisation"
            yield CounterMetricFamily("cutout_device_busy_seconds", busy, engine.network_seconds)
        limited = CounterMetricFamily(
            "cutout_rate_limited", "Calls refused with 429, by kind", labels=["kind"]
        )
        for kind in Kind:
            limited.add_metric([kind.value], self._refused.get(kind, 0))
        yield limited
        if self._queue_stats is not None and self._queue_stats.is_kept:
            yield from _queue_metrics(self._queue_stats)


def _queue_metrics(queue_stats: QueueStats) -> Iterator[Metric]:
    """Yield the metrics of the queue; those that cannot be read are left out."""
    workers = queue_stats.workers()
    yield GaugeMetricFamily(
        "cutout_queue_answers",
        "1 if the queue answers; only where there is a queue",
        float(workers is not None),
    )
    if workers is not None:
        yield GaugeMetricFamily("cutout_workers_alive", "Workers of all hosts that are alive", len(workers))
    try:
        waiting = queue_stats.waiting()
    except OperationalError:
        return
    yield GaugeMetricFamily(
        "cutout_batch_photos_waiting", "Photos of batches that wait, of all hosts", waiting.photos
    )
    yield GaugeMetricFamily(
        "cutout_batches_unfinished", "Batches that have not ended, of all hosts", waiting.batches
    )
