"""Workers as processes: stopped, killed, and with a service that is stopped or killed. On a fake network."""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cutout.app.batches import service as batches
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Status
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue, QueueUnavailable, WorkerInfo
from cutout.app.storage.local import LocalStorage
from cutout.inference.engine import Engine
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options
from cutout.inference.tiers import SOLD, Tier
from cutout.inference.weights.store import ModelsFolder
from cutout.worker.__main__ import main as worker_main
from tests.app.observability.test_metrics import figures_in
from tests.app.system.test_readiness import same_alpha
from tests.conftest import DATA
from tests.fakes import PATIENCE, fake_engine, wait_until
from tests.forked import ModuleProcess
from tests.http import answers_ok, http
from tests.processes import descendants, kill, lives, wait_ready
from tests.worker.worker_fixtures import small_photos, submitted, worker_environment, worker_process

pytestmark = pytest.mark.slow

SMALL = {f"CUTOUT_TIER_{tier.upper()}": "u2netp" for tier in SOLD}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def cutout_process(log: Path, environment: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    """Run the command itself."""
    command = [sys.executable, "-c", "from cutout.app.cli import main; main()", *arguments]
    with log.open("ab") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


@dataclass
class House:
    """A service with its embedded queue and worker."""

    process: "ModuleProcess | subprocess.Popen[bytes]"
    address: str
    log: Path
    database: Database
    storage: LocalStorage
    queue: Queue

    def workers(self) -> list[WorkerInfo]:
        try:
            return self.queue.workers()
        except QueueUnavailable:
            return []

    def figures(self) -> dict[str, float]:
        """Return what `/metrics` of the service tells."""
        return figures_in(http.get(f"{self.address}/metrics").raise_for_status().text)

    def others(self) -> dict[int, str]:
        """Return the service's descendants: the two processes of the queue, and the worker."""
        return descendants(self.process.pid)

    def worker(self) -> int:
        return next(
            pid for pid, command in self.others().items() if "tests.worker.worker_fixtures" in command
        )


@contextmanager
def house(
    folder: Path,
    milliseconds: float = 0,
    models: Path | None = None,
) -> Iterator[House]:
    """Run a service like `cutout serve`, or the real command if `models` is given, and wait for its worker.

    The real command has the network u2netp in all tiers, since the service and its worker both load it.
    """
    url = f"sqlite:///{folder / 'cutout.db'}"
    port = free_port()
    environment = worker_environment(url, folder, "", milliseconds=milliseconds, port=port)
    log = folder / "house.log"
    process = (
        ModuleProcess(log, environment, "tests.worker.full_stack")
        if models is None
        else cutout_process(
            log, environment | {"CUTOUT_MODELS_DIR": str(models), "CUTOUT_DEVICE": "cpu", **SMALL}, "serve"
        )
    )
    database, queue = Database(url), Queue(f"unix://{folder}/valkey/socket")
    here = House(process, f"http://127.0.0.1:{port}", log, database, LocalStorage(folder), queue)
    others: dict[int, str] = {}
    try:
        wait_ready(process, lambda: answers_ok(here.address) and bool(here.workers()), log)
        others = here.others()
        yield here
    finally:
        others |= here.others()
        process.kill()
        process.wait()
        queue.close()
        database.close()
        for pid in others:
            if lives(pid):
                kill(pid)


def counts(database: Database, batch: Batch) -> dict[Status, int]:
    return dict(database.run_read_only(batches.progress, batch.id).counts)


def has_ended(database: Database, batch: Batch) -> bool:
    with database.read() as session:
        return session.get_one(Batch, batch.id).finished_at is not None


def migrated(folder: Path) -> Path:
    """Return a folder with an empty database of the current schema."""
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    database.close()
    return folder


def test_a_service_brings_a_worker_that_is_started_again_and_ends_with_it(tmp_path: Path) -> None:
    """The service is stopped and killed in one test, because each of its workers takes seconds to start."""
    with house(migrated(tmp_path), milliseconds=300) as here:
        batch = submitted(here.database, here.storage, small_photos(5))
        here.queue.notify_workers(Line.BATCH)
        wait_until(lambda: has_ended(here.database, batch))
        assert counts(here.database, batch) == {Status.COMPLETED: 5}
        seen = here.figures()
        assert seen["cutout_worker_answers{worker=1}"] == 1
        assert seen["cutout_process_restarts_total{process=worker,worker=1}"] == 0
        ended = "cutout_jobs_total{kind=batch,outcome=completed,tier=basic,worker=1}"
        assert seen[ended] == 5
        assert seen["cutout_stage_duration_seconds_count{stage=network,tier=basic,worker=1}"] == 5
        # The service has committed nothing, and ran no network.
        jobs = {name: value for name, value in seen.items() if name.startswith("cutout_jobs_total")}
        assert {name for name, value in jobs.items() if value} == {ended}

        killed, name = here.worker(), here.workers()[0].name
        kill(killed)
        wait_until(lambda: bool({worker.name for worker in here.workers()} - {name}))
        assert "worker exited unexpectedly" in here.log.read_text()
        assert "exit_code=-9" in here.log.read_text()
        seen = here.figures()
        assert seen["cutout_process_restarts_total{process=worker,worker=1}"] == 1
        assert (seen["cutout_worker_answers{worker=1}"], seen[ended]) == (1, 0)

        # A service that is killed leaves nothing behind, and the next one goes on where it was.
        batch = submitted(here.database, here.storage, small_photos(20))
        here.queue.notify_workers(Line.BATCH)
        wait_until(lambda: counts(here.database, batch).get(Status.PROCESSING, 0) > 1)
        others = here.others()
        assert len(others) == 3
        kill(here.process.pid)
        wait_until(lambda: not any(lives(pid) for pid in others))
        # The worker itself was not killed: its photos in progress are completed, and the others released.
        left = counts(here.database, batch)
        assert set(left) == {Status.COMPLETED, Status.PENDING}
    with house(tmp_path) as here:
        wait_until(lambda: has_ended(here.database, batch))
        assert counts(here.database, batch) == {Status.COMPLETED: 20}
        others = here.others()
        assert len(others) == 3
        here.process.terminate()
        here.process.wait(PATIENCE)
        assert [command for pid, command in others.items() if lives(pid)] == []


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_in_hand(
    database: Database, storage: LocalStorage, redis_url: str, tmp_path: Path
) -> None:
    queue = Queue(redis_url)
    assert queue.connection is not None
    queue.connection.flushdb()
    batch = submitted(database, storage, small_photos(150))
    url = database.engine.url.render_as_string(hide_password=False)
    environment = worker_environment(
        url,
        storage.root,
        redis_url,
        milliseconds=50,
        lease_seconds=60,
        worker_metrics_port=(port := free_port()),
    )
    with worker_process(tmp_path, environment) as process:
        queue.notify_workers(Line.BATCH)
        # More photos than the engine processes at once.
        wait_until(lambda: counts(database, batch).get(Status.PROCESSING, 0) > 8)
        seen = figures_in(http.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text)
        assert (seen["cutout_engine_ready"], seen["cutout_photos_in_work"] > 0) == (1, True)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    with database.read() as session:
        photos = batches.photos_of(session, batch.id)
    assert set(Counter(photo.status for photo in photos)) == {Status.COMPLETED, Status.PENDING}
    # Released at once and not by an expired lease, so no attempt counts.
    assert {photo.attempts for photo in photos if photo.status is Status.PENDING} == {0}
    assert {photo.claim for photo in photos if photo.status is Status.PENDING} == {None}
    assert queue.workers() == []
    queue.close()


def test_a_worker_that_is_told_to_stop_while_it_starts_does(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    environment = worker_environment(str(database.engine.url), tmp_path, redis_url, milliseconds=100_000)
    with worker_process(tmp_path, environment) as process:
        # The storage has been probed, and the models are loaded next.
        wait_until((tmp_path / "probes").exists)
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"REDIS_URL": ""}, "REDIS_URL"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/none"}, "refused"),
        ({"CUTOUT_DATA_DIR": "/proc/nowhere"}, "Check CUTOUT_DATA_DIR"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_said_in_a_line(
    database: Database,
    redis_url: str,
    tmp_path: Path,
    change: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = worker_environment(str(database.engine.url), tmp_path, redis_url) | change
    for name in ("DATABASE_URL", "REDIS_URL", "CUTOUT_AUTH", "CUTOUT_DATA_DIR"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr("sys.argv", ["worker"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert worker_main(lambda _: fake_engine()) == 1
    said = capsys.readouterr().err
    assert "worker: not started" in said
    assert told in said


@pytest.mark.weights
def test_the_real_service_does_a_batch(
    small_weights: ModelsFolder, small_engine: Engine, tmp_path: Path
) -> None:
    photo = (DATA / "coffee.jpg").read_bytes()
    with house(migrated(tmp_path), models=small_weights.path) as here:
        (worker,) = here.workers()
        assert worker.device == "cpu"
        batch = submitted(here.database, here.storage, [photo, b"no photo"])
        here.queue.notify_workers(Line.BATCH)
        wait_until(lambda: has_ended(here.database, batch))
        done, broken = here.database.run_read_only(batches.photos_of, batch.id)
        assert (broken.status, broken.error_code) == (Status.FAILED, "UNSUPPORTED_FORMAT")
        assert done.backend in ("mnn-cpu", "onnxruntime-cpu")  # whichever is the faster here
        picture = here.storage.get(jobs.result_key(done.id, Format(done.format), done.attempts))
        assert picture is not None
        same_alpha(picture, small_engine.remove(photo, Options(tier=Tier.PREVIEW)))
        others = here.others()
        here.process.terminate()
        here.process.wait(PATIENCE)
        assert [command for pid, command in others.items() if lives(pid)] == []


@pytest.mark.weights
def test_the_command_for_a_worker_starts_a_real_one(
    database: Database, redis_url: str, small_weights: ModelsFolder, tmp_path: Path
) -> None:
    queue = Queue(redis_url)
    assert queue.connection is not None
    queue.connection.flushdb()
    # A worker warms up all of its networks, and this one is the smallest.
    environment = SMALL | worker_environment(
        str(database.engine.url), tmp_path, redis_url, models_dir=small_weights.path, strict_models=1
    )
    process = cutout_process(tmp_path / "log", environment, "worker", "--device", "cpu", "--queues", "batch")
    try:
        wait_ready(process, lambda: bool(queue.workers()), tmp_path / "log")
        (worker,) = queue.workers()
        assert worker.queues == ("batch",)
        assert worker.name.endswith(f"-{process.pid}")
        process.terminate()
        assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
        queue.close()


def worker_log(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.glob("worker-*.log"))
