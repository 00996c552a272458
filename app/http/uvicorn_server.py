"""The HTTP server, and its patience: callers who send or read too slowly, or never, are left."""

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

# Of a request's line and headers, of what ends a chunked body, and of all between two pieces of one.
LONGEST_HEAD_BYTES = 64 * 1024
MOST_FILES = 8192


def server_of(
    service: FastAPI, settings: Settings, last_resort: Callable[[], None] | None = None
) -> uvicorn.Server:
    """Return the server of a service, which does not run yet. `last_resort` is called where its stop takes too long."""
    config = uvicorn.Config(
        service,
        host=settings.host,
        port=settings.port,
        http=TimedHttpProtocol,
        ws="none",
        log_config=None,
        # It would believe whoever calls from 127.0.0.1; the service has its own setting.
        proxy_headers=False,
    )
    return Server(config, state_of(service).get(Shutdown), last_resort)


def allow_many_connections() -> None:
    """Let this process have more open files than a shell allows: each connection is one, each upload another."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def leave() -> None:
    """End this process at once: something hangs that nobody can break off."""
    log.error("service killed, as it did not stop in time")
    os._exit(1)


class Server(uvicorn.Server):
    """Waits at its end for answers that are on their way, and for each part of it no longer than `stopping` says."""

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
        # A start that hangs has to end as well, and comes to no shutdown.
        self._watch_stop()
        super().handle_exit(sig, frame)

    def _watch_stop(self) -> None:
        if self._last_resort is not None and self._watchdog is None:
            # Goes on beside the end of the interpreter, which waits for every thread.
            self._watchdog = threading.Timer(self._stopping.times.whole, self._last_resort)
            self._watchdog.daemon = True
            self._watchdog.start()

    async def _cut(self, times: StopTimes) -> None:
        """End what goes on too long, first by asking it to."""
        await asyncio.sleep(times.answers)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(times.give_back)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class TimedHttpProtocol(HttpToolsProtocol):
    """One connection. A body's own time and size are the service's to bound, and so is a request's work."""

    # From the connection, or a request's first byte, to the end of its headers.
    head_seconds = 20.0
    # For the rest of a body that was answered before it had come: an answer to who hears only after he has spoken.
    rest_seconds = 60.0
    # The same, once the service is being stopped.
    rest_seconds_at_end = 1.0
    # For any progress of an answer that is not read.
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
        # One request has one answer: where the service gave its own before the rest of the body went wrong, that is it.
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
        # Closed with unread bytes of a body, a connection is reset, and its answer lost: see `_close_if_done`.
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
        if self._look is not None:  # he reads; the time begins anew
            self._look.cancel()
            self._look = None
        self._watch_reader()

    def shutdown(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        if cycle is None or cycle.response_complete:
            super().shutdown()
            return
        # Closed by `_close_if_done`: closed with bytes that nobody has read, the answer might be lost.
        self._is_last = True
        self.rest_seconds = self.rest_seconds_at_end

    def _close_if_done(self) -> None:
        """Close where the caller wants no more, once his request has come whole and is answered."""
        if self._is_last and self._is_whole and self.cycle.response_complete:
            self.transport.close()

    def _wait(self, seconds: float | None) -> None:
        """End the connection after so many seconds, or no longer do."""
        if self._end is not None:
            self._end.cancel()
        self._end = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _watch_reader(self) -> None:
        """While there is something to read, see to it that it is being read."""
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
