"""A service with its child processes: started for a load, and what each of them holds. Linux only."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from benchmarks.sides.serving import KEPT_SECONDS, NETWORK_MS

START_SECONDS, STOP_SECONDS = 300, 120
# Parts of a command line, and what such a process is; the first that fits. All others are the API.
ROLES = {
    "cutout.app.embedded.valkey": "queue keeper",
    "valkey-server": "Valkey",
    "serving worker": "worker",
    "cutout.worker": "worker",
    "postgres": "PostgreSQL",
}


@dataclass(frozen=True)
class Held:
    """What the processes of one role hold together. `pss_mb` counts memory that several processes share once."""

    pss_mb: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Running:
    """A running service: its address, its data, its log, and the process that all others of it descend from."""

    address: str
    folder: Path
    log: Path
    process: int
    # How long the log was when the service had started.
    log_start: int = 0


@contextmanager
def running(
    folder: Path, *, network_ms: float | None, kept_seconds: float | None = None, **settings: object
) -> Iterator[Running]:
    """Run `cutout serve` without accounts, with its queue and its worker, on the data in `folder`.

    With `network_ms` the networks are replaced by one that takes so long. `settings` are further ones.

    Raises:
        SystemExit: the service does not start; its log says why.

    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUTOUT_", "DATABASE_URL", "REDIS_URL"))
    }
    own = {"auth": "off", "data_dir": folder, "log_format": "json"}
    environment |= {f"CUTOUT_{name.upper()}": str(value) for name, value in own.items()}
    environment |= {name: str(value) for name, value in settings.items()}
    if network_ms is not None:
        environment[NETWORK_MS] = str(network_ms)
    if kept_seconds is not None:
        environment[KEPT_SECONDS] = str(kept_seconds)
    # Whoever ends this process ends the service with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    log = folder / "serve.log"
    command = [sys.executable, "-m", "benchmarks.sides.serving", "serve", "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    service = Running(f"http://127.0.0.1:{port}", folder, log, process.pid)
    try:
        _wait_for(service, process)
        yield replace(service, log_start=log.stat().st_size)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(service: Running, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx2.TransportError):
            answer = httpx2.get(f"{service.address}/api/health", timeout=10)
            if answer.status_code == 200 and "worker" in roles(service.process) and answer.json()["workers"]:
                return
        time.sleep(0.3)
    sys.exit(f"The service did not start:\n{service.log.read_text()[-3000:]}")


def roles(process: int) -> dict[str, list[int]]:
    """Return the ids of a process and of all its descendants, by their roles."""
    found: dict[str, list[int]] = defaultdict(list)
    left = [process]
    while left:
        pid = left.pop()
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[next((role for part, role in ROLES.items() if part in command), "API")].append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return dict(found)


def held(by_role: Mapping[str, list[int]]) -> dict[str, Held]:
    """Return what processes hold now, by their roles; those that have ended hold nothing."""
    return {
        role: Held(
            sum(map(pss_mb, pids)),
            sum(_count(f"/proc/{pid}/fd") for pid in pids),
            sum(_count(f"/proc/{pid}/task") for pid in pids),
        )
        for role, pids in by_role.items()
    }


def pss_mb(pid: int) -> float:
    """Return a process's proportional share of memory in MB; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _count(folder: str) -> int:
    with suppress(OSError):
        return len(list(Path(folder).iterdir()))
    return 0
