"""The service on a fake network, and the real service in its own process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.config import settings as app_settings
from cutout.app.config.settings import DATABASE_FILE
from cutout.inference.weights.store import ModelsFolder
from tests.fakes import PATIENCE, fake_engine
from tests.http import answers_ok
from tests.processes import wait_ready


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Hash passwords with argon2id as the service does, but with little memory and in one pass."""
    cheap = PasswordHash([Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(accounts, "password_hasher", cheap)
        yield


@pytest.fixture
def client(tmp_path: Path, migrated_file: Path) -> Iterator[TestClient]:
    shutil.copy(migrated_file, tmp_path / DATABASE_FILE)
    settings = app_settings.load(auth="off", data_dir=tmp_path, max_upload_mb=1)
    service = create_app(settings, make_engine=lambda _: fake_engine())
    with TestClient(service, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def service(weights: ModelsFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the real service on the real weights, as `make serve` does; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("service")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOUT_")}
    environment |= {
        "CUTOUT_AUTH": "off",
        "CUTOUT_DEVICE": "cpu",
        "CUTOUT_DATA_DIR": str(folder),
        "CUTOUT_MODELS_DIR": str(weights.path),
        # A worker would load the models a second time.
        "CUTOUT_WORKERS": "0",
        # Tests have photos on this machine.
        "CUTOUT_FETCH_ALLOW_NETWORKS": "127.0.0.1/32",
    }
    log = folder / "log"
    with log.open("w") as out:
        command = [
            sys.executable,
            "-c",
            "from cutout.app.cli import main; main()",
            "serve",
            "--port",
            str(port),
        ]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_ready(process, lambda: answers_ok(address), log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM), log.read_text()
