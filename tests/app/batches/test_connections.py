"""Batches on real connections: clients that hang up, send too much or too slowly, or watch for a long time."""

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fastapi.routing
import httpx2
import pytest

from cutout.app.app import create_app
from cutout.app.batches import progress
from cutout.app.batches.progress import BatchChange
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.storage.local import LocalStorage
from tests.app.api_client import ANNA, settings_of
from tests.app.batch_client import BATCH, BatchClient, photos
from tests.app.batches.test_batches import nothing_is_left, part
from tests.app.http.test_slow_clients import connected, head, problem
from tests.app.load import call, resident_bytes
from tests.app.load import service as service_process
from tests.app.serving import served
from tests.fakes import PATIENCE, FakeRunner, fake_engine, wait_until

pytestmark = pytest.mark.slow

MB = 1_000_000
FORM = "multipart/form-data; boundary=b"
PHOTO = part('"images"; filename="a.png"', "x")


@dataclass
class House:
    """A service on a socket, in which Anna has credits."""

    address: str
    studio: BatchClient


@contextmanager
def opened_house(folder: Path, redis_url: str, **changes: object) -> Iterator[House]:
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    settings = settings_of(
        database, folder / "data", redis_url=redis_url, batch_per_hour=0, batch_attempts_per_hour=0, **changes
    )
    service = create_app(settings, lambda _: fake_engine())
    with served(service, settings) as address, httpx2.Client(base_url=address, timeout=PATIENCE) as client:
        studio = BatchClient(client, database, FakeRunner())  # type: ignore[arg-type]
        studio.storage = LocalStorage(folder / "data")
        studio.fund("anna", 10_000)
        yield House(address, studio)
    database.close()


@pytest.fixture
def house(tmp_path: Path, redis_url: str) -> Iterator[House]:
    with opened_house(tmp_path, redis_url) as house:
        yield house


def hand_in_head(length: int = 100 * MB) -> bytes:
    return head(BATCH, Content_Type=FORM, Content_Length=str(length), **ANNA)


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """Read until `wanted` has arrived; a test that would hang fails at the connection's timeout."""
    read = b""
    while wanted not in read:
        data = connection.recv(65536)
        assert data, read
        read += data
    return read


def test_who_hangs_up_leaves_nothing(house: House) -> None:
    with connected(house.address) as connection:
        connection.sendall(hand_in_head() + PHOTO + PHOTO + PHOTO[:-20])
        wait_until(lambda: len(house.studio.kept()) == 2)
    wait_until(lambda: house.studio.kept() == [])
    nothing_is_left(house.studio)


def test_who_sends_too_much_is_stopped_at_once(house: House) -> None:
    with connected(house.address) as connection:
        connection.sendall(hand_in_head() + 501 * PHOTO)
        problem(read_until(connection, b'"requestId"'), 400, "BATCH_SIZE")
    with connected(house.address) as connection:
        connection.sendall(hand_in_head(3000 * MB))
        problem(read_until(connection, b'"requestId"'), 413, "BODY_TOO_LARGE")
    wait_until(lambda: house.studio.kept() == [])
    nothing_is_left(house.studio)


def test_who_sends_too_slowly_is_left(tmp_path: Path, redis_url: str) -> None:
    with (
        opened_house(tmp_path, redis_url, upload_seconds=2) as house,
        connected(house.address) as connection,
    ):
        connection.sendall(hand_in_head() + PHOTO + PHOTO)
        wait_until(lambda: len(house.studio.kept()) > 0)
        problem(read_until(connection, b'"requestId"'), 408, "BODY_TOO_SLOW")
        wait_until(lambda: house.studio.kept() == [])
        nothing_is_left(house.studio)


def test_who_stops_watching_is_not_looked_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    watch = progress.watch

    async def seen_to_end(*args: object) -> AsyncIterator[BatchChange]:
        try:
            async for moment in watch(*args):  # type: ignore[arg-type]
                yield moment
        finally:
            ended.set()

    monkeypatch.setattr(progress, "watch", seen_to_end)
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.1)
    batch_id = house.studio.accepted(ANNA, photos(2))
    with connected(house.address) as connection:
        connection.sendall(head(f"{BATCH}/{batch_id}/events", "GET", **ANNA))
        read_until(connection, b"event: progress")
        read_until(connection, b": ping")
        assert not ended.is_set()
    wait_until(ended.is_set)


def test_a_service_that_stops_waits_for_nobody_who_watches(tmp_path: Path, redis_url: str) -> None:
    with opened_house(tmp_path, redis_url) as house:
        batch_id = house.studio.accepted(ANNA, photos(2))
        host, _, port = house.address.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
        connection.sendall(head(f"{BATCH}/{batch_id}/events", "GET", **ANNA))
        seen = read_until(connection, b"event: progress")
    # `served` has waited for the end of the service.
    with connection:
        while data := connection.recv(65536):
            seen += data
    assert b"event: end" not in seen
    assert seen.endswith(b"0\r\n\r\n"), "the answer was cut off"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told as Linux tells it")
def test_a_large_batch_is_in_memory_photo_by_photo(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    photo = (
        part('"images"; filename="a.png"', "").removesuffix(b"\r\n")
        + random.Random(0).randbytes(2 * MB)
        + b"\r\n"
    )
    end = b"--b--\r\n"
    with service_process(tmp_path) as (port, pid):
        peak = idle = resident_bytes(pid)

        async def watched() -> bytes:
            nonlocal peak

            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, resident_bytes(pid))
                    await asyncio.sleep(0.005)

            beside = asyncio.create_task(watch())
            length = 100 * len(photo) + len(end)
            start = head(BATCH, Content_Type=FORM, Content_Length=str(length), Connection="close")
            answer = await asyncio.wait_for(call(port, [start, *100 * [photo], end]), 3 * PATIENCE)
            beside.cancel()
            return answer

        assert asyncio.run(watched()).startswith(b"HTTP/1.1 202 ")
    assert (
        sum(file.stat().st_size for file in (tmp_path / "uploads").rglob("*") if file.is_file()) == 200 * MB
    )
    assert peak - idle < 100 * MB
