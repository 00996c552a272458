"""The service on a fake network, and the real one in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from app import settings as app_settings
from app.main import create_app
from inference.folder import ModelsFolder
from tests.app.databases import (
    _nothing_is_waited_for_in_a_transaction,
    database,
    postgresql,
    postgresql_url,
    redis_url,
)
from tests.app.shop import shop
from tests.app.stores import s3, s3_server
from tests.fakes import fake_engine

__all__ = [
    "_nothing_is_waited_for_in_a_transaction",
    "database",
    "postgresql",
    "postgresql_url",
    "redis_url",
    "s3",
    "s3_server",
    "shop",
]

START_SECONDS = 60


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = app_settings.load(auth="off", data_dir=tmp_path, max_upload_mb=1)
    service = create_app(settings, make_engine=lambda _: fake_engine())
    with TestClient(service, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def service(weights: ModelsFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the real service on the real weights, as `make serve` does; the address it answers on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("service")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOUT_")}
    environment |= {
        "CUTOUT_AUTH": "off",
        "CUTOUT_DEVICE": "cpu",
        "CUTOUT_DATA_DIR": str(folder),
        "CUTOUT_MODELS_DIR": str(weights.path),
        # A worker would load the models once more.
        "CUTOUT_WORKERS": "0",
    }
    log = folder / "log"
    with log.open("w") as out:
        command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not answers_ok(address):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the service did not come up:\n{log.read_text()}")
            time.sleep(0.2)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()


def answers_ok(address: str) -> bool:
    """Tell whether a service can make pictures.

    A client of httpx2's reads all authorities' certificates when it is made: 30 ms of a core for each question.
    """
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
