"""Registry of the objects that all endpoints share, looked up by type."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar, cast

from fastapi import FastAPI, Request

Part = TypeVar("Part")


class AppState:
    """Holds one object of each type for as long as the service runs. Each domain looks up the objects that it needs."""

    def __init__(self) -> None:
        self._parts: dict[type, Any] = {}

    def put(self, kind: type[Part], part: Part) -> Part:
        """Register an object under its type or a base class, replacing an earlier one, and return it."""
        self._parts[kind] = part
        return part

    def get(self, kind: type[Part]) -> Part:
        """Return the object of a type.

        Raises:
            LookupError: there is none.

        """
        part = self.find(kind)
        if part is None:
            raise LookupError(f"the service has no {kind.__name__}")
        return part

    def find(self, kind: type[Part]) -> Part | None:
        """Return the object of a type, or None if there is none."""
        return cast(Part | None, self._parts.get(kind))


def state_of(service: FastAPI) -> AppState:
    """Return the state of a service."""
    state: AppState = service.state.parts
    return state


@cache
def provided(kind: type[Part]) -> Callable[[Request], Awaitable[Part]]:
    """Return the FastAPI dependency that provides the object of this type.

    It is async although it awaits nothing: FastAPI runs a plain function in its thread pool, which would add a thread
    switch for each dependency of each request.
    """

    async def get(request: Request) -> Part:
        return state_of(request.app).get(kind)

    return get
