"""Python processes that start quickly: each is forked from a process that has already imported the service.

Importing torch, SQLAlchemy and FastAPI costs several seconds of CPU time, and the tests start dozens of services and
workers. The fork server of `multiprocessing` pays that cost once for each pytest process.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
# The modules to run are not preloaded: `runpy` warns about a module that is already imported.
SERVER.set_forkserver_preload(
    ["cutout.app.app", "cutout.app.http.uvicorn_server", "cutout.worker.__main__", "tests.app.api_client"]
)


class ModuleProcess:
    """`python -m module arguments` as a process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, log: Path, environment: Mapping[str, str], module: str, *arguments: str) -> None:
        """Start the process; its output is appended to `log`."""
        self._process = SERVER.Process(
            target=_run, args=(str(log), dict(environment), module, arguments), daemon=True
        )
        self._lock = threading.Lock()
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, as `Popen` does; None while the process runs."""
        with self._lock:  # If two threads read the exit code, one would get none.
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.

        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(log: str, environment: dict[str, str], module: str, arguments: tuple[str, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with Path(log).open("ab") as out:
        sys.stdout.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
