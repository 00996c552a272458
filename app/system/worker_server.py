"""The `/metrics` of a worker, at a port of its own. Imported only if one is set."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from cutout.app.config.settings import Settings
from cutout.app.http import problem_details
from cutout.app.http.state import AppState
from cutout.app.observability.exposition import Exposition
from cutout.app.system import metrics
from cutout.app.system.worker_metrics import PortTaken


@contextmanager
def serving(exposition: Exposition, port: int, settings: Settings) -> Iterator[int]:
    """Serve `/metrics` at a port within the block; yield the port, which is any free one for 0.

    As with the service's, this machine may read them, and others with `CUTOUT_METRICS_TOKEN`. Without a token only this
    machine can connect.

    Raises:
        PortTaken: the port cannot be listened on.

    """
    listening = _listen(port, everywhere=settings.metrics_token is not None)
    service = FastAPI(title="Metrics of a worker", openapi_url=None)
    state = service.state.parts = AppState()
    state.put(Settings, settings)
    state.put(Exposition, exposition)
    state.put(problem_details.ErrorShapes, problem_details.ErrorShapes({}))
    problem_details.install(service)
    service.include_router(metrics.router)
    config = uvicorn.Config(service, ws="none", lifespan="off", log_config=None, proxy_headers=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="metrics", daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(2.0)
        listening.close()


def _listen(port: int, *, everywhere: bool) -> socket.socket:
    try:
        if not everywhere:
            return socket.create_server(("127.0.0.1", port))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise PortTaken(
            f"The metrics of this worker cannot be served at port {port} ({error.strerror}). Each worker of a machine"
            " needs a CUTOUT_WORKER_METRICS_PORT of its own."
        ) from error
