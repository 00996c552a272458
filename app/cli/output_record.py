"""Record of how each cut-out was made, kept in the output folder: photos that were replaced are redone.

So are those that were made with other options. Modification times alone are not enough: a replacement of the same name may be older than the existing cut-out.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from cutout.app.cli.plan import Task
from cutout.inference.imaging.geometry import AS_IN_PHOTO, Layout
from cutout.inference.imaging.hints import NO_HINTS, Hints
from cutout.inference.options import DEFAULT_OPTIONS, Options

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


@dataclass(frozen=True)
class Line:
    """How a cut-out was made: the state of its photo, and the options as `digest_of` gives them, None if unknown."""

    photo: Seen
    options: str | None = None


def digest_of(options: Options) -> str:
    """Return a short text that is the same for the same options, also in a later version that has more of them."""
    changed = {name: value for name, value in _changed(options, DEFAULT_OPTIONS).items() if name != "layout"}
    if "hints" in changed:
        changed["hints"] = _changed(options.hints, NO_HINTS)
    changed["layout"] = _changed(options.layout, AS_IN_PHOTO)
    return hashlib.sha256(repr(changed).encode()).hexdigest()[:16]


class Made:
    """The record of one folder: one line per cut-out, of which the last counts. Unreadable lines are skipped.

    `options` are those of this run; photos may have hints of their own.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._file = folder / NAME
        self._options = options
        self._digests: dict[Hints | None, str] = {}
        self._lines: dict[str, Line] = {}
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except OSError:  # there is no record yet
            return
        for line in lines:
            try:
                cutout, size, time, *more = json.loads(line)
                digest = more[0] if more and isinstance(more[0], str) else None
                self._lines[cutout] = Line(Seen(int(size), int(time)), digest)
            except (ValueError, TypeError, OverflowError, RecursionError):  # cut short when a run was killed
                continue

    def has(self, task: Task) -> bool:
        """Tell whether a task's cut-out exists and was made from the current version of its photo, with these options.

        A cut-out without a line, as earlier versions left them, counts if it is not older than its photo, and a line
        without options, as earlier versions wrote them, counts whatever the options are.
        """
        return any(
            self._is_current(task.source, target) and self._has_options(task, target)
            for target in task.targets
        )

    def has_with_other_options(self, task: Task) -> bool:
        """Tell whether a task's cut-out was made from the current version of its photo, but with other options."""
        return not self.has(task) and any(self._is_current(task.source, one) for one in task.targets)

    def add(self, task: Task, target: Path, seen: Seen) -> None:
        """Record that a task was done, with the state of its photo at that time.

        If the cut-out had another extension before, which `auto` may give it, the old file is deleted.

        Raises:
            OSError: the record cannot be written, or the old file cannot be deleted.

        """
        self._write({self._name(target): Line(seen, self._digest(task))})
        for other in task.targets:
            if other != target and self._name(other) in self._lines:
                other.unlink(missing_ok=True)

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Record the photos of existing cut-outs that have no line, so that later replacements are noticed."""
        try:
            known = {
                self._name(target): Line(Seen.of(task.source))
                for task in tasks
                for target in task.targets
                if self._name(target) not in self._lines and self._is_current(task.source, target)
            }
            if known:
                self._write(known)
        except OSError:  # modification times still decide
            return

    def _is_current(self, source: Path, target: Path) -> bool:
        line = self._lines.get(self._name(target))
        try:
            if line is None:
                return target.stat().st_mtime >= source.stat().st_mtime
            return target.exists() and Seen.of(source).is_same(line.photo)
        except FileNotFoundError:
            return False

    def _has_options(self, task: Task, target: Path) -> bool:
        line = self._lines.get(self._name(target))
        return line is None or line.options in (None, self._digest(task))

    def _digest(self, task: Task) -> str:
        if task.hints not in self._digests:
            self._digests[task.hints] = digest_of(task.options_of(self._options))
        return self._digests[task.hints]

    def _write(self, made: dict[str, Line]) -> None:
        self._lines |= made
        lines = [
            json.dumps([cutout, one.photo.size, one.photo.time, *([one.options] if one.options else [])])
            + "\n"
            for cutout, one in made.items()
        ]
        with self._file.open("a") as file:
            # In one write, after a line break, because a run that was killed may have left half a line.
            file.write("\n" + "".join(lines))

    def _name(self, target: Path) -> str:
        return target.relative_to(self._folder).as_posix()


def _changed(options: Options | Layout | Hints, usual: Options | Layout | Hints) -> dict[str, object]:
    """Return the fields that differ from the usual ones."""
    return {
        one.name: getattr(options, one.name)
        for one in fields(options)
        if getattr(options, one.name) != getattr(usual, one.name)
    }
