"""Middleware that records each request as a span, named by its route template. Added only if traces are wanted."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout.app.http.metrics_middleware import METHODS, OTHER
from cutout.app.observability.tracing import Tracing

# Asked every few seconds by machines.
NOT_TRACED = ("/api/health", "/metrics")


class TracingMiddleware:
    """Record the route, the status and the id of each request; never its URL, in which there may be a signature."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in NOT_TRACED:
            await self.app(scope, receive, send)
            return
        status = 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else OTHER
        with self.tracing.request(method, Headers(scope=scope)) as span:
            try:
                await self.app(scope, receive, send_and_see)
            finally:
                route = getattr(scope.get("route"), "path_format", OTHER)
                span.rename(f"{method} {route}")
                span.note(
                    http__request__method=method,
                    http__route=route,
                    http__response__status_code=status,
                    cutout__request_id=scope["state"]["request_id"],
                )
                if status >= 500:
                    span.fail(str(status))
