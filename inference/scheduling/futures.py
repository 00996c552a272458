"""Futures that more than one may want to finish: whoever comes first does, and the others are too late."""

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def answer(future: Future[Result], result: Result) -> None:
    """Give a future its result, unless it is done or cancelled."""
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Future[Result], error: BaseException) -> None:
    """Give a future its error, unless it is done or cancelled."""
    with suppress(InvalidStateError):
        future.set_exception(error)
