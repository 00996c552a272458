"""Supervisor of the child processes of a single-machine service: a queue (Valkey from a wheel) and workers.

Each child is restarted when it ends. Children end with the service, even if it is killed: each reads from a pipe that
nothing is written to, and ends when the last process that holds the other end is gone.
"""

import asyncio
import hashlib
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import structlog

from cutout.app.config.base import environment_name
from cutout.app.config.queue import REDIS_URL
from cutout.app.config.settings import Settings
from cutout.app.core.atomic_write import make_private_folder
from cutout.app.core.errors import OperatorError
from cutout.app.embedded.cards import VISIBLE
from cutout.app.observability.worker_pipe import WorkerPipe, ask_all

log = structlog.get_logger()

# Back-off between restarts of a process that keeps ending; it resets after HEALTHY_SECONDS of running.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
HEALTHY_SECONDS = 60.0
# Operating systems limit a socket's path to 104 or 108 bytes, and redis-py fails on blanks and "=" in it.
SOCKET_PATH = re.compile(r"[\w./+-]{1,100}", re.ASCII)
# -P keeps the working directory off sys.path, as it may contain a file called worker.py.
PYTHON = (sys.executable, "-P", "-m")
# The option of a worker with the number of the file descriptor at which the service asks for its metrics.
FIGURES_FD = "--figures-fd"
WORKER = (*PYTHON, "cutout.worker", "--lifeline")


class NoPlaceForQueue(OperatorError):
    """The queue's data or its socket cannot be placed in the configured folder."""


class EmbeddedProcesses:
    """The queue and the workers of one service, according to its settings."""

    def __init__(self, settings: Settings, worker: Sequence[str] = WORKER, cards: Sequence[str] = ()) -> None:
        """Prepare without starting anything. `worker` is the command of one worker.

        With `cards`, values of CUDA_VISIBLE_DEVICES, there is a worker for each of them; otherwise there are as many
        as the settings say, on whatever device they find.

        Raises:
            NoPlaceForQueue: the queue's folder cannot be created, or another user owns the folder of its socket.

        """
        self._settings = settings
        self._worker = worker
        self._cards: Sequence[str | None] = cards or [None] * settings.workers_here
        self._running_workers: list[SupervisedProcess] = []
        self._keeper: SupervisedProcess | None = None
        self._pipes: dict[str, WorkerPipe] = {}
        self._asking = threading.Lock()
        self._folder = settings.data_dir.expanduser().resolve() / "valkey"
        self._socket: Path | None = None
        if settings.redis_url is not None:
            self.queue_url: str | None = settings.redis_url.get_secret_value()
        elif settings.workers_here > 0:
            try:
                make_private_folder(self._folder)
            except OSError as error:
                raise NoPlaceForQueue(
                    f"The queue cannot be stored in {self._folder} ({error.strerror}). Check CUTOUT_DATA_DIR, or set"
                    " REDIS_URL."
                ) from error
            self._socket = socket_path(self._folder)
            self.queue_url = f"unix://{quote(str(self._socket))}"
        else:
            self.queue_url = None
        # `_life` ends with the service; `_need` ends with the last process that needs the queue.
        self._life, self._need = ParentWatch(), ParentWatch()

    @asynccontextmanager
    async def queue(self, stop_seconds: float) -> AsyncIterator[None]:
        """Run the queue during the block, unless REDIS_URL names one. Kill it if stopping takes over `stop_seconds`."""
        if self._socket is None:
            yield
            return
        command = (
            *PYTHON,
            "cutout.app.embedded.valkey",
            str(self._folder),
            str(self._socket),
            self._settings.log_format,
        )
        self._keeper = SupervisedProcess("Valkey", command, os.environ, self._need.end)
        async with _running([self._keeper], stop_seconds):
            yield

    @asynccontextmanager
    async def workers(self, finish_seconds: float) -> AsyncIterator[None]:
        """Run the workers during the block. Kill those that take over `finish_seconds` to finish current photos."""
        environment = {**os.environ, **self._own_settings()}
        self._pipes = {str(number): WorkerPipe() for number in range(1, len(self._cards) + 1)}
        workers = [
            SupervisedProcess(
                "worker",
                self._worker,
                environment if card is None else {**environment, VISIBLE: card},
                self._life.end,
                self._need.held,
                pipe,
            )
            for card, pipe in zip(self._cards, self._pipes.values(), strict=True)
        ]
        self._running_workers = workers
        async with _running(workers, finish_seconds):
            yield

    def ask_workers_to_stop(self) -> None:
        """Ask the workers to stop now, before the end of their block."""
        for worker in self._running_workers:
            worker.ask_to_stop()

    def worker_figures(self) -> dict[str, bytes | None]:
        """Return the metrics of each worker by its number, from 1; None for one that does not answer in a moment."""
        with self._asking:
            return ask_all(self._pipes)

    def restarts(self) -> dict[tuple[str, str], int]:
        """Return how often each process was restarted, by its name, `queue` or `worker`, and a worker's number."""
        found = {} if self._keeper is None else {("queue", ""): self._keeper.restarts}
        workers = zip(self._pipes, self._running_workers, strict=False)
        return found | {("worker", number): worker.restarts for number, worker in workers}

    def _own_settings(self) -> dict[str, str]:
        """Return settings that a worker cannot get from the environment: command-line options and the queue's URL."""
        said = {name: getattr(self._settings, name) for name in ("host", "port", "device")}
        own = {environment_name(Settings, name): str(value) for name, value in said.items()}
        return own | ({} if self.queue_url is None else {REDIS_URL: self.queue_url})


