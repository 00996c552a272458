"""What every request passes before a route: an id, a host and origin check, a limit on the body."""

import re
import time
import uuid
from urllib.parse import urlsplit

import structlog
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, upload_too_large
from app.settings import is_loopback

log = structlog.get_logger()

SANE_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# Room for a multipart body's part headers and small fields around the picture itself.
FORM_OVERHEAD_BYTES = 100_000


class RequestId:
    """Give each request an id (the caller's own, where it sent a sane one), and log how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if SANE_REQUEST_ID.fullmatch(asked) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=request_id)
        start = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            milliseconds = round(1000 * (time.perf_counter() - start))
            log.info("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


class LocalOnly:
    """Without accounts, answer only this machine's own programs and pages.

    A page elsewhere could otherwise make the user's browser call the service: straight (its `Origin`
    tells) or by a DNS name that it points at 127.0.0.1 (the `Host` tells).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if not is_loopback(urlsplit(f"//{host}").hostname or ""):
                await _refuse(
                    f"Host {host!r} is not this machine. Call http://127.0.0.1 or http://localhost."
                )(scope, receive, send)
                return
            if origin is not None and origin != f"{scope['scheme']}://{host}":
                await _refuse("Web pages of other origins may not call this service.")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Stop reading a body past the limit, or before it where its length was announced. What nobody reads is not refused."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self.limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        left = self.limit_bytes + FORM_OVERHEAD_BYTES
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced) > left

        async def receive_within_limit() -> Message:
            nonlocal left
            if too_large:
                raise upload_too_large(self.limit_bytes)
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise upload_too_large(self.limit_bytes)
            return message

        await self.app(scope, receive_within_limit, send)


def _refuse(detail: str) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(403, "FORBIDDEN", detail)
        body = problem.body(scope["state"]["request_id"])
        answer = JSONResponse(body, problem.status, media_type="application/problem+json")
        await answer(scope, receive, send)

    return refuse
