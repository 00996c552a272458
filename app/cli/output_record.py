"""What was made of which photo, remembered in the folder of the results, so that a photo that was replaced is done again.

Dates alone do not tell: another photo by the same name, taken before the first one was done, is older than its cut-out.
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
    """A photo's file as it was: its size in bytes, and when it was changed last, in nanoseconds."""

    size: int
    time: int

    @classmethod
    def of(cls, file: Path) -> "Seen":
        """Look at a file.

        Raises:
            OSError: it cannot be looked at.

        """
        found = file.stat()
        return cls(found.st_size, found.st_mtime_ns)

    def is_same(self, other: "Seen") -> bool:
        """Compare. Where one time has no fraction of a second, they may be 2 s apart, as on a FAT drive."""
        apart = abs(self.time - other.time)
        whole = self.time % SECOND == 0 or other.time % SECOND == 0
        return self.size == other.size and (apart == 0 or (whole and apart < 2 * SECOND))


class Made:
    """The record of one folder: a line for each cut-out, the last one counts. A line that cannot be read is passed over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / NAME
        self._seen: dict[str, Seen] = {}
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except OSError:  # there is none yet
            return
        for line in lines:
            try:
                cutout, size, time = json.loads(line)
                self._seen[cutout] = Seen(int(size), int(time))
            except (ValueError, TypeError, OverflowError, RecursionError):  # the end of a run that was killed
                continue

    def has(self, task: Task) -> bool:
        """Tell whether a task's cut-out is there, and of its photo as it is now.

        One without a line, as earlier versions left them, is if it is no older than its photo.
        """
        seen = self._seen.get(self._name(task))
        try:
            if seen is None:
                return task.target.stat().st_mtime >= task.source.stat().st_mtime
            return task.target.exists() and Seen.of(task.source).is_same(seen)
        except FileNotFoundError:
            return False

    def add(self, task: Task, seen: Seen) -> None:
        """Remember that a task was done, of its photo as it was then.

        Raises:
            OSError: it cannot be written down.

        """
        self._write({self._name(task): seen})

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Remember the photos of cut-outs that have no line, so that from now on it is seen when one is replaced."""
        try:
            known = {
                self._name(task): Seen.of(task.source)
                for task in tasks
                if self._name(task) not in self._seen and self.has(task)
            }
            if known:
                self._write(known)
        except OSError:  # dates go on to tell
            return

    def _write(self, seen: dict[str, Seen]) -> None:
        self._seen |= seen
        lines = [json.dumps([cutout, one.size, one.time]) + "\n" for cutout, one in seen.items()]
        with self._file.open("a") as file:
            # In one piece, and behind an end of line: a run that was killed may have left half a one.
            file.write("\n" + "".join(lines))

    def _name(self, task: Task) -> str:
        return task.target.relative_to(self._folder).as_posix()
