"""The metrics of workers: merged into those of their service, or at a port of their own."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from cutout.app.config import settings as app_settings
from cutout.app.observability.exposition import Exposition
from cutout.app.observability.worker_pipe import WorkerPipe, answer_service, ask_all
from cutout.app.system.worker_metrics import PortTaken
from cutout.app.system.worker_server import serving
from tests.fakes import PATIENCE, held_until, wait_until
from tests.http import http

TOKEN = "the scraper's own, of thirty-two bytes or more"


@pytest.fixture
def pipe() -> Iterator[WorkerPipe]:
    pipe = WorkerPipe()
    yield pipe
    pipe.close()


def registry_of(**values: float) -> CollectorRegistry:
    """Return a registry with a counter of each name."""
    registry = CollectorRegistry()
    for name, value in values.items():
        Counter(name, "Something", ["tier"], registry=registry).labels("basic").inc(value)
    return registry


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """Return the samples by name and by the label of the worker."""
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {
        (sample.name, sample.labels.get("worker", "")): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_service_tells_its_workers_figures_beside_its_own() -> None:
    one, two = Exposition(registry_of(jobs=5)), Exposition(registry_of(jobs=7, loads=1))
    told = {"1": one.for_service(), "2": two.for_service(), "3": None}
    seen = samples(Exposition(registry_of(jobs=2), lambda: told).text())
    assert seen == {
        ("jobs_total", ""): 2,
        ("jobs_total", "1"): 5,
        ("jobs_total", "2"): 7,
        ("loads_total", "2"): 1,
        ("cutout_worker_answers", "1"): 1,
        ("cutout_worker_answers", "2"): 1,
        ("cutout_worker_answers", "3"): 0,
    }


@pytest.mark.parametrize("garbage", [b"jobs_total{", b"\xff\xfe", b"jobs_total 1\n"])
def test_an_answer_that_is_no_text_costs_the_others_nothing(garbage: bytes) -> None:
    told = {"1": garbage, "2": Exposition(registry_of(jobs=7)).for_service()}
    assert samples(Exposition(registry_of(jobs=2), lambda: told).text()) == {
        ("jobs_total", ""): 2,
        ("jobs_total", "2"): 7,
        ("cutout_worker_answers", "1"): 0,
        ("cutout_worker_answers", "2"): 1,
    }


def started(pipe: WorkerPipe, answer: "Exposition | Silent") -> None:
    """Pretend that a process has started which answers with these metrics."""
    answer_service(os.dup(pipe.open()), answer.for_service)
    pipe.started()


class Silent:
    """A worker that hangs until it is told to go on, and then tells how often it was asked."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = 0

    def for_service(self) -> bytes:
        self.asked += 1
        held_until(self.go_on)
        return str(self.asked).encode()


def test_a_worker_that_hangs_delays_no_other_and_its_late_answer_is_dropped(pipe: WorkerPipe) -> None:
    silent, other = Silent(), WorkerPipe()
    started(pipe, silent)
    started(other, Exposition(registry_of(jobs=1)))
    first = ask_all({"1": pipe, "2": other}, 0.2)
    assert first["1"] is None
    wait_until(lambda: ask_all({"2": other})["2"] is not None)  # it may be slow on a busy host
    assert ask_all({"1": pipe}, 0.01) == {"1": None}
    assert silent.asked == 1
    silent.go_on.set()
    wait_until(lambda: pipe._ours is not None and pipe._ours.poll())
    assert ask_all({"1": pipe}, PATIENCE) == {"1": b"2"}
    other.close()


def test_a_worker_that_has_ended_or_not_started_does_not_answer(pipe: WorkerPipe) -> None:
    assert ask_all({"1": pipe}, PATIENCE) == {"1": None}
    pipe.open()
    pipe.started()  # nobody has the other end now
    assert ask_all({"1": pipe}, PATIENCE) == {"1": None}
    started(pipe, Exposition(registry_of(jobs=1)))  # the next process
    assert b"jobs_total" in (ask_all({"1": pipe}, PATIENCE)["1"] or b"")


def test_a_worker_serves_its_own_metrics_to_its_machine() -> None:
    registry = CollectorRegistry()
    Gauge("cutout_engine_ready", "It is", registry=registry).set(1)
    with serving(Exposition(registry), 0, app_settings.load()) as port:
        address = f"http://127.0.0.1:{port}/metrics"
        assert "cutout_engine_ready 1.0" in http.get(address).raise_for_status().text
        for stranger in ({"Host": "elsewhere.example"}, {"X-Forwarded-For": "127.0.0.1"}):
            answer = http.get(address, headers=stranger)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert http.get(f"http://127.0.0.1:{port}/other").status_code == 404
        # Without a token nobody else could read them, so nobody else can connect.
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port)).close()


def test_with_a_token_a_workers_metrics_are_read_from_elsewhere() -> None:
    settings = app_settings.load(metrics_token=TOKEN)
    with serving(Exposition(registry_of(jobs=1)), 0, settings) as port:
        address, elsewhere = f"http://127.0.0.2:{port}/metrics", {"Host": "worker.example"}
        assert http.get(address, headers=elsewhere).status_code == 401
        told = http.get(address, headers={**elsewhere, "Authorization": f"Bearer {TOKEN}"})
        assert "jobs_total" in told.raise_for_status().text


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(PortTaken, match=f"port {port} .*CUTOUT_WORKER_METRICS_PORT"),
            serving(Exposition(CollectorRegistry()), port, app_settings.load()),
        ):
            pass


def test_a_worker_serves_at_the_port_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app_settings.load(worker_metrics_port=9101).worker_metrics_port == 9101
    monkeypatch.setenv("CUTOUT_WORKER_METRICS_PORT", "70000")
    with pytest.raises(Exception, match="CUTOUT_WORKER_METRICS_PORT"):
        app_settings.load()
