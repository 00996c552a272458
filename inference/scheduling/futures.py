"""Helpers for futures. Where several threads try to finish one, the first wins and the others have no effect."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from typing import TypeVar

from cutout.inference.errors import CutoutError, DeviceLost

Key = TypeVar("Key")
Result = TypeVar("Result")


def answer(future: Future[Result], result: Result) -> None:
    """Set a future's result, unless it is already done or cancelled."""
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Future[Result], error: BaseException) -> None:
    """Set a future's error, unless it is already done or cancelled."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def completed(running: dict[Future[Result], Key]) -> Iterator[tuple[Key, Result | CutoutError | OSError]]:
    """Wait for the next of these futures. Remove all that are done, and yield the key and the outcome of each.

    Raises:
        DeviceLost: the device has failed, so that no other future can succeed.

    """
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        key = running.pop(future)
        try:
            yield key, future.result()
        except DeviceLost:
            raise
        except (CutoutError, OSError) as error:
            yield key, error
