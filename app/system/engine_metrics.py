"""Metrics of an engine, read at each scrape: in a service that has one, and in every worker."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cutout.inference.engine import Engine
from cutout.inference.figures import Spread


class EngineMetrics(Collector):
    """Collector for the engine of this process, if it has one by now."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        ready = engine is not None and engine.lost is None
        yield GaugeMetricFamily("cutout_engine_ready", "1 if pictures can be made", float(ready))
        if engine is None:
            return
        yield GaugeMetricFamily("cutout_photos_waiting", "Photos waiting for their turn", engine.waiting)
        yield GaugeMetricFamily("cutout_photos_in_work", "Photos in work", engine.in_work)
        busy = "Seconds that the device ran networks; the rate is its utilisation"
        yield CounterMetricFamily("cutout_device_busy_seconds", busy, engine.network_seconds)
        yield from _times(engine)
        yield from _memory(engine)
        yield from _fallbacks(engine)
        if engine.breaker is not None:
            yield from _remote(engine)


def _times(engine: Engine) -> Iterator[Metric]:
    stages = HistogramMetricFamily(
        "cutout_stage_duration_seconds",
        "Seconds of finished photos in each stage: `turn` (until a thread takes it), `decode`, `wait` (for memory and "
        "the device), `network`, `edges`, `encode`",
        labels=["tier", "stage"],
    )
    for (tier, stage), spread in engine.figures.stages().items():
        stages.add_metric([tier, stage], _buckets(spread), spread.total)
    yield stages
    batches = HistogramMetricFamily(
        "cutout_network_batch_size", "Photos in each run of a network", labels=["model"]
    )
    for model, spread in engine.figures.batches().items():
        batches.add_metric([model], _buckets(spread), spread.total)
    yield batches
    loads = "Seconds that loading a model and warming it up took at the start of the process"
    yield _gauge("cutout_model_load_seconds", loads, "model", engine.figures.loads())


def _memory(engine: Engine) -> Iterator[Metric]:
    memory = engine.memory
    text = "Memory of the GPU: `total`, `free`, and what torch has `allocated` for tensors and `reserved` for reuse"
    if memory is not None:
        yield _gauge("cutout_device_memory_bytes", text, "kind", memory._asdict())


def _fallbacks(engine: Engine) -> Iterator[Metric]:
    serving = GaugeMetricFamily(
        "cutout_tier_substitute",
        "1 if a substitute serves the tier, 0 if the model that it promises does",
        labels=["tier", "model", "backend"],
    )
    for tier, served in engine.serving.items():
        choice = served.choice
        serving.add_metric(
            [tier.value, choice.checkpoint.name, served.runner.backend], float(choice.substitute)
        )
    yield serving
    if engine.kernels_on is not None:
        yield GaugeMetricFamily(
            "cutout_gpu_kernels_on", "0 if the kernels for GPUs were switched off", float(engine.kernels_on)
        )
    no_room = "Batches and photos that did not fit into the memory and were tried again, smaller or alone"
    yield _counter("cutout_out_of_memory_retries", no_room, "what", engine.figures.no_room())


def _remote(engine: Engine) -> Iterator[Metric]:
    calls = (
        "Calls of Hugging Face, by outcome: `ok`, `loading` (503, a cold start), `rate_limited` (429), `refused`, "
        "`too_large`, `failed`, `timeout`"
    )
    yield _counter("cutout_huggingface_calls", calls, "outcome", engine.figures.remote_calls())
    waits = "Seconds of pauses before a call of Hugging Face was repeated, by the outcome that asked for them"
    yield _counter("cutout_huggingface_wait_seconds", waits, "outcome", engine.figures.remote_waits())
    closed = engine.breaker is None or engine.breaker.state == "closed"
    yield GaugeMetricFamily(
        "cutout_huggingface_paused",
        "1 while Hugging Face is not called after several failures",
        float(not closed),
    )


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    bounds = [str(bound) for bound in spread.bounds]
    return [*zip(bounds, spread.counts, strict=True), ("+Inf", spread.number)]


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
