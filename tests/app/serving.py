"""Run a service on a real socket, in a thread of the test process."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from cutout.app.config.settings import Settings
from cutout.app.http.uvicorn_server import server_of
from tests.fakes import PATIENCE, wait_until


@contextmanager
def served(service: FastAPI, settings: Settings) -> Iterator[str]:
    """Serve as `cutout serve` does; yield the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(service, settings)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the server does not stop"
