"""Record of which photo each cut-out was made from, kept in the output folder, so that replaced photos are redone.

Modification times alone are not enough: a replacement of the same name may be older than the existing cut-out.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cutout.app.cli.plan import Task

NAME = ".cutout-made.jsonl"
SECOND = 1_000_000_000  # nanoseconds


@dataclass(frozen=True)
class Seen:
    """State of a photo's file: its size in bytes and its modification time in nanoseconds."""

    size: int
    time: int

    @classmethod
    def of(cls, file: Path) -> "Seen":
        """Return the state of a file.

        Raises:
            OSError: the file cannot be examined.

        """
        found = file.stat()
        return cls(found.st_size, found.st_mtime_ns)

    def is_same(self, other: "Seen") -> bool:
        """Compare two states. If either time has no fraction of a second, they may be 2 s apart, as on a FAT drive."""
        apart = abs(self.time - other.time)
        whole = self.time % SECOND == 0 or other.time % SECOND == 0
        return self.size == other.size and (apart == 0 or (whole and apart < 2 * SECOND))


class Made:
    """The record of one folder: one line per cut-out, of which the last counts. Unreadable lines are skipped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / NAME
        self._seen: dict[str, Seen] = {}
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except OSError:  # there is no record yet
            return
        for line in lines:
            try:
                cutout, size, time = json.loads(line)
                self._seen[cutout] = Seen(int(size), int(time))
            except (ValueError, TypeError, OverflowError, RecursionError):  # cut short when a run was killed
                continue

    def has(self, task: Task) -> bool:
        """Tell whether a task's cut-out exists and was made from the current version of its photo.

        A cut-out without a line, as earlier versions left them, counts if it is not older than its photo.
        """
        seen = self._seen.get(self._name(task))
        try:
            if seen is None:
                return task.target.stat().st_mtime >= task.source.stat().st_mtime
            return task.target.exists() and Seen.of(task.source).is_same(seen)
        except FileNotFoundError:
            return False

    def add(self, task: Task, seen: Seen) -> None:
        """Record that a task was done, with the state of its photo at that time.

        Raises:
            OSError: the record cannot be written.

        """
        self._write({self._name(task): seen})

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Record the photos of existing cut-outs that have no line, so that later replacements are noticed."""
        try:
            known = {
                self._name(task): Seen.of(task.source)
                for task in tasks
                if self._name(task) not in self._seen and self.has(task)
            }
            if known:
                self._write(known)
        except OSError:  # modification times still decide
            return

    def _write(self, seen: dict[str, Seen]) -> None:
        self._seen |= seen
        lines = [json.dumps([cutout, one.size, one.time]) + "\n" for cutout, one in seen.items()]
        with self._file.open("a") as file:
            # In one write, after a line break, because a run that was killed may have left half a line.
            file.write("\n" + "".join(lines))

    def _name(self, task: Task) -> str:
        return task.target.relative_to(self._folder).as_posix()
