"""Health checks that run in their own thread, so that a dependency that hangs blocks nothing else."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

Answer = TypeVar("Answer")

# Interval after a failed check, if the normal interval is not shorter.
AFTER_FAILURE_SECONDS = 5.0
# How long the process waits for a running check when it exits.
STOP_SECONDS = 2.0


class NoAnswer(Exception):
    """The check did not answer in time."""


class Probe(Generic[Answer]):
    """Runs one check at intervals and on demand. Only one check runs at a time, so that hanging checks never pile up.
    Thread-safe.
    """

    def __init__(self, name: str, ask: Callable[[], Answer], every: timedelta, patience: timedelta) -> None:
        """Prepare the probe; nothing is checked before `start`.

        Args:
            name: name of the checked dependency, for the log.
            ask: the check; it may raise.
            every: the interval between checks that nothing else triggers.
            patience: how long a check may take before its dependency counts as hanging.

        """
        self.name = name
        self._ask = ask
        self._every = every.total_seconds()
        self._patience = patience.total_seconds()
        self._lock = threading.Lock()
        self._wanted, self._over = threading.Event(), threading.Event()
        self._waiting: list[Future[Answer]] = []
        self._began: float | None = None
        self._told: Future[Answer] | None = None
        self._told_at = 0.0
        self._is_well = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start checking."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name=f"probe of {self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop checking."""
        self._over.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def look_soon(self) -> None:
        """Check now instead of at the next interval, because an operation has just failed."""
        self._wanted.set()

    @property
    def hangs(self) -> bool:
        """Whether the current check takes longer than `patience`."""
        began = self._began
        return began is not None and time.monotonic() - began > self._patience

    def last(self) -> Answer | None:
        """Return the result of the last check; None if there is none yet.

        Raises:
            NoAnswer: the current check takes too long.
            Exception: the error that the last check raised.

        """
        if self.hangs:
            raise NoAnswer(f"{self.name}: no answer in {self._patience:g} s")
        told = self._told
        return None if told is None else told.result()

    async def fresh(self, seconds: float) -> Answer:
        """Check now and return the result; callers that arrive in the meantime share one check.

        If the result does not come within `seconds`, return the last one, provided it is no older than `patience`.

        Raises:
            NoAnswer: there was no result in time.
            Exception: the error that the check raised.

        """
        if self.hangs:
            raise NoAnswer(f"{self.name}: no answer in {self._patience:g} s")
        future: Future[Answer] = Future()
        with self._lock:
            self._waiting.append(future)
        self._wanted.set()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            # On an event loop that is late itself, the time is over before the result that came in it is seen.
            if future.done() and not future.cancelled():
                return future.result()
            with self._lock:
                if future in self._waiting:
                    self._waiting.remove(future)
                told, told_at = self._told, self._told_at
            if told is not None and time.monotonic() - told_at <= self._patience:
                return told.result()
            raise NoAnswer(f"{self.name}: no answer in {seconds:g} s") from None

    def _run(self) -> None:
        while not self._over.is_set():
            self._wanted.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, []
                self._began = time.monotonic()
            told: Future[Answer] = Future()
            try:
                told.set_result(self._ask())
            except Exception as failure:  # noqa: BLE001 - the error is passed on to the callers
                told.set_exception(failure)
            error = told.exception()
            with self._lock:
                self._began, self._told, self._told_at = None, told, time.monotonic()
            for future in waiting:
                if future.set_running_or_notify_cancel():
                    if error is None:
                        future.set_result(told.result())
                    else:
                        future.set_exception(error)
            self._log(error)
            self._wanted.wait(self._every if error is None else min(self._every, AFTER_FAILURE_SECONDS))

    def _log(self, error: BaseException | None) -> None:
        is_well = error is None
        if is_well != self._is_well:
            if is_well:
                log.info(f"{self.name} answers again")
            else:
                log.error(
                    f"{self.name} does not answer",
                    detail=str(error).splitlines()[0] if str(error) else repr(error),
                )
        self._is_well = is_well
