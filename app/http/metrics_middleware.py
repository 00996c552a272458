"""Counts and times every request, by its route's template."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout.app.observability.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Of what a caller made up: a path that leads nowhere, a method that there is not.
OTHER = "other"


class MetricsMiddleware:
    """Tell the metrics how each request ended, and after how long."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500  # where an exception leaves the service, the answer is made outside of it

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
