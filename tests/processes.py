"""Processes and what they have started, as Linux knows them."""

import os
import signal
from pathlib import Path


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
