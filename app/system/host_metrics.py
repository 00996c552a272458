"""Metrics of the host of a service: its disk, its dependencies, and the processes that it has started."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cutout.app.observability.exposition import WORKER
from cutout.app.system.readiness import Readiness

# Restarts by the name of the process, `queue` or `worker`, and the number of a worker.
Restarts = Mapping[tuple[str, str], int]


class HostMetrics(Collector):
    """Collector for what a service needs on its host."""

    def __init__(self, folder: Path, readiness: Readiness, restarts: Callable[[], Restarts] | None) -> None:
        self._folder = folder
        self._readiness = readiness
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "cutout_database_answers", "1 if the database answers", float(self._readiness.database_answers)
        )
        yield GaugeMetricFamily(
            "cutout_storage_answers", "1 if results can be stored", float(self._readiness.storage_answers)
        )
        try:
            disk = shutil.disk_usage(self._folder)
        except OSError:  # the folder is gone; `cutout_storage_answers` tells
            pass
        else:
            text = "Bytes of the disk of the data folder: `total` and `free`"
            family = GaugeMetricFamily("cutout_disk_bytes", text, labels=["kind"])
            family.add_metric(["total"], disk.total)
            family.add_metric(["free"], disk.free)
            yield family
        if self._restarts is not None:
            restarts = CounterMetricFamily(
                "cutout_process_restarts",
                "Restarts of processes that this service started: `queue`, and `worker` with its number",
                labels=["process", WORKER],
            )
            for (process, worker), number in self._restarts().items():
                restarts.add_metric([process, worker], number)
            yield restarts
