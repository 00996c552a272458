"""Traces that are sent over OTLP, with the SDK of OpenTelemetry. Imported only if they are wanted.

Spans of requests are made here rather than by OpenTelemetry's own middleware, which records whole URLs: those of signed
URLs open results.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from cutout.app.observability.tracing import Lap, Span, Tracing

REMOVAL = "removal"
TRACEPARENT = "traceparent"
FLUSH_MILLISECONDS = 2000


class OtlpSpan(Span):
    """A recorded piece of work."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    def note(self, **attributes: str | int) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(name.replace("__", "."), value)

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def add_stages(self, laps: Sequence[Lap]) -> None:
        inside = trace.set_span_in_context(self._span)
        for stage, begin, end in laps:
            child = self._tracer.start_span(stage, inside, start_time=_nanoseconds(begin))
            child.end(_nanoseconds(end))


class OtlpTracing(Tracing):
    """Sends spans in batches, from a thread of its own."""

    enabled = True

    def __init__(self, service: str, version: str, processor: SpanProcessor | None = None) -> None:
        """`processor` replaces the one that sends spans, in tests."""
        # What is given here would win over the variable.
        name = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
        resource = Resource.create({**name, SERVICE_VERSION: version})
        # Its own end would wait for a collector that is away; `close` does not.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("cutout", version)

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        around = propagate.extract(headers)
        with self._tracer.start_as_current_span(method, around, SpanKind.SERVER) as span:
            yield OtlpSpan(self._tracer, span)

    @contextmanager
    def removal(self, **attributes: str) -> Iterator[Span]:
        # An error's text may hold what its caller sent; `fail` gives the code only.
        with self._tracer.start_as_current_span(
            REMOVAL, record_exception=False, set_status_on_exception=False
        ) as span:
            told = OtlpSpan(self._tracer, span)
            told.note(**attributes)
            yield told

    def removed(
        self, parent: str | None, begin: float, laps: Sequence[Lap], failed: str | None, **attributes: str
    ) -> None:
        around = propagate.extract({TRACEPARENT: parent}) if parent is not None else Context()
        span = self._tracer.start_span(REMOVAL, around, SpanKind.CONSUMER, start_time=_nanoseconds(begin))
        told = OtlpSpan(self._tracer, span)
        told.note(**attributes)
        if failed is not None:
            told.fail(failed)
        told.add_stages(laps)
        span.end()

    def current(self) -> str | None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier.get(TRACEPARENT)

    def close(self) -> None:
        self._provider.force_flush(FLUSH_MILLISECONDS)


def _nanoseconds(at: float) -> int:
    """Return a time of `time.perf_counter` as nanoseconds since 1970."""
    return time.time_ns() - round((time.perf_counter() - at) * 1e9)
