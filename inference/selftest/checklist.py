"""The checklist: takes one check after the other, so that none of them can end the others, and keeps the findings."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cutout.inference.errors import CutoutError, DeviceLost

REPORT_IT = "Run the test again. If it fails again, please report it with the JSON file of this test."


class Outcome(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    WARNED = "warned"  # it works, but slower or otherwise not as it should
    FAILED = "failed"
    SKIPPED = "skipped"  # there was nothing to check here


@dataclass(frozen=True)
class Fact:
    """What a check found that did not fail. `advice`, if there is any, makes it a warning and says what to do."""

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


class Failed(Exception):
    """A check failed: `text` says what is wrong, `fix` what to do."""

    def __init__(self, text: str, fix: str, figures: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text, self.fix, self.figures = text, fix, figures or {}


class Skipped(Exception):
    """There is nothing to check here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """The result of one check, of a `subject` such as "rmbg-2.0, float16".

    `advice` says what to do; a finding that failed or warned has one.
    """

    check: str
    subject: str
    outcome: Outcome
    text: str
    advice: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Checklist:
    """Takes checks and keeps their findings.

    `begin` is called with the name of each check before it, `end` with its finding. After `seconds`, checks that are
    not necessary are skipped. Once the device has failed, all are.
    """

    def __init__(
        self,
        begin: Callable[[str], None] = lambda _: None,
        end: Callable[[Finding], None] = lambda _: None,
        seconds: float = 180.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.findings: list[Finding] = []
        self._begin, self._end, self._seconds, self._clock = begin, end, seconds, clock
        self._started = clock()
        self._lost = False

    @property
    def failed(self) -> bool:
        """Whether any check has failed."""
        return any(finding.outcome is Outcome.FAILED for finding in self.findings)

    @property
    def elapsed(self) -> float:
        """The seconds since the first check."""
        return self._clock() - self._started

    def take(self, name: str, subject: str, check: Callable[[], Fact], *, optional: bool = False) -> bool:
        """Carry out a check and keep its finding. Return whether what it checks can be used: it did not fail."""
        self._begin(f"{name}: {subject}" if subject else name)
        start = self._clock()
        if self._lost:
            finding = Finding(name, subject, Outcome.SKIPPED, "the device has failed")
        elif optional and self.elapsed > self._seconds:
            finding = Finding(
                name, subject, Outcome.SKIPPED, f"the {self._seconds:g} s of this test are over"
            )
        else:
            finding = self._carry_out(name, subject, check, start)
        self.findings.append(finding)
        self._end(finding)
        return finding.outcome in (Outcome.PASSED, Outcome.WARNED)

    def _carry_out(self, name: str, subject: str, check: Callable[[], Fact], start: float) -> Finding:
        def found(
            outcome: Outcome, text: str, advice: str = "", figures: dict[str, Any] | None = None
        ) -> Finding:
            return Finding(name, subject, outcome, text, advice, self._clock() - start, figures or {})

        try:
            fact = check()
        except Failed as error:
            return found(Outcome.FAILED, error.text, error.fix, error.figures)
        except Skipped as reason:
            return found(Outcome.SKIPPED, str(reason))
        except CutoutError as error:  # its message says what to do
            self._lost = isinstance(error, DeviceLost)
            text, _, advice = str(error).partition(". ")
            return found(Outcome.FAILED, text, advice or REPORT_IT)
        except Exception as error:  # noqa: BLE001 - an error of a library is a finding too
            return found(Outcome.FAILED, f"{type(error).__name__}: {error}", REPORT_IT)
        outcome = Outcome.WARNED if fact.advice else Outcome.PASSED
        return found(outcome, fact.text, fact.advice, fact.figures)
