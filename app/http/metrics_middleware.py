"""Middleware that counts and times every request by its route template."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout.app.observability.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Label for unknown paths and methods, so that clients cannot create new time series.
OTHER = "other"


class MetricsMiddleware:
    """Record the status code and the duration of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500  # if an exception propagates, the response is built outside this middleware

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_see)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path_format", OTHER)
            self.metrics.answered(method, route, status, time.perf_counter() - start)
