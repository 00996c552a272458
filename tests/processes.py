"""Processes and their descendants, read from Linux's /proc."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """A started process of any kind."""

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""


def wait_ready(process: Process, is_ready: Callable[[], bool], log: Path) -> None:
    """Wait until a process is ready, without a time limit while it lives, since start-up time depends on the host."""
    while not is_ready():
        code = process.poll()
        assert code is None, f"ended with {code}:\n{log.read_text(errors='replace')}"
        time.sleep(0.1)


def descendants(pid: int) -> dict[int, str]:
    """Return a process's descendants, as a mapping of process ids to command lines."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(task).split():
            found |= {int(child): command_of(int(child))} | descendants(int(child))
    return found


def command_of(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def lives(pid: int) -> bool:
    """Return whether a process is running; a zombie does not count."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def is_stopped(pid: int) -> bool:
    """Return whether all threads of a process are stopped, as by SIGSTOP."""
    stats = [_read(file) for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return bool(stats) and all(stat.rpartition(")")[2].split()[:1] == ["T"] for stat in stats)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # The process has ended.
        return ""
