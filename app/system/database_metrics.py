"""Metrics of what this process has committed to the database: ended jobs, and moved credits."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from cutout.app.billing.ledger import CREDITS_MOVED, MOVED
from cutout.app.core.errors import server_faults
from cutout.app.db.committed import Committed
from cutout.app.jobs.completion import JOBS_ENDED, KINDS
from cutout.inference.tiers import Tier


class DatabaseMetrics(Collector):
    """Collector for the commits of one process. Each commit is made by one process, so sums over all are right."""

    def __init__(self, committed: Committed) -> None:
        self._committed = committed

    def collect(self) -> Iterator[Metric]:
        jobs = CounterMetricFamily(
            "cutout_jobs",
            "Jobs that ended, by kind (`single`, `batch`, `refinement`) and outcome: `completed`, or the code of an error",
            labels=["tier", "kind", "outcome"],
        )
        # Those that alerts watch begin at 0: Prometheus sees no increase in a series that begins at 1.
        counted = {
            (tier.value, kind, outcome): 0
            for tier in Tier
            for kind in KINDS
            for outcome in ("completed", *server_faults())
        }
        for what, number in (counted | self._committed.of(JOBS_ENDED)).items():
            jobs.add_metric(what, number)
        yield jobs
        credits = CounterMetricFamily(
            "cutout_credits", "Credits moved: `granted`, `held`, `charged`, `returned`", labels=["movement"]
        )
        moved = self._committed.of(CREDITS_MOVED)
        for movement in MOVED:
            credits.add_metric([movement], moved.get((movement,), 0))
        yield credits
