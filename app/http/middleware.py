"""What every request passes before a route: an id, a host and origin check, limits on the body."""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

import structlog
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout.app.config.base import is_loopback
from cutout.app.core.errors import ForbiddenError, ServiceError
from cutout.app.core.shutdown import Shutdown
from cutout.app.http.problem_details import (
    body_too_large,
    body_too_slow,
    response,
    service_stops,
    too_many_uploads,
    unexpected,
)
from cutout.app.http.security_headers import OF_EVERY_ANSWER

log = structlog.get_logger()

SANE_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# What a path may name, and as what a log line does.
THINGS = {"job": "job_id", "batch": "batch_id"}
# Room for a multipart body's part headers and small fields around the picture itself.
FORM_OVERHEAD_BYTES = 100_000
# Of JSON and forms without a file.
SMALL_BODY_BYTES = 100_000
# How often a body that does not come is looked at.
LOOK_SECONDS = 0.5


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
        client = scope.get("client")
        structlog.contextvars.bind_contextvars(request=request_id, client=client[0] if client else None)
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
            named = scope.get("path_params", {})
            things = {thing: named[name] for thing, name in THINGS.items() if name in named}
            structlog.contextvars.bind_contextvars(**things)
            log.info("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


class BrowserHeaders:
    """Tell browsers with every answer what they may do with it, as far as it does not say so itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in OF_EVERY_ANSWER.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class UnexpectedErrors:
    """Answer errors that no handler knows, as near to the routes as can be.

    Starlette would do so outside all that an answer passes: a page of another origin could not read it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_see(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_see)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await _response(scope, unexpected(error))(scope, receive, send)


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
            if not is_loopback(_name_of(host)):
                await _refuse(
                    f"Host {host!r} is not this machine. Call http://127.0.0.1 or http://localhost."
                )(scope, receive, send)
                return
            if origin is not None and origin != f"{scope['scheme']}://{host}":
                await _refuse("Web pages of other origins may not call this service.")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Stop reading a body past its limit, or before it where its length was announced. What nobody reads is not refused.

    `uploads` has the limits of those paths that take files, and what is said past them; of all others, and as JSON, a
    body is small.
    """

    def __init__(
        self, app: ASGIApp, uploads: Mapping[str, tuple[int, Callable[[int], ServiceError]]]
    ) -> None:
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_json = Headers(scope=scope).get("content-type", "").lower().startswith("application/json")
        left, too_large = SMALL_BODY_BYTES, body_too_large(SMALL_BODY_BYTES)
        if not is_json and scope["path"] in self.uploads:
            limit, say = self.uploads[scope["path"]]
            left, too_large = limit + FORM_OVERHEAD_BYTES, say(limit)
        announced_too_large = announced_bytes(scope) > left

        async def receive_within_limit() -> Message:
            nonlocal left
            if announced_too_large:
                raise too_large
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large
            return message

        await self.app(scope, receive_within_limit, send)


class BodyTime:
    """Give each body a time to come in: `seconds` for every `bytes_each` of it, and for what is less."""

    def __init__(
        self, app: ASGIApp, seconds: float, bytes_each: int, stopping: Shutdown | None = None
    ) -> None:
        """Wrap `app`. Once the service is `stopping`, bodies have only the time that it gives them."""
        self.app = app
        self.seconds = seconds
        self.bytes_each = bytes_each
        self.stopping = stopping or Shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, received, whole = time.monotonic(), 0, False

        async def receive_in_time() -> Message:
            nonlocal received, whole
            if whole:  # then the wait is for the caller to hang up
                return await receive()
            seconds = self.seconds * (1 + received // self.bytes_each)
            while True:
                left = start + seconds - time.monotonic()
                until_cut = self.stopping.uploads_end - time.monotonic()
                if min(left, until_cut) <= 0:
                    raise body_too_slow(seconds) if left <= until_cut else service_stops()
                try:
                    # By turns, to see whether the service is being stopped.
                    async with asyncio.timeout(min(left, until_cut, LOOK_SECONDS)):
                        message = await receive()
                    break
                except TimeoutError:
                    pass
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)


class ShutdownMiddleware:
    """Answer those requests that are cancelled because the service is being stopped."""

    def __init__(self, app: ASGIApp, stopping: Shutdown) -> None:
        self.app = app
        self.stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if scope["type"] != "http" or not self.stopping.is_set():
                raise
            log.warning("request cut off, as the service stops", path=scope["path"])
            if not has_begun:
                await _response(scope, service_stops())(scope, receive, send)


class BodyMemory:
    """Bound the bytes of all uploads together, from when they come in until their requests are answered.

    One counts for `most_bytes` at most: what is longer is not kept whole, and a batch photo by photo. Who sends no photo is not kept waiting.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], total_bytes: int, most_bytes: int) -> None:
        self.app = app
        self.paths = paths
        self.most_bytes = most_bytes
        self.left = max(total_bytes, most_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        held = 0

        async def receive_into_memory() -> Message:
            nonlocal held
            message = await receive()
            more = min(len(message.get("body", b"")), self.most_bytes - held)
            if more > self.left:
                raise too_many_uploads()
            held += more
            self.left -= more
            return message

        # Refused before it is sent, where its length is announced; only what has come is counted.
        if min(announced_bytes(scope), self.most_bytes) > self.left:
            await _response(scope, too_many_uploads())(scope, receive, send)
            return
        try:
            await self.app(scope, receive_into_memory, send)
        finally:
            self.left += held


def announced_bytes(scope: Scope) -> int:
    """Return how long a body is said to be; 0 where nothing is said."""
    announced = Headers(scope=scope).get("content-length", "")
    # A longer number is refused by the server, and takes long to read.
    return int(announced) if re.fullmatch("[0-9]{1,18}", announced) else 0


def _name_of(host: str) -> str:
    """Return a `Host` without its port; nothing where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _refuse(detail: str) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await _response(scope, ForbiddenError(detail))(scope, receive, send)

    return refuse


def _response(scope: Scope, error: ServiceError) -> JSONResponse:
    return response(error, scope["state"]["request_id"])
