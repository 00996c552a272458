"""Processes and what they have started, as Linux knows them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """One that was started, by whichever means."""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""


def wait_ready(process: Process, is_ready: Callable[[], bool], log: Path) -> None:
    """Wait until a process is ready, as long as it lives: how long a start takes is for the host to say."""
    while not is_ready():
        code = process.poll()
        assert code is None, f"ended with {code}:\n{log.read_text(errors='replace')}"
        time.sleep(0.1)


def descendants(pid: int) -> dict[int, str]:
    """Return a process's children, and theirs, by id with their command lines."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(task).split():
            found |= {int(child): command_of(int(child))} | descendants(int(child))
    return found


def command_of(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def lives(pid: int) -> bool:
    """Tell whether a process goes on; one that is dead and was not waited for does not."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended meanwhile
        return ""
