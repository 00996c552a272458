"""A thread pool with a bounded queue, so that one kind of client work cannot take the threads of another."""

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from cutout.inference.errors import Overloaded

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Added to the nice value of low-priority threads, so that the event loop and image processing go first.
LOW_PRIORITY = 10


class BoundedExecutor:
    """Runs at most `threads` calls at once and lets at most `waiting` more wait; further calls are refused.

    Its threads start with the first call. They belong to the process, so one executor can serve several event loops.
    """

    def __init__(
        self, name: str, threads: int, waiting: int, retry_after: float = 1, *, low_priority: bool = False
    ) -> None:
        """Create the executor. Refused calls may be tried again after `retry_after` seconds."""
        self.name = name
        self._most = threads + waiting
        self._retry_after = retry_after
        self._running = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, name, initializer=_give_way if low_priority else None)

    async def run(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Call `work` in one of the threads. If cancelled while still waiting, it never starts.

        Raises:
            Overloaded: the maximum number of calls is already running and waiting.
            Exception: any error that `work` raises.

        """
        with self._lock:
            if self._running >= self._most:
                raise Overloaded(
                    f"Too many calls are waiting ({self.name}). Try again in a moment.", self._retry_after
                )
            self._running += 1
        context = contextvars.copy_context()
        try:
            future = self._threads.submit(partial(context.run, work, *args, **kwargs))
        except BaseException:
            self._forget()
            raise
        # Count the call until its thread is free, which may be later than the moment a cancelled caller returns.
        future.add_done_callback(self._forget)
        return await asyncio.wrap_future(future)

    def _forget(self, _: "Future[Result] | None" = None) -> None:
        with self._lock:
            self._running -= 1


def _give_way() -> None:
    # On Linux each thread has its own nice value, and threads that it starts inherit it.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
