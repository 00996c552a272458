"""The metrics of a worker."""

from prometheus_client import CollectorRegistry, ProcessCollector

from cutout.app.core.errors import OperatorError
from cutout.app.db.session import Database
from cutout.app.observability.exposition import Exposition
from cutout.app.system.database_metrics import DatabaseMetrics
from cutout.app.system.engine_metrics import EngineMetrics
from cutout.inference.engine import Engine


class PortTaken(OperatorError):
    """The port for a worker's metrics cannot be listened on."""


def exposition_of(engine: Engine, database: Database) -> Exposition:
    """Return the metrics of a worker."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(EngineMetrics(lambda: engine))
    registry.register(DatabaseMetrics(database.committed))
    return Exposition(registry)
