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
from typing import Any

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
COMPOSE_FILES = ("compose.yaml", "compose.cpu.yaml")
IMAGE_ENVIRONMENT = dict(re.findall(rf"\b({PREFIX}[A-Z_]+)=([\w/.-]+)", DOCKERFILE))
# The one variable that comes from a build argument.
IMAGE_ENVIRONMENT |= {"CUTOUT_DEVICE": re.findall(r"^ARG DEVICE=(\w+)$", DOCKERFILE, re.MULTILINE)[-1]}


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


def compose(file: str) -> dict[str, dict[str, Any]]:
    """Return the services of a Compose file, with what they extend."""
    services = yaml.safe_load((ROOT / file).read_text())["services"]
    for name, service in services.items():
        if extended := service.pop("extends", None):
            services[name] = compose(extended["file"])[extended["service"]] | service
    return services  # type: ignore[no-any-return]


def env_files(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables of those env_files of a service that are in the repository."""
    found: dict[str, str] = {}
    for env_file in service.get("env_file", ()):
        file = ROOT / env_file["path"]
        if env_file.get("required", True) or file.is_file():
            found |= dict(re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE))
    return found


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_the_settings_of_image_and_services_are_accepted(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("api", "worker"):
        service = compose(file)[name]
        variables = IMAGE_ENVIRONMENT | env_files(service) | service["environment"]
        assert variables["CUTOUT_AUTH"] == "off"
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        settings.load()


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_a_service_of_compose_writes_to_its_volumes_only_and_has_no_rights(file: str) -> None:
    declared = yaml.safe_load((ROOT / file).read_text())["volumes"]
    for name, service in compose(file).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # A port without an address would be open to the network.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.search(r":v?\d+\.\d+\.?\d*$|^cutout:(gpu|cpu)$", service["image"]), service["image"]
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in declared or (source.startswith("./deploy/") and volume.endswith(":ro")), volume
    # Whatever the image's variables name is in a volume.
    writable = [volume.partition(":")[2] for volume in compose(file)["api"]["volumes"]]
    caches = re.findall(r"\b(?:\w+_CACHE\w*|HF_HOME|CUTOUT_\w+_DIR)=(\S+)", DOCKERFILE)
    runtime = [folder for folder in caches if not folder.startswith(("/tmp", "/opt/weights"))]
    assert len(runtime) == 6
    assert all(folder.startswith(tuple(writable)) for folder in runtime)


def test_both_compose_files_have_the_same_services_but_for_the_gpu() -> None:
    on_gpu, on_cpu = map(compose, COMPOSE_FILES)
    assert on_gpu.keys() == on_cpu.keys()
    for name in on_gpu:
        differing = {"image", "build", "deploy"} if name in ("api", "worker") else set()
        assert {key: on_gpu[name][key] for key in on_gpu[name].keys() - differing} == {
            key: on_cpu[name][key] for key in on_cpu[name].keys() - differing
        }
        assert "deploy" not in on_cpu[name]
    assert on_cpu["api"]["build"]["args"]["DEVICE"] == "cpu"
    asked = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert on_cpu["api"]["build"]["args"].keys() | on_gpu["api"]["build"]["args"].keys() <= asked


def test_the_image_is_built_from_hashes_and_from_no_other_file() -> None:
    installs = re.findall(r"-m pip --python \S+ install[^&\n]*", DOCKERFILE)
    assert len(installs) == 2
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    assert all("--no-deps" in one for one in installs)
    locks = re.findall(r"^ARG LOCK=(\w+)$", DOCKERFILE, re.MULTILINE)
    locks += re.findall(r"LOCK[:=-]+(cpu[\w-]*)", (ROOT / "compose.cpu.yaml").read_text())
    assert set(locks) == {"gpu", "cpu", "cpu-slim"}
    for lock in locks:
        text = (ROOT / f"requirements/{lock}.lock").read_text()
        pins = re.findall(r"^[\w.-]+==.*\\\n +--hash=sha256:\w{64}", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 50
        # With it the project itself is built, without a look at an index.
        assert re.search(r"^setuptools==", text, re.MULTILINE)


def test_the_services_run_commands_that_there_are() -> None:
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert re.findall(r"^CMD \[\"(\w+)\"\]$", DOCKERFILE, re.MULTILINE)[-1] in commands
    assert compose("compose.yaml")["worker"]["command"] in commands


def test_service_and_worker_share_database_queue_and_files_and_may_finish() -> None:
    services = compose("compose.yaml")
    api, worker = services["api"], services["worker"]
    for shared in ("image", "environment", "env_file", "volumes", "network_mode"):
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
    # By number: Kubernetes does not look a name up.
    assert re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)[-1] == "10001"
    assert "USER" not in final


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
