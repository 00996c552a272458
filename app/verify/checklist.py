"""A checklist: steps that depend on each other, each with a timeout and a target."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from cutout.app.verify.client import Failed


class Outcome(StrEnum):
    """The outcome of a step."""

    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Target:
    """The expected duration of a step in seconds, from `low` to `high`; above `high` it counts as slow."""

    high: float
    low: float = 0

    def __str__(self) -> str:
        return f"{self.low:g}–{self.high:g} s" if self.low else f"{self.high:g} s"


@dataclass(frozen=True)
class Fact:
    """Finding of a step that did not fail; `doubtful` if the user should look at it."""

    text: str
    doubtful: bool = False


class Skipped(Exception):
    """The step has nothing to check."""


@dataclass(frozen=True)
class Step:
    """One check, run if all steps that it `needs` have passed. A step without a target sends no requests."""

    name: str
    run: Callable[[], Awaitable[Fact]]
    needs: tuple[str, ...] = ()
    target: Target | None = None


@dataclass(frozen=True)
class Result:
    """Result of a step; `seconds` is None if the step sent no requests."""

    step: Step
    outcome: Outcome
    seconds: float | None
    detail: str


class Checklist(Protocol):
    """The steps of a run, and what it leaves behind."""

    @property
    def how_far(self) -> str:
        """How far the current step is, for the message of a timeout."""

    def steps(self) -> Sequence[Step]:
        """Return the steps in order."""

    async def leave_nothing(self) -> None:
        """Undo what a failed step began."""


async def walk(
    visit: Checklist,
    *,
    seconds: float,
    strict: bool = False,
    begin: Callable[[Step], None] = lambda _: None,
) -> AsyncIterator[Result]:
    """Run the steps in order, each with a timeout in seconds. Doubtful or slow steps fail only if `strict` is set."""
    passed: set[str] = set()
    for step in visit.steps():
        missing = [name for name in step.needs if name not in passed]
        if missing:
            yield Result(step, Outcome.SKIPPED, None, f"needs {missing[0]}")
            continue
        begin(step)
        result = await _take(visit, step, seconds)
        if result.outcome in (Outcome.PASSED, Outcome.WARNED):
            passed.add(step.name)
        if strict and result.outcome is Outcome.WARNED:
            result = replace(result, outcome=Outcome.FAILED)
        yield result


async def _take(visit: Checklist, step: Step, seconds: float) -> Result:
    start = time.perf_counter()

    def ended(outcome: Outcome, detail: str) -> Result:
        return Result(step, outcome, time.perf_counter() - start if step.target else None, detail)

    try:
        async with asyncio.timeout(seconds):
            fact = await step.run()
    except TimeoutError:
        late = f"It was not done within {seconds:g} s{visit.how_far}. Set a longer --timeout."
        result = ended(Outcome.FAILED, late)
        await visit.leave_nothing()
        return result
    except Failed as error:
        await visit.leave_nothing()
        return ended(Outcome.FAILED, str(error))
    except Skipped as reason:
        return Result(step, Outcome.SKIPPED, None, str(reason))
    result = ended(Outcome.WARNED if fact.doubtful else Outcome.PASSED, fact.text)
    if step.target is not None and result.seconds is not None and result.seconds > step.target.high:
        return replace(result, outcome=Outcome.WARNED, detail=f"slow; {fact.text}")
    return result
