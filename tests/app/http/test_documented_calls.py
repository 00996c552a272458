"""Every `curl` command of the documentation is run as written, against a running service."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.config import settings as app_settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.http.state import state_of
from cutout.app.storage.base import Storage
from tests.app.api_client import ADMIN, API, bearer, service_settings
from tests.fakes import PATIENCE, fake_engine, photo_bytes
from tests.web import PUBLIC, answer, open_web
from tests.worker.worker_fixtures import context_of, work_off

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
API_PAGE, README = ROOT / "docs/api.md", ROOT / "README.md"
# Hosts in the documentation that are replaced by the test's own.
PHOTO_URL, MADE_SERVE = "https://example.com/photo.jpg", "http://127.0.0.1:8000"
# The login used in the documentation.
EMAIL, PASSWORD = "anna@shop.example", "correct horse battery"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this host")


def shell_lines(page: Path) -> list[str]:
    """Return a page's shell commands, with continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def curls(page: Path) -> list[str]:
    return [line for line in shell_lines(page) if line.startswith("curl ")]


@dataclass
class Seen:
    """ASGI wrapper that records which calls were made."""

    service: ASGIApp
    calls: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.service(scope, receive, send)
        if "route" in scope:
            self.calls.add(f"{scope['method']} {scope['route'].path_format}")


@contextmanager
def served(service: ASGIApp) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(service, log_config=None, log_level="error", ws="none"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def run(line: str, folder: Path, variables: dict[str, str]) -> None:
    """Run a line of the documentation in a shell, and check its status: the one in the line's comment, else 200."""
    script = "set -eu\ncurl() { command curl -sS -w '%{stderr}%{http_code}' \"$@\"; }\n" + line
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr!r}"
    status = int(done.stderr)
    behind = re.search(r"# (\d{3})$", line)
    assert status == int(behind[1] if behind else 200), f"{line}\n{done.stdout[:500]!r}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the photos that the documentation uploads."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("photo.jpg", "another.jpg"):
        (folder / name).write_bytes(photo_bytes(file_format="JPEG"))
    strokes = Image.new("L", (40, 30))
    strokes.paste(255, (18, 12, 22, 16))
    strokes.save(folder / "strokes.png")
    return folder


def shop_service(folder: Path, redis_url: str | None = None) -> FastAPI:
    """Build a service with accounts, one of them local, and with batches if it has a queue."""
    url = f"sqlite:///{folder / 'cutout.db'}"
    database = Database(url)
    migrate.migrate(database)
    with database.begin() as session:
        accounts.create_local(session, EMAIL, PASSWORD)
    database.close()
    settings = service_settings(
        url, folder / "data", fetch_allow_networks=f"{PUBLIC}/32", redis_url=redis_url
    )
    return create_app(settings, make_engine=lambda _: fake_engine())


def variables_of(address: str, work_off: Callable[[], None]) -> dict[str, str]:
    """Create what the documented calls refer to: API keys of a user and an admin, and a resource for each id.
    `work_off` processes the waiting batches.
    """
    with httpx2.Client(base_url=address, timeout=PATIENCE) as client:

        def post(path: str, body: dict[str, Any] | None, who: dict[str, str], **more: Any) -> dict[str, Any]:
            told: dict[str, Any] = client.post(path, json=body, headers=who, **more).raise_for_status().json()
            return told

        key = post("/api/auth/keys", {"name": "shop"}, bearer("user-7"))
        mine = {"X-Api-Key": key["key"]}
        pro = post(f"{API}/subscription", {"plan": "pro", "paymentId": "inv-41"}, mine)
        post(f"{API}/admin/payments/{pro['id']}/confirm", None, ADMIN)
        job = post(f"{API}/remove", None, mine, files={"image": photo_bytes()})
        bought = post(f"{API}/credits", {"credits": 500, "paymentId": "inv-39"}, mine)
        post(f"{API}/admin/payments/{bought['id']}/confirm", None, ADMIN)
        photos = [("images", (f"{number}.png", photo_bytes(seed=number))) for number in range(2)]
        batch = post(f"{API}/batch", None, mine, files=photos)
        work_off()
        ended = client.get(batch["statusUrl"], headers=mine).raise_for_status().json()
        return {
            "URL": address,
            "KEY": key["key"],
            "ADMIN_KEY": post("/api/auth/keys", {"name": "office"}, ADMIN)["key"],
            "JOB": job["jobId"],
            "RESULT_URL": job["resultUrl"],
            "PURCHASE": post(f"{API}/credits", {"credits": 5, "paymentId": "inv-40"}, mine)["id"],
            "KEY_ID": post("/api/auth/keys", {"name": "lost"}, mine)["id"],
            "BATCH": batch["batchId"],
            "ZIP_URL": ended["zipUrl"],
            "BATCH_IN_WORK": post(f"{API}/batch", None, mine, files=photos)["batchId"],
        }


@needs_curl
def test_every_call_in_the_documentation_works(folder: Path, tmp_path: Path, redis_url: str) -> None:
    service = shop_service(tmp_path, redis_url)
    database: Database = state_of(service).get(Database)

    def work() -> None:
        with context_of(database, state_of(service).get(Storage)) as context:
            work_off(context)

    seen = Seen(service)
    with served(seen) as address, open_web() as web:
        web.pages["/photo.jpg"] = answer((folder / "photo.jpg").read_bytes())
        variables = variables_of(address, work)
        with database.begin() as session:
            variables["USER_ID"] = str(accounts.by_key(session, variables["KEY"]).id)
        set_there = {line.partition("=")[0] for line in shell_lines(API_PAGE) if re.match("[A-Z_]+=", line)}
        assert set_there == set(variables), "The documentation's variables and the test's are others."
        seen.calls.clear()
        for line in curls(API_PAGE):
            run(line.replace(PHOTO_URL, f"http://{PUBLIC}:{web.port}/photo.jpg"), folder, variables)
        assert web.asked == [(PUBLIC, "/photo.jpg")]
    there = {
        f"{method} {route.path}"
        for route in iter_route_contexts(service.routes)
        if isinstance(route.original_route, APIRoute) and route.original_route.include_in_schema
        for method in route.methods or ()
    }
    assert there == seen.calls, "These have no curl in docs/api.md, or are called by none."


@needs_curl
def test_the_readmes_call_works_on_what_make_serve_starts(folder: Path, tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path / "var")
    (line,) = curls(README)
    assert MADE_SERVE in line
    with served(create_app(settings, make_engine=lambda _: fake_engine())) as address:
        run(line.replace(MADE_SERVE, address), folder, {})
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


@needs_curl
def test_of_a_batch_that_is_refused_nothing_is_sent(folder: Path, tmp_path: Path) -> None:
    with (folder / "large.jpg").open("wb") as large:
        large.truncate(1_500_000_000)
    with served(shop_service(tmp_path)) as address:
        sending = ["curl", "-sS", "-F", "images=@large.jpg", "-w", "%{stderr}%{http_code} %{size_upload}"]
        token = f"Authorization: {bearer('user-7')['Authorization']}"
        command = [*sending, "-H", token, f"{address}{API}/batch"]
        done = subprocess.run(command, check=False, cwd=folder, capture_output=True, timeout=PATIENCE)
    status, sent = map(int, done.stderr.split())
    assert status == 503
    assert sent < 10_000_000
    assert b"QUEUE_UNAVAILABLE" in done.stdout
