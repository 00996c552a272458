"""Helpers for futures that several threads may try to finish: the first one wins, and the others have no effect."""

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def answer(future: Future[Result], result: Result) -> None:
    """Set a future's result, unless it is already done or cancelled."""
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Future[Result], error: BaseException) -> None:
    """Set a future's error, unless it is already done or cancelled."""
    with suppress(InvalidStateError):
        future.set_exception(error)
