"""Whether traces are sent: by the variables of OpenTelemetry, of which nothing is imported before it is wanted."""

import os
from collections.abc import Mapping

import structlog

from cutout.app.observability.tracing import NO_TRACING, Tracing

log = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_tracing(service: str, version: str) -> Tracing:
    """Return what sends traces, if OpenTelemetry's variables name an endpoint. `service` is the default of its name."""
    if not is_wanted(os.environ):
        return NO_TRACING
    try:
        from cutout.app.observability.otlp import OtlpTracing
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        hint = "OpenTelemetry is not installed; run: pip install 'cutout-server[otel]'"
        log.warning("no traces are sent", detail=hint)
        return NO_TRACING
    return OtlpTracing(service, version)


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the variables of OpenTelemetry ask for traces to be sent somewhere."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environment.get(name) for name in ENDPOINTS)
