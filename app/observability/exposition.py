"""The text of `/metrics`: the metrics of this process, and of the workers that it has started."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = structlog.get_logger()

# The label of what a worker of this host has told, beside which the service has figures of the same name.
WORKER = "worker"
# Texts of workers by the number of the worker; None for one that does not answer.
Told = Mapping[str, bytes | None]


class Exposition:
    """Writes metrics in the text format of Prometheus. Thread-safe."""

    def __init__(self, registry: CollectorRegistry, ask_workers: Callable[[], Told] | None = None) -> None:
        """`ask_workers` returns what `for_service` has written in each worker; it waits for them for a moment."""
        self._registry = registry
        self._ask_workers = ask_workers

    def text(self) -> bytes:
        """Return the metrics; those of a worker have its number as the label `worker`."""
        if self._ask_workers is None:
            return generate_latest(self._registry)
        return generate_latest(_Families(merged(self._registry.collect(), self._ask_workers())))

    def for_service(self) -> bytes:
        """Return the metrics for the service that has started this worker."""
        text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return text


class _Families(Collector):
    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()


def merged(own: Iterable[Metric], told: Told) -> dict[str, Metric]:
    """Return the families of a service with those of its workers, each name once."""
    families: dict[str, Metric] = {}
    for family in own:
        families[family.name] = family
    answers = Metric(
        "cutout_worker_answers", "1 if a worker that this service started tells its figures", "gauge"
    )
    for worker, text in told.items():
        read = _read(text)
        answers.add_sample(answers.name, {WORKER: worker}, float(read is not None))
        for family in read or ():
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                kept.samples.append(sample._replace(labels={**sample.labels, WORKER: worker}))
    if told:
        families[answers.name] = answers
    return families


def _read(text: bytes | None) -> list[Metric] | None:
    """Return a worker's families; None if it did not answer, or was stopped within an answer, so that this is no text."""
    if text is None:
        return None
    try:
        return list(text_string_to_metric_families(text.decode()))  # type: ignore[no-untyped-call]
    except ValueError as error:
        log.warning("the metrics of a worker cannot be read", detail=repr(error))
        return None
