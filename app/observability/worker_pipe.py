"""Pipes through which a service asks the workers that it has started for their metrics.

A pipe has no address, so nobody else can read it, and it ends with the process. A worker that hangs delays nothing: the
service waits for all of them together, for at most `PATIENCE_SECONDS`.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait

import structlog

log = structlog.get_logger()

PATIENCE_SECONDS = 1.0
ASK = b"?"


class WorkerPipe:
    """The service's end of the pipe of one worker, which is another process after each restart. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: Connection | None = None
        self._theirs: Connection | None = None
        self._is_asked = False

    def open(self) -> int:
        """Make a pipe for a process that is about to start; return the file descriptor of its end."""
        self.close()
        with self._lock:
            ours, theirs = socket.socketpair()
            # A process that is stopped in the middle of its answer would hold this thread for ever.
            limit = struct.pack("ll", *divmod(round(1e6 * PATIENCE_SECONDS), 1_000_000))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, limit)
            self._ours, self._theirs = Connection(ours.detach()), Connection(theirs.detach())
            self._is_asked = False
            return self._theirs.fileno()

    def started(self) -> None:
        """Close the process's end here, once the process has it: so the pipe ends with the process."""
        with self._lock:
            if self._theirs is not None:
                self._theirs.close()
                self._theirs = None

    def close(self) -> None:
        """Close the pipe."""
        self.started()
        with self._lock:
            if self._ours is not None:
                self._ours.close()
                self._ours = None

    def ask(self) -> Connection | None:
        """Ask the process for its metrics. Return the connection on which to wait; None if it cannot be asked."""
        with self._lock:
            if self._ours is None:
                return None
            try:
                if self._is_asked and self._ours.poll():  # a late answer to an earlier question
                    self._ours.recv_bytes()
                    self._is_asked = False
                if not self._is_asked:
                    self._ours.send_bytes(ASK)
                    self._is_asked = True
            except (OSError, EOFError):
                return None
            return self._ours

    def answer(self) -> bytes | None:
        """Return the answer that has arrived; None if the process has ended instead."""
        with self._lock:
            try:
                if self._ours is None or not self._ours.poll():
                    return None
                self._is_asked = False
                return self._ours.recv_bytes()
            except (OSError, EOFError):
                return None


def ask_all(pipes: Mapping[str, WorkerPipe], seconds: float = PATIENCE_SECONDS) -> dict[str, bytes | None]:
    """Ask all workers at once; return the answer of each, or None for those that do not answer in time."""
    answers: dict[str, bytes | None] = dict.fromkeys(pipes)
    asked = {connection: name for name, pipe in pipes.items() if (connection := pipe.ask()) is not None}
    deadline = time.monotonic() + seconds
    while asked and (left := deadline - time.monotonic()) > 0:
        try:
            ready = wait(list(asked), left)
        except (OSError, ValueError):  # closed meanwhile, as a worker is restarted
            break
        for one in ready:
            assert isinstance(one, Connection)
            name = asked.pop(one)
            answers[name] = pipes[name].answer()
    return answers


def answer_service(descriptor: int, text: Callable[[], bytes]) -> None:
    """Answer the service's questions on a thread, with what `text` returns, for as long as it asks."""
    connection = Connection(descriptor)

    def run() -> None:
        try:
            while True:
                connection.recv_bytes()
                connection.send_bytes(text())
        except (EOFError, OSError):  # the service has ended
            pass
        except Exception as error:
            log.error("worker: its metrics cannot be told", detail=repr(error))
            raise
        finally:
            connection.close()

    threading.Thread(target=run, name="metrics", daemon=True).start()
