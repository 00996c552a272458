"""Threads for one kind of work, with a bounded queue: what strangers can start takes no thread from anything else."""

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

# Added to a thread's nice value where its work is to give way to the event loop and to pictures.
LOW_PRIORITY = 10


class BoundedExecutor:
    """Runs at most `threads` pieces of work at once, and lets at most `waiting` more wait; what is beyond is refused.

    Its threads start with the first work, and are the process's: one executor serves all event loops.
    """

    def __init__(
        self, name: str, threads: int, waiting: int, retry_after: float = 1, *, low_priority: bool = False
    ) -> None:
        """Prepare `threads`. `retry_after` are the seconds after which refused work may be tried again."""
        self.name = name
        self._most = threads + waiting
        self._retry_after = retry_after
        self._running = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, name, initializer=_give_way if low_priority else None)

    async def run(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Do `work` in one of the threads. If cancelled while it waits, it is never begun.

        Raises:
            Overloaded: as many are at work and waiting as may.
            Exception: what `work` raises.

        """
        with self._lock:
            if self._running >= self._most:
                raise Overloaded(
                    f"Too much is waiting here ({self.name}). Try again in a moment.", self._retry_after
                )
            self._running += 1
        context = contextvars.copy_context()
        try:
            future = self._threads.submit(partial(context.run, work, *args, **kwargs))
        except BaseException:
            self._forget()
            raise
        # Counted until the thread is free again, which is later than a cancelled caller hears of it.
        future.add_done_callback(self._forget)
        return await asyncio.wrap_future(future)

    def _forget(self, _: "Future[Result] | None" = None) -> None:
        with self._lock:
            self._running -= 1


def _give_way() -> None:
    # On Linux a thread has a nice value of its own, and the threads that it starts inherit it.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
