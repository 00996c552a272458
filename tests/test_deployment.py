"""The container image and the compose file match the code; these tests need no Docker."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
import yaml  # type: ignore[import-untyped]

from cutout.app.app import create_app
from cutout.app.cli import cli
from cutout.app.config import settings
from cutout.app.config.base import PREFIX
from cutout.app.core.shutdown import StopTimes

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
ENVIRONMENT = dict(re.findall(rf"\b({PREFIX}[A-Z_]+)=(\S+)", DOCKERFILE))


@pytest.fixture
def health_answers() -> Iterator[tuple[int, list[int]]]:
    """Run a stub of the service; yield its port, and a list whose last item is the next status."""
    answers = [200]

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers[-1] if self.path == "/api/health" else 404)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, answers
        server.shutdown()


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_the_settings_of_image_and_services_are_accepted(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = COMPOSE["services"][service].get("environment", {})
    for name, value in (ENVIRONMENT | own).items():
        # A variable without a value is passed on from the host; an empty one counts as unset.
        monkeypatch.setenv(name, value or "")
    settings.load()


def test_the_services_run_commands_that_there_are() -> None:
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert re.findall(r"^CMD \[\"(\w+)\"\]$", DOCKERFILE, re.MULTILINE)[-1] in commands
    assert COMPOSE["services"]["worker"]["command"] in commands


def test_service_and_worker_share_database_queue_and_files_and_may_finish() -> None:
    api, worker = COMPOSE["services"]["api"], COMPOSE["services"]["worker"]
    assert {"DATABASE_URL", "REDIS_URL"} <= api["environment"].keys()
    for shared in ("image", "environment", "volumes", "network_mode"):
        assert api[shared] == worker[shared]
    minutes = {service["stop_grace_period"] for service in (api, worker)}
    assert minutes == {"1m"}
    assert StopTimes().whole <= 30


UNITS = {file.name: file.read_text() for file in sorted((ROOT / "deploy/systemd").glob("*.service"))}


@pytest.mark.parametrize("name", UNITS)
def test_the_units_start_commands_that_there_are(name: str) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNITS[name])
    service = unit["Service"]
    program, command, *arguments = service["ExecStart"].split()
    assert program.endswith("/cutout")
    options = typer.main.get_command(cli).commands[command].params  # type: ignore[attr-defined]
    assert {one for one in arguments if one.startswith("--")} <= {
        opt for param in options for opt in param.opts
    }
    assert command == {"cutout.service": "serve", "cutout-worker@.service": "worker"}[name]
    assert service["Restart"] == "always"
    assert int(service["TimeoutStopSec"]) > StopTimes().whole
    # The service stops its own processes itself.
    assert service.get("KillMode") == ("mixed" if command == "serve" else None)
    # Each of these closes the GPUs' devices, or kills what libraries compile.
    closing = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"}
    assert closing.isdisjoint(service)
    # Units of one user share its objects of System V and POSIX.
    assert "RemoveIPC" not in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this host")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(name: str, tmp_path: Path) -> None:
    """It reads each unit, with a program in place of the one that is not installed here."""
    (tmp_path / name).write_text(UNITS[name].replace("/opt/cutout/bin/cutout", sys.executable))
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if name.partition(".")[0] in line] == []
    assert done.returncode == 0, done.stderr


def test_the_image_does_not_run_as_root() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\S+)", final, re.MULTILINE)[-1] not in ("root", "0")


def test_the_health_check_tells_a_service_that_can_work(health_answers: tuple[int, list[int]]) -> None:
    port, answers = health_answers
    found = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    program, *arguments = json.loads(found[1])
    assert program == "python"
    service = create_app(settings.load(auth="off"))
    asked = re.search(r"/api/[\w/-]+", arguments[-1])
    assert asked
    assert asked[0] in service.openapi()["paths"]

    environment = os.environ | {"CUTOUT_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}

    def check() -> int:
        return subprocess.run(
            [sys.executable, *arguments], env=environment, check=False, capture_output=True
        ).returncode

    assert check() == 0
    answers.append(503)
    assert check() == 1


def test_every_package_reaches_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    passed = (ROOT / ".dockerignore").read_text().split()
    for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert f"!{pattern.removesuffix('*')}" in passed
