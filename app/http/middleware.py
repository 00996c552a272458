"""Middleware for every request: request id, host and origin check, and limits on the body."""

import asyncio
import math
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout.app.config.base import is_loopback
from cutout.app.core.errors import ForbiddenError, ServiceError
from cutout.app.core.shutdown import Shutdown
from cutout.app.http.problem_details import (
    answer,
    body_too_large,
    body_too_slow,
    service_stops,
    too_many_uploads,
    unexpected,
)
from cutout.app.http.security_headers import OF_EVERY_ANSWER

log = structlog.get_logger()

JOB_ID = re.compile("/jobs/[^/]+/")

SANE_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# Keys of a log line and the path parameters that they are taken from.
THINGS = {"job": "job_id", "batch": "batch_id"}
# Allowance for part headers and small fields of a multipart body, in addition to its files.
FORM_OVERHEAD_BYTES = 100_000
# Limit for JSON bodies and forms without a file.
SMALL_BODY_BYTES = 100_000
# The largest ratio of a file in base64, in lines and escaped for a form, to its bytes.
ENCODED_GROWTH = 1.5
# While waiting for a body, how often to check whether the service is being stopped.
LOOK_SECONDS = 0.5


class RequestId:
    """Give each request an id, and log its status code and duration.

    A valid `X-Request-Id` header of the client is used as the id; otherwise a new one is generated.
    """

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
    """Add the security headers for browsers to every response that does not set them itself."""

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
    """Turn exceptions without a handler into a 500 response, as close to the routes as possible.

    Starlette's own handler runs outside all other middleware, so its response would have no CORS headers and pages of
    other origins could not read it.
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
            await answer(scope, unexpected(error))(scope, receive, send)


class LocalOnly:
    """Accept only requests from programs and pages on this machine. Used when authentication is off.

    Otherwise a foreign web page could make the user's browser call the service, either directly (detected by `Origin`)
    or through a DNS name that resolves to 127.0.0.1 (detected by `Host`).
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
    """Reject a body that exceeds its size limit: before reading it if `Content-Length` says so, else once it does.

    The check happens when the body is read, so a body that no endpoint reads is never rejected. `uploads` maps each
    path that accepts files to its limit in bytes and to a function that builds the error. `encoded` are those of these
    paths where a body of any kind may be a file in base64. Paths have `{job_id}` for a job's id. All other bodies, and
    JSON bodies on all other paths, are limited to `SMALL_BODY_BYTES`.
    """

    def __init__(
        self,
        app: ASGIApp,
        uploads: Mapping[str, tuple[int, Callable[[int], ServiceError]]],
        encoded: Collection[str] = (),
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.encoded = encoded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_json = Headers(scope=scope).get("content-type", "").lower().startswith("application/json")
        left, too_large = SMALL_BODY_BYTES, body_too_large(SMALL_BODY_BYTES)
        path = _path_of(scope)
        is_encoded = path in self.encoded
        if path in self.uploads and (is_encoded or not is_json):
            limit, say = self.uploads[path]
            size = encoded_bytes(limit) if is_encoded else limit
            left, too_large = size + FORM_OVERHEAD_BYTES, say(limit)
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
    """Limit the time that a body takes to arrive: `seconds`, and as much again per `bytes_each` bytes received."""

    def __init__(
        self, app: ASGIApp, seconds: float, bytes_each: int, stopping: Shutdown | None = None
    ) -> None:
        """Wrap `app`. Once `stopping` is set, bodies that are still arriving are cut off at its `uploads_end`."""
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
            if whole:  # the application now waits for the client to disconnect
                return await receive()
            seconds = self.seconds * (1 + received // self.bytes_each)
            while True:
                left = start + seconds - time.monotonic()
                until_cut = self.stopping.uploads_end - time.monotonic()
                if min(left, until_cut) <= 0:
                    raise body_too_slow(seconds) if left <= until_cut else service_stops()
                try:
                    # Wake up regularly to check whether the service is being stopped.
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
    """Respond to requests that are cancelled because the service is being stopped."""

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
            log.warning("request aborted because the service is stopping", path=scope["path"])
            if not has_begun:
                await answer(scope, service_stops())(scope, receive, send)


class BodyMemory:
    """Limit the total memory of all uploads, from their first byte until their requests are answered.

    `paths` maps each path that accepts files to the most bytes of a body that are in memory at once: a batch is read
    photo by photo. One upload always fits: it counts for at most `total_bytes`. Requests to other paths are not affected.
    """

    def __init__(self, app: ASGIApp, paths: Mapping[str, int], total_bytes: int) -> None:
        self.app = app
        self.paths = {path: min(most, total_bytes) for path, most in paths.items()}
        self.left = total_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _path_of(scope) not in self.paths:
            await self.app(scope, receive, send)
            return
        held, most = 0, self.paths[_path_of(scope)]

        async def receive_into_memory() -> Message:
            nonlocal held
            message = await receive()
            more = min(len(message.get("body", b"")), most - held)
            if more > self.left:
                raise too_many_uploads()
            held += more
            self.left -= more
            return message

        # A request whose announced length does not fit is refused at once; only bytes received are counted.
        if min(announced_bytes(scope), most) > self.left:
            await answer(scope, too_many_uploads())(scope, receive, send)
            return
        try:
            await self.app(scope, receive_into_memory, send)
        finally:
            self.left += held


def _path_of(scope: Scope) -> str:
    """Return the path of a request, with `{job_id}` for a job's id."""
    return JOB_ID.sub("/jobs/{job_id}/", scope["path"])


def encoded_bytes(limit_bytes: int) -> int:
    """Return how long a body may be that holds a file of `limit_bytes` in base64."""
    return math.ceil(limit_bytes * ENCODED_GROWTH)


def announced_bytes(scope: Scope) -> int:
    """Return the `Content-Length` of a request; 0 if it is missing or invalid."""
    announced = Headers(scope=scope).get("content-length", "")
    # The server refuses longer numbers, and parsing them takes long.
    return int(announced) if re.fullmatch("[0-9]{1,18}", announced) else 0


def _name_of(host: str) -> str:
    """Return a `Host` header without its port; the empty string if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _refuse(detail: str) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(scope, ForbiddenError(detail))(scope, receive, send)

    return refuse
