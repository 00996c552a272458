"""Work that blocks, beside the event loop."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# What waits for a storage has threads of its own: one that hangs keeps nobody waiting who only wants the database.
STORAGE_THREADS = 32
_storage = ThreadPoolExecutor(STORAGE_THREADS, "storage")


async def to_storage_thread(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Do `work`, which may wait for a storage, as `asyncio.to_thread` does."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        _storage, partial(context.run, work, *args, **kwargs)
    )


async def to_the_end(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Do `work` in a thread. Who is cancelled meanwhile waits for its end, so that no database is closed under it."""
    return await finished(asyncio.to_thread(work, *args, **kwargs))


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work`. If cancelled, wait for its end before re-raising."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with suppress(Exception):
            await running
        raise
