"""Steps of a benchmark that an interruption does not lose: time with a GPU is short, and a machine may be taken back.

Each step's figures are written as soon as it is measured. The next call skips what was measured on the same device, with
the same code and the same torch; `--again` measures everything anew. The files are not part of the results, and git
ignores them.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import report

PARTIAL = report.RESULTS / "partial"
ROOT = Path(__file__).parents[1]
# The code that a measurement depends on. A digest of it says more than a commit, which has no uncommitted changes, and
# it needs no git on the machine.
CODE = ("benchmarks", "inference", "models")
Figures = TypeVar("Figures")


class Steps:
    """The steps of one benchmark, some of them measured before. `again` forgets those."""

    def __init__(self, name: str, *, again: bool = False) -> None:
        about = report.machine()
        self._conditions = {"device": about["device"], "torch": about["torch"], "code": digest()}
        self._file = PARTIAL / f"{name}-{report.slug(about['device'])}.json"
        self._measured: dict[str, Any] = {} if again else self._read()

    def take(self, step: str, measure: Callable[[], Figures]) -> Figures:
        """Return the figures of a step: those measured before, or those that `measure` returns now.

        They must be what JSON can hold, with strings as keys. A step that raises is measured again the next time.
        """
        if step not in self._measured:
            # Through JSON, so that they are the same whether or not they were measured before.
            self._measured[step] = json.loads(json.dumps(measure()))
            self._write()
        else:
            print(f"{step}: measured before", flush=True)
        figures: Figures = self._measured[step]
        return figures

    def has(self, step: str) -> bool:
        """Return whether a step was measured."""
        return step in self._measured

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text())
            measured: dict[str, Any] = found["measured"]
        except (OSError, ValueError, KeyError):  # none, or an interruption while it was written
            return {}
        return measured if found.get("conditions") == self._conditions else {}

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        staged = self._file.with_suffix(".new")
        staged.write_text(json.dumps({"conditions": self._conditions, "measured": self._measured}) + "\n")
        staged.replace(self._file)


def digest() -> str:
    """Return a digest of the sources that measurements depend on."""
    found = hashlib.sha256()
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            found.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()
