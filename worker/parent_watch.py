"""Detection by a worker that the service which started it is gone, even if the service was killed."""

import os
import signal
import sys
import threading

import structlog

log = structlog.get_logger()

# As long as the service itself would wait for a worker; see `cutout.app.embedded.supervisor`.
FINISH_SECONDS = 30.0


def follow(stopping: threading.Event) -> None:
    """Send SIGTERM to this process when its stdin ends, unless it is already `stopping`.

    The process exits with 1 if it is still running `FINISH_SECONDS` later.
    """
    threading.Thread(target=_wait, args=[stopping], name="lifeline", daemon=True).start()


def _wait(stopping: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    log.warning("worker: the service has ended")
    if not stopping.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    over = threading.Timer(FINISH_SECONDS, os._exit, [1])
    over.daemon = True
    over.start()
