"""Traces: from a request through the removal to its stages, also into a worker; and none at all by default."""

import itertools
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cutout.app.db.session import Database
from cutout.app.jobs.queue import Queue
from cutout.app.observability import trace_export
from cutout.app.observability.otlp import OtlpTracing
from cutout.app.observability.trace_export import is_wanted, open_tracing
from cutout.app.observability.tracing import NO_TRACING
from cutout.inference.scheduling.stage_timer import StageTimer
from tests.app.api_client import ANNA, API, opened_shop
from tests.app.batch_client import opened_studio, photos
from tests.worker.worker_fixtures import context_of, work_off

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def recording(kept: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> OtlpTracing:
    """Have services record their spans in memory."""
    made = OtlpTracing("cutout", "1", SimpleSpanProcessor(kept))
    monkeypatch.setattr("cutout.app.app.open_tracing", lambda *_: made)
    return made


def named(kept: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in kept.get_finished_spans() if span.name == name]
    return found


def children(kept: InMemorySpanExporter, parent: ReadableSpan) -> list[ReadableSpan]:
    assert parent.context is not None
    found = [
        one
        for one in kept.get_finished_spans()
        if one.parent and one.parent.span_id == parent.context.span_id
    ]
    return sorted(found, key=lambda span: span.start_time or 0)


def assert_has_stages(kept: InMemorySpanExporter, removal: ReadableSpan) -> None:
    stages = children(kept, removal)
    assert {"decode", "wait", "network", "edges", "encode"} == {stage.name for stage in stages}
    for before, after in itertools.pairwise(stages):
        assert before.start_time is not None
        assert before.end_time is not None
        assert after.start_time is not None
        # They follow each other; the clock of the host may be corrected meanwhile.
        assert abs(after.start_time - before.end_time) < 1e9


def test_a_request_has_its_removal_and_that_has_its_stages(
    database: Database, tmp_path: Path, recording: OtlpTracing, kept: InMemorySpanExporter
) -> None:
    with opened_shop(database, tmp_path) as shop:
        shop.fund("anna", 100)
        assert shop.remove(ANNA | TRACEPARENT, tier="standard").status_code == 200
        request = named(kept, f"POST {API}/remove")
        assert request.context is not None
        assert f"{request.context.trace_id:032x}" == TRACE
        assert request.parent is not None
        assert f"{request.parent.span_id:016x}" == CALLER
        attributes = dict(request.attributes or {})
        assert attributes.pop("cutout.request_id")
        assert attributes == {
            "http.request.method": "POST",
            "http.route": f"{API}/remove",
            "http.response.status_code": 200,
        }
        (removal,) = children(kept, request)
        assert removal.attributes is not None
        assert (removal.attributes["cutout.tier"], removal.attributes["cutout.outcome"]) == (
            "standard",
            "completed",
        )
        assert_has_stages(kept, removal)
        kept.clear()

        assert shop.remove(ANNA, b"no picture").status_code == 415
        removal = named(kept, "removal")
        assert removal.status.status_code is StatusCode.ERROR
        assert removal.status.description == "UNSUPPORTED_FORMAT"
        assert not removal.events  # an error's text may hold what a caller sent
        assert named(kept, f"POST {API}/remove").status.is_unset  # which is the caller's fault
        kept.clear()

        shop.get("/strange/name?signature=secret", {})
        shop.get("/api/health", {})
        (span,) = kept.get_finished_spans()
        assert "secret" not in span.to_json()
        assert "strange" not in span.to_json()


def test_a_batch_carries_its_trace_to_the_worker(
    database: Database, tmp_path: Path, redis_url: str, recording: OtlpTracing, kept: InMemorySpanExporter
) -> None:
    with opened_studio(database, tmp_path, redis_url) as studio:
        studio.fund("anna", 100)
        files = [*photos(1), ("broken.png", b"no picture")]
        studio.accepted(ANNA | TRACEPARENT, files)
        with context_of(database, studio.storage, redis_url) as context:
            context.tracing = recording
            work_off(context)
    request = named(kept, f"POST {API}/batch")
    removals = children(kept, request)
    outcomes = {str((one.attributes or {})["cutout.outcome"]): one for one in removals}
    assert outcomes.keys() == {"completed", "UNSUPPORTED_FORMAT"}
    assert_has_stages(kept, outcomes["completed"])
    assert outcomes["UNSUPPORTED_FORMAT"].status.status_code is StatusCode.ERROR


def test_a_worker_whose_queue_is_away_begins_a_trace_of_its_own(
    tmp_path: Path, recording: OtlpTracing, kept: InMemorySpanExporter
) -> None:
    queue = Queue(f"unix://{tmp_path}/nothing")
    batch = uuid.uuid4()
    queue.keep_trace(batch, TRACEPARENT["traceparent"])
    assert queue.trace_of(batch) is None
    recording.removed(None, 0.0, (), None, cutout__tier="basic")
    assert named(kept, "removal").parent is None


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Run a receiver of OTLP over HTTP; yield its address and what it has received."""
    received: list[ExportTraceServiceRequest] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                received.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


@pytest.mark.parametrize("name", [None, "studio"])
def test_spans_are_sent_to_the_endpoint_of_the_variables(
    name: str | None,
    collector: tuple[str, list[ExportTraceServiceRequest]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, received = collector
    monkeypatch.setenv(ENDPOINT, address)
    if name is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    opened = open_tracing("cutout-worker", "1.2")
    with opened.request("GET", {}) as span:
        span.rename("GET /somewhere")
        assert opened.current() is not None
    opened.close()
    (sent,) = received
    (of_process,) = sent.resource_spans
    told = {one.key: one.value.string_value for one in of_process.resource.attributes}
    assert (told["service.name"], told["service.version"]) == (name or "cutout-worker", "1.2")
    assert [span.name for scope in of_process.scope_spans for span in scope.spans] == ["GET /somewhere"]


def test_only_the_variables_switch_traces_on() -> None:
    assert not is_wanted({})
    assert is_wanted({ENDPOINT: "http://127.0.0.1:4318"})
    assert is_wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"})
    assert not is_wanted({ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"})
    assert not is_wanted({ENDPOINT: "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"})


def test_by_default_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys; from cutout.app.observability.trace_export import NO_TRACING, open_tracing;"
        "assert open_tracing('cutout', '1') is NO_TRACING;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={}).returncode == 0


def test_without_the_extra_it_is_said_that_no_traces_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.delitem(sys.modules, "cutout.app.observability.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not there
    warned: list[dict[str, object]] = []
    monkeypatch.setattr(trace_export.log, "warning", lambda _, **about: warned.append(about), raising=False)
    assert open_tracing("cutout", "1") is NO_TRACING
    assert "cutout-server[otel]" in str(warned)


def test_a_part_of_a_lap_is_moved_to_another_stage() -> None:
    clock = StageTimer()
    clock.lap("decode")
    clock.lap("wait")
    clock.move("wait", "network", 1e-9)
    (_, _, end), (stage, begin, middle), (target, again, last) = clock.laps
    assert (stage, target) == ("wait", "network")
    assert end == begin <= middle == again <= last