class ParentWatch:
    """A pipe that signals process death: `end` reaches EOF when the last process that holds `held` is gone."""

    def __init__(self) -> None:
        self.end, self.held = os.pipe()

    def __del__(self) -> None:
        os.close(self.end)
        os.close(self.held)


class SupervisedProcess:
    """A process that is restarted when it ends by itself, with an exponential back-off."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        lifeline: int,
        holds: int | None = None,
        pipe: WorkerPipe | None = None,
    ) -> None:
        """Prepare the process. `lifeline` becomes its stdin; the file descriptor `holds` stays open in it. It gets the
        other end of `pipe`, and its number as the last argument.
        """
        self._name = name
        self._command = command
        self._environment = environment
        self._lifeline = lifeline
        self._holds = () if holds is None else (holds,)
        self._pipe = pipe
        self.restarts = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {name}", daemon=True)

    def start(self) -> None:
        """Start the process and supervise it on a thread."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM and do not restart the process any more."""
        with self._lock:
            self._over.set()
            if self._process is not None:
                self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended; kill it after this many seconds."""
        self._thread.join(seconds)
        if self._thread.is_alive() and self._process is not None:
            log.warning(f"{self._name} killed", detail=f"it did not end within {seconds:.0f} s")
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while not self._over.is_set():
            began = time.monotonic()
            outcome = self._live()
            if self._over.is_set():
                return
            if time.monotonic() - began >= HEALTHY_SECONDS:
                wait = FIRST_WAIT_SECONDS
            log.warning(f"{self._name} exited unexpectedly", **outcome, again_in_seconds=wait)
            self._over.wait(wait)
            self.restarts += 1
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _live(self) -> dict[str, object]:
        """Run the process once and return how it ended."""
        try:
            with self._lock:
                if self._over.is_set():
                    return {}
                told = () if self._pipe is None else (self._pipe.open(),)
                self._process = subprocess.Popen(
                    [*self._command, *(f"{FIGURES_FD}={descriptor}" for descriptor in told)],
                    env=self._environment,
                    stdin=self._lifeline,
                    pass_fds=(*self._holds, *told),
                    # Ctrl+C must reach only the service, which then stops its children in order.
                    process_group=0,
                )
        except OSError as error:
            return {"detail": str(error)}
        finally:
            if self._pipe is not None:
                self._pipe.started()
        return {"exit_code": self._process.wait()}


@asynccontextmanager
async def _running(all_of: Sequence[SupervisedProcess], patience: float) -> AsyncIterator[None]:
    for one in all_of:
        one.start()
    try:
        yield
    finally:
        for one in all_of:
            one.ask_to_stop()
        end = time.monotonic() + patience
        for one in all_of:
            await asyncio.to_thread(one.wait, max(0.0, end - time.monotonic()))


def socket_path(folder: Path) -> Path:
    """Return the path of the queue's socket: in `folder`, or in the temporary folder if that path is unsuitable.

    Raises:
        NoPlaceForQueue: the temporary folder of the socket belongs to another user or is open to others.

    """
    socket = folder / "socket"
    if SOCKET_PATH.fullmatch(str(socket)):
        return socket
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"cutout-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NoPlaceForQueue(
            f"{short} is not private to this user, but the queue's socket would be in it. Delete it, set"
            " CUTOUT_DATA_DIR to a shorter and simpler path, or set REDIS_URL."
        )
    return short / "socket"
