"""`cutout serve` when the device fails, and without a device."""

import os
import signal
import socket
import threading
from pathlib import Path

import httpx2
import pytest
import typer

from cutout.app.cli.serve import serve
from cutout.app.config.base import SettingsError
from cutout.app.jobs.model_status import Served
from cutout.app.jobs.queue import Queue, WorkerInfo
from cutout.inference.errors import DeviceLost
from cutout.inference.tiers import Recipe, Tier
from tests.fakes import FakeRunner, fake_engine, photo_bytes, wait_until
from tests.http import answers_ok, http


@pytest.fixture(autouse=True)
def _no_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the service's last resort, which would kill the test process."""
    monkeypatch.setattr("cutout.app.http.uvicorn_server.leave", lambda: None)


def test_a_service_whose_device_fails_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The supervisor can then start another process, which may get the device back."""
    monkeypatch.setenv("CUTOUT_AUTH", "off")
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))
    runner = FakeRunner()
    monkeypatch.setattr("cutout.app.bootstrap.pull_missing", lambda *_: None)
    monkeypatch.setattr("cutout.app.bootstrap.engine_from", lambda _: fake_engine(runner))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    answers: list[httpx2.Response] = []

    def die() -> None:
        raise DeviceLost("The GPU has fallen off the bus.")

    def use() -> None:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers_ok(address))
        runner.before = die
        answers.append(http.post(f"{address}/api/background-remover/remove", files={"image": photo_bytes()}))

    user = threading.Thread(target=use)
    user.start()
    with pytest.raises(typer.Exit) as ended:
        serve(port=port, workers="0")
    user.join()
    assert ended.value.exit_code == 1
    assert answers[0].status_code == 503
    assert "off the bus" in answers[0].json()["detail"]
    assert "off the bus" in capsys.readouterr().err


def test_a_service_that_leaves_photos_to_workers_loads_no_engine(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTOUT_AUTH", "off")
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CUTOUT_API_ENGINE", "queue")
    monkeypatch.setenv("REDIS_URL", redis_url)
    asked: list[object] = []
    monkeypatch.setattr("cutout.app.bootstrap.pull_missing", lambda *given: asked.append(given))
    monkeypatch.setattr("cutout.app.bootstrap.engine_from", lambda *given: asked.append(given))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    worker = WorkerInfo(
        "gpu-7",
        "0.1.0",
        "cuda",
        ("interactive",),
        {tier: Served("m", "b", Recipe.MASK, "m", False) for tier in Tier},
    )
    queue = Queue(redis_url)
    queue.announce(worker)
    devices: list[str] = []

    def use() -> None:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers_ok(address))
            queue.announce(worker)  # Announce the worker again: one that is silent for long counts as gone.
            devices.append(http.get(f"{address}/api/health").json()["device"])
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=use)
    user.start()
    with pytest.raises(KeyboardInterrupt):
        serve(port=port)
    user.join()
    queue.forget(worker)
    queue.close()
    assert devices == ["cuda"]
    assert asked == []


def test_without_a_queue_somebody_has_to_make_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_AUTH", "off")
    monkeypatch.setenv("CUTOUT_API_ENGINE", "queue")
    with pytest.raises(SettingsError, match="set REDIS_URL, or CUTOUT_WORKERS=1"):
        serve(workers="0")
