"""Metrics of the rate limits and of the queue, read at each scrape."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue_stats import QueueStats
from cutout.app.ratelimit.limits import Kind


class LiveMetrics(Collector):
    """Collector for the refused calls of each kind, and for the queue, if there is one."""

    def __init__(self, refused: Mapping[Kind, int], queue_stats: QueueStats) -> None:
        self._refused = refused
        self._queue_stats = queue_stats

    def collect(self) -> Iterator[Metric]:
        limited = CounterMetricFamily(
            "cutout_rate_limited", "Calls refused with 429, by kind", labels=["kind"]
        )
        for kind in Kind:
            limited.add_metric([kind.value], self._refused.get(kind, 0))
        yield limited
        if self._queue_stats.is_kept:
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
    yield GaugeMetricFamily(
        "cutout_single_photos_waiting",
        "Single photos that wait for a worker, of all hosts",
        waiting.single_photos,
    )
    longest = GaugeMetricFamily(
        "cutout_longest_wait_seconds",
        "Age of the photo that has waited longest for a worker, of all hosts; 0 if none waits",
        labels=["line"],
    )
    for line in Line:
        longest.add_metric([line.value], waiting.longest_seconds.get(line, 0.0))
    yield longest
