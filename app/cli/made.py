"""What was made of which photo, remembered in the folder of the results, so that a photo that was replaced is done again.

Dates alone do not tell: another photo by the same name, taken before the first one was done, is older than its cut-out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from app.cli.plan import Task

NAME = ".cutout-made.jsonl"


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
                self._seen[cutout] = Seen(size, time)
            except (ValueError, TypeError):  # the end of a run that was killed
                continue

    def has(self, task: Task) -> bool:
        """Tell whether a task's cut-out is there, and of its photo as it is now.

        One without a line, as earlier versions left them, is if it is no older than its photo.
        """
        seen = self._seen.get(self._name(task))
        try:
            if seen is None:
                return task.target.stat().st_mtime >= task.source.stat().st_mtime
            return task.target.exists() and Seen.of(task.source) == seen
        except FileNotFoundError:
            return False

    def add(self, task: Task, seen: Seen) -> None:
        """Remember that a task was done, of its photo as it was then.

        Raises:
            OSError: it cannot be written down.

        """
        self._seen[self._name(task)] = seen
        with self._file.open("a") as file:
            file.write(json.dumps([self._name(task), seen.size, seen.time]) + "\n")

    def _name(self, task: Task) -> str:
        return task.target.relative_to(self._folder).as_posix()
