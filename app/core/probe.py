"""Whether something answers, asked on a thread of its own: one that hangs keeps nobody else waiting."""

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

# How soon it is asked again after a failure, where it is not asked sooner anyway.
AFTER_FAILURE_SECONDS = 5.0
# How long the end of the process waits for a question.
STOP_SECONDS = 2.0


class NoAnswer(Exception):
    """What was asked has not answered in time."""


class Probe(Generic[Answer]):
    """Asks one question: at intervals, and when somebody wants to know. One question is asked at a time, so that those
    which hang never pile up. Safe to use from any number of threads.
    """

    def __init__(self, name: str, ask: Callable[[], Answer], every: timedelta, patience: timedelta) -> None:
        """Prepare; nothing is asked before `start`.

        Args:
            name: of what is asked, for the log.
            ask: the question; it may raise.
            every: how often it is asked without anybody's wish.
            patience: how long an answer may take before what was asked counts as hanging.

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
        """Begin to ask."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name=f"probe of {self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def look_soon(self) -> None:
        """Ask without waiting for the next interval: something that was tried has failed."""
        self._wanted.set()

    @property
    def hangs(self) -> bool:
        """Whether the answer to the question that is being asked is late."""
        began = self._began
        return began is not None and time.monotonic() - began > self._patience

    def last(self) -> Answer | None:
        """Return the last answer; None where there is none yet.

        Raises:
            NoAnswer: the next one is late.
            Exception: what the question raised last.

        """
        if self.hangs:
            raise NoAnswer(f"{self.name}: no answer in {self._patience:g} s")
        told = self._told
        return None if told is None else told.result()

    async def fresh(self, seconds: float) -> Answer:
        """Ask now, and return the answer; one question is for all who want to know meanwhile.

        Where it does not come within `seconds`, the last answer is taken, if that is no older than `patience`.

        Raises:
            NoAnswer: none came in time.
            Exception: what the question raised.

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
            except Exception as failure:  # noqa: BLE001 - it is told to who wants to know
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
