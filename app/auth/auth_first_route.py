"""Route class that authenticates the caller before it reads the request body."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from cutout.app.auth.dependencies import API_KEY, BEARER_TOKEN, get_caller
from cutout.app.auth.session_cookie import SESSION
from cutout.app.db.session import Database
from cutout.app.http.openapi import dependencies_of
from cutout.app.http.state import state_of


class AuthFirstRoute(APIRoute):
    """Authenticates the caller, if the endpoint requires it, before the request body is read.

    FastAPI reads the body first and would return its validation errors to callers who are not authenticated.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None or not any(
            one.call is get_caller for one in dependencies_of(self.dependant)
        ):
            return handle

        async def handle_known(request: Request) -> Response:
            request.state.caller = await get_caller(
                request,
                state_of(request.app).get(Database),
                await BEARER_TOKEN(request),
                await API_KEY(request),
                await SESSION(request),
            )
            return await handle(request)

        return handle_known
