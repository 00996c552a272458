"""The HTTP server, with timeouts for clients that send or read too slowly."""

import asyncio
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cutout.app.config.settings import Settings
from cutout.app.core.shutdown import Shutdown, StopTimes
from cutout.app.http.problem_details import not_http
from cutout.app.http.state import state_of

log = structlog.get_logger()

# Limit for the request line and headers together, for the trailer of a chunked body, and for the bytes between two of
# its chunks.
LONGEST_HEAD_BYTES = 64 * 1024
# Longer than clients and proxies keep an idle connection: nginx keeps one for 60 s, clients in Python for 5 s. A server
# that closes it first may do so while the next request is on its way, which is lost then.
IDLE_SECONDS = 75
MOST_FILES = 8192


def server_of(
    service: FastAPI, settings: Settings, last_resort: Callable[[], None] | None = None
) -> uvicorn.Server:
    """Return the server of a service, not started yet. `last_resort` is called if stopping it takes too long."""
    config = uvicorn.Config(
        service,
        host=settings.host,
        port=settings.port,
        http=TimedHttpProtocol,
        ws="none",
        timeout_keep_alive=IDLE_SECONDS,
        log_config=None,
        # Uvicorn would trust proxy headers from 127.0.0.1; the service has its own setting for trusted proxies.
        proxy_headers=False,
    )
    return Server(config, state_of(service).get(Shutdown), last_resort)


def allow_many_connections() -> None:
    """Raise this process's limit on open files: each connection needs one, and each upload another."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def leave() -> None:
    """Exit this process at once, because something hangs that cannot be cancelled."""
    log.error("service killed because it did not stop in time")
    os._exit(1)


class Server(uvicorn.Server):
    """Uvicorn server that shuts down in stages, each with a time limit taken from `stopping`."""

    def __init__(
        self, config: uvicorn.Config, stopping: Shutdown, last_resort: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._last_resort = last_resort
        self._watchdog: threading.Timer | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        times = self._stopping.times
        self.config.timeout_graceful_shutdown = math.ceil(times.requests)
        self._watch_stop()
        cutting = asyncio.create_task(self._cut(times))
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Start the watchdog here too, because a startup that hangs never reaches `shutdown`.
        self._watch_stop()
        super().handle_exit(sig, frame)

    def _watch_stop(self) -> None:
        if self._last_resort is not None and self._watchdog is None:
            # A daemon thread keeps running while the interpreter waits for all other threads at exit.
            self._watchdog = threading.Timer(self._stopping.times.whole, self._last_resort)
            self._watchdog.daemon = True
            self._watchdog.start()

    async def _cut(self, times: StopTimes) -> None:
        """Cancel requests that take too long, then close the connections that remain."""
        await asyncio.sleep(times.answers)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(times.give_back)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class TimedHttpProtocol(HttpToolsProtocol):
    """One connection, with timeouts. Middleware limits the time and size of bodies and the work of a request."""

    # Time from the connection, or from a request's first byte, to the end of its headers.
    head_seconds = 20.0
    # Time to receive the rest of a body after an early response: some clients read it only after sending everything.
    rest_seconds = 60.0
    # The same while the service is being stopped.
    rest_seconds_at_end = 1.0
    # Time within which a client must read at least some of a pending response.
    reading_seconds = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bytes_between = 0
        self._is_whole = True
        self._is_in_body = False
        self._is_last = False
        self._end: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_between += len(data)
        super().data_received(data)
        if self._bytes_between > LONGEST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request is longer than {LONGEST_HEAD_BYTES // 1024} kB.")

    def send_400_response(self, msg: str) -> None:
        # Send only one response per request: the service may have responded before the rest of the body was invalid.
        if not self._is_in_body or not self.cycle.response_started:
            self.transport.write(not_http(msg))
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_whole = False
        self._wait(self.head_seconds)

    def on_headers_complete(self) -> None:
        self._bytes_between = 0
        self._wait(None)
        super().on_headers_complete()
        self._is_in_body = True
        # Closing a connection with unread bytes of a body resets it and loses the response: see `_close_if_done`.
        self._is_last = not self.cycle.keep_alive
        self.cycle.keep_alive = True

    def on_body(self, body: bytes) -> None:
        self._bytes_between = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_between = 0
        self._is_whole, self._is_in_body = True, False
        self._wait(None)
        super().on_message_complete()
        self._close_if_done()

    def on_response_complete(self) -> None:
        if not self._is_whole and self.cycle.response_complete:
            self._wait(self.rest_seconds)
        self._watch_reader()
        super().on_response_complete()
        self._close_if_done()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._look is not None:  # the client reads, so the timeout restarts
            self._look.cancel()
            self._look = None
        self._watch_reader()

    def shutdown(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        if cycle is None or cycle.response_complete:
            super().shutdown()
            return
        # `_close_if_done` closes the connection later: closing it with unread bytes might lose the response.
        self._is_last = True
        self.rest_seconds = self.rest_seconds_at_end

    def _close_if_done(self) -> None:
        """Close the connection after its last request has been received completely and answered."""
        if self._is_last and self._is_whole and self.cycle.response_complete:
            self.transport.close()

    def _wait(self, seconds: float | None) -> None:
        """Abort the connection after this many seconds; None cancels the timeout."""
        if self._end is not None:
            self._end.cancel()
        self._end = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _watch_reader(self) -> None:
        """Start checking that the client reads the response, if that is not running already."""
        if self._look is None:
            self._look_again(0)

    def _look_again(self, before: int) -> None:
        self._look = None
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            return
        if unread == before:
            self.transport.abort()
            return
        self._look = self.loop.call_later(self.reading_seconds, self._look_again, unread)
