"""A TCP proxy before a server, which can be made to misbehave."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
CUT_AT = 2000


class Fault(StrEnum):
    """What is wrong with the server behind the proxy."""

    NONE = "none"
    STALL = "stall"  # it takes requests and never answers
    RESET = "reset"  # it resets connections
    SLOW_DOWN = "503 SlowDown"
    CUT = "cut"  # an answer ends after some bytes, and so does a request


class Proxy:
    """Forwards connections to a port of this host. A changed `fault` also breaks open connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.fault = Fault.NONE
        self.broken = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Misbehave during the block."""
        self.fault = fault
        self._hang_up()
        try:
            yield
        finally:
            self.fault = Fault.NONE
            self._hang_up()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._hang_up()

    def _hang_up(self) -> None:
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self.fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        self._open.add(client)
        self.broken += fault is not Fault.NONE
        with client, suppress(OSError):
            if fault is Fault.RESET:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif fault is Fault.STALL:
                while client.recv(65536):
                    pass
            elif fault is Fault.SLOW_DOWN:
                client.recv(65536)
                head = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                client.sendall(head % len(SLOW_DOWN) + SLOW_DOWN)
            else:
                self._forward(client, CUT_AT if fault is Fault.CUT else None)
        self._open.discard(client)

    def _forward(self, client: socket.socket, most: int | None) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            self._open.add(server)
            back = threading.Thread(target=_copy, args=(server, client, most), daemon=True)
            back.start()
            _copy(client, server, most)
            back.join()
            self._open.discard(server)


def _copy(source: socket.socket, target: socket.socket, most: int | None) -> None:
    copied = 0
    with suppress(OSError):
        while data := source.recv(65536 if most is None else min(65536, max(1, most - copied))):
            target.sendall(data)
            copied += len(data)
            if most is not None and copied >= most:
                break
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
