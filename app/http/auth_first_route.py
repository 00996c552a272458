"""Routes that know who calls before they read what is sent."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from cutout.app.http.dependencies import API_KEY, TOKEN, get_caller, get_database


class CallerFirst(APIRoute):
    """Says who calls, where that matters, ahead of the body: FastAPI would read it first, and tell a stranger of it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None or not any(
            one.call is get_caller for one in dependencies_of(self.dependant)
        ):
            return handle

        async def handle_known(request: Request) -> Response:
            request.state.caller = await get_caller(
                request, await get_database(request), await TOKEN(request), await API_KEY(request)
            )
            return await handle(request)

        return handle_known


def dependencies_of(dependant: Dependant) -> Iterator[Dependant]:
    """Return a route's dependant and all that it depends on."""
    yield dependant
    for one in dependant.dependencies:
        yield from dependencies_of(one)
