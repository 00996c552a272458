"""Run the service in its own process, and put load on it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

START_SECONDS = 120


@dataclass(frozen=True)
class Served:
    """A running service: its API's URL, the model and backend of its tier `basic`, the headers for its callers, and the id of
    its process.
    """

    api: str
    basic: str
    headers: dict[str, str]
    process: int

    def form(self, photo: bytes) -> dict[str, Any]:
        """Return the arguments of a request for a PNG, encoded once so that encoding is not part of the measurement."""
        return self.post(
            "/api/background-remover/remove", files={"image": ("photo.jpg", photo, "image/jpeg")}
        )

    def post(self, path: str, accept: str = "image/png", **body: Any) -> dict[str, Any]:
        """Return the arguments of a request for a picture at any path of the service, encoded once."""
        url = self.api.removesuffix("/api") + path
        written = httpx2.Request("POST", url, **body)
        kind = {"Content-Type": written.headers["Content-Type"]}
        return {
            "url": url,
            "content": written.read(),
            "headers": {**self.headers, **kind, "Accept": accept},
        }


@dataclass
class Load:
    """Measurements of the callers: seconds per response, and number of responses by status code."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wall: float = 0.0


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """Run `benchmarks.sides.service` with these arguments for the duration of the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sides.service", str(port), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CUTOUT_LOG_FORMAT": "json"},
    )
    try:
        assert process.stdout is not None
        headers = (
            {"X-Api-Key": process.stdout.readline().decode().strip()} if "--database" in arguments else {}
        )
        api = f"http://127.0.0.1:{port}/api"
        yield Served(api, _wait_for(f"{api}/health", process), headers, process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(health: str, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx2.get(health)
        except httpx2.TransportError:
            time.sleep(0.2)
            continue
        if answer.status_code == 200:
            basic = answer.json()["tiers"]["basic"]
            return f"{basic['model']} on {basic['backend']}"
    sys.exit("The service did not start.")


async def put_under(service: Served, callers: int, pictures: int, photo: bytes) -> Load:
    """Send `pictures` requests from `callers` concurrent callers."""
    load, form = Load(), service.form(photo)
    left = iter(range(pictures))

    async def call(client: httpx2.AsyncClient) -> None:
        for _ in left:
            start = time.perf_counter()
            answer = await client.post(**form)
            load.seconds.append(time.perf_counter() - start)
            load.statuses[answer.status_code] += 1

    limits = httpx2.Limits(max_connections=callers)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
        start = time.perf_counter()
        await asyncio.gather(*(call(client) for _ in range(callers)))
        load.wall = time.perf_counter() - start
    return load
