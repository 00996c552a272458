"""The service under load, over HTTP on loopback: pictures a second, and how long callers wait.

The service runs in a process of its own, the callers in another, each asking for the next picture once it has the last.
Expected with a network of 20 ms a photo: at one caller 20 ms and little more; from a few callers on the network's own
50 pictures a second, and each caller waits his turn. On this host's own engine the same, in its own time.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2
import numpy as np

from benchmarks import inputs
from benchmarks.report import Table, publish

START_SECONDS = 120
# Callers, and pictures they ask for together: of an engine that waits 20 ms a photo, and of this host's own.
WAITING_MS, WAITING_LOADS, WAITING_MEGAPIXELS = 20, ((1, 60), (8, 200), (32, 400)), 0.005
OWN_LOADS, OWN_MEGAPIXELS = ((1, 4), (8, 16), (32, 40)), 2.0


@dataclass
class Load:
    """What callers saw: the seconds of each picture, and answers by status."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wall: float = 0.0


def run() -> None:
    """Measure, print and save."""
    rows, figures = [], {}
    for label, arguments, loads, megapixels in (
        (f"{WAITING_MS} ms a photo", [str(WAITING_MS)], WAITING_LOADS, WAITING_MEGAPIXELS),
        ("this host's own", [], OWN_LOADS, OWN_MEGAPIXELS),
    ):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.sides.service", str(port), *arguments]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CUTOUT_LOG_FORMAT": "json"},
        )
        try:
            address = f"http://127.0.0.1:{port}/api"
            model = wait_for(f"{address}/health", process)
            for callers, pictures in loads:
                load = asyncio.run(
                    put_under(address, callers, pictures, inputs.jpeg("astronaut", megapixels))
                )
                quantiles = [float(np.quantile(load.seconds, share)) for share in (0.5, 0.95, 0.99)]
                statuses = ", ".join(f"{count} × {status}" for status, count in load.statuses.items())
                rows.append(
                    [
                        label if arguments else f"{label}, {model}",
                        f"{megapixels:g}",
                        str(callers),
                        f"{pictures / load.wall:.3g}",
                        *(f"{1000 * seconds:.0f} ms" for seconds in quantiles),
                        statuses,
                    ]
                )
                figures[f"{label}/{callers}"] = {
                    "pictures_per_s": pictures / load.wall,
                    "p50_s": quantiles[0],
                    "p95_s": quantiles[1],
                    "p99_s": quantiles[2],
                    "statuses": dict(load.statuses),
                }
                print(", ".join(rows[-1]), flush=True)
        finally:
            process.terminate()
            process.wait()
    table = Table(
        "POST /remove, tier basic, JPEG to PNG",
        ["network", "MP", "callers", "pictures/s", "median", "95th", "99th", "answers"],
        rows,
    )
    publish("service", [table], {"loads": figures})


def wait_for(health: str, process: "subprocess.Popen[bytes]") -> str:
    """Wait until the service answers; what serves `basic` there."""
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
    sys.exit("The service did not come up.")


async def put_under(address: str, callers: int, pictures: int, photo: bytes) -> Load:
    """Ask for `pictures` pictures, `callers` at a time."""
    load = Load()
    left = iter(range(pictures))

    async def call(client: httpx2.AsyncClient) -> None:
        for _ in left:
            start = time.perf_counter()
            answer = await client.post(
                f"{address}/background-remover/remove",
                files={"image": ("photo.jpg", photo, "image/jpeg")},
                headers={"Accept": "image/png"},
            )
            load.seconds.append(time.perf_counter() - start)
            load.statuses[answer.status_code] += 1

    limits = httpx2.Limits(max_connections=callers)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
        start = time.perf_counter()
        await asyncio.gather(*(call(client) for _ in range(callers)))
        load.wall = time.perf_counter() - start
    return load
