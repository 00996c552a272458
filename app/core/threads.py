"""Run blocking work in threads, outside the event loop."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Storage calls have their own thread pool, so that a storage that hangs does not block database calls.
STORAGE_THREADS = 32
_storage = ThreadPoolExecutor(STORAGE_THREADS, "storage")


async def to_storage_thread(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call `work`, which may wait for the storage, in a thread, as `asyncio.to_thread` does."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        _storage, partial(context.run, work, *args, **kwargs)
    )


async def to_the_end(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call `work` in a thread. If cancelled, wait for it to finish, so that the database stays open for it."""
    return await finished(asyncio.to_thread(work, *args, **kwargs))


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`. If cancelled, wait for it to finish before re-raising."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with suppress(Exception):
            await running
        raise
