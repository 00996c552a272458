"""A stopping service exits in time whatever its callers do, and leaves no work half done."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from cutout.app.app import create_app
from cutout.app.bootstrap import LOCAL_ADMIN_CREDITS
from cutout.app.config import settings as app_settings
from cutout.app.core.shutdown import Shutdown, StopTimes
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, User
from cutout.app.embedded import supervisor
from cutout.app.http.state import AppState, state_of
from cutout.app.http.uvicorn_server import server_of
from tests.app.http.test_slow_clients import (
    PART,
    PICTURE_BYTES,
    connected,
    head,
    problem,
    read_to_end,
    small_window,
    upload,
)
from tests.app.serving import served
from tests.fakes import FakeRunner, fake_engine, files_below, held_until, photo_bytes, wait_until

pytestmark = pytest.mark.slow

REMOVE, BATCH = "/api/background-remover/remove", "/api/background-remover/batch"
TIMES = StopTimes(uploads=0.2, answers=0.6, give_back=0.4, workers=0.1, closing=0.1, queue=0.1)


def uploads(folder: Path) -> list[Path]:
    return files_below(folder / "uploads")


def half_a_batch() -> bytes:
    photo = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
        + photo_bytes()
        + b"\r\n"
    )
    return (
        head(BATCH, Content_Type="multipart/form-data; boundary=b", Content_Length="100000") + photo + photo
    )


def test_nobody_holds_up_the_end(tmp_path: Path, redis_url: str) -> None:
    """Each of these callers would have kept the service alive for half a minute, two minutes or for ever."""
    settings = app_settings.load(auth="off", data_dir=tmp_path, redis_url=redis_url, workers=0)
    over, at_work = threading.Event(), threading.Event()

    def hold() -> None:
        at_work.set()
        held_until(over, 120)

    runner = FakeRunner()
    service = create_app(settings, lambda _: fake_engine(runner))
    state_of(service).get(Shutdown).times = TIMES
    answers: dict[str, bytes] = {}

    def hear_of_photo() -> None:
        try:
            answers["photo"] = read_to_end(photo)
        finally:
            over.set()  # A device that hangs forever is left to the last resort.

    with ExitStack() as stack:
        with served(service, settings) as address:
            upload_half, batch_half, idle, photo = (stack.enter_context(connected(address)) for _ in range(4))
            slow = stack.enter_context(small_window(address))
            job = httpx2.post(f"{address}{REMOVE}", files={"image": photo_bytes()}).json()
            (tmp_path / "results" / f"{job['jobId']}.png").write_bytes(bytes(PICTURE_BYTES))
            slow.sendall(head(job["resultUrl"], "GET"))
            runner.before = hold
            body = PART + photo_bytes() + b"\r\n--b--\r\n"
            photo.sendall(upload(len(body)) + body)
            assert at_work.wait(60)
            upload_half.sendall(upload(100_000) + PART)
            batch_half.sendall(half_a_batch())
            idle.sendall(b"GET / HTTP/1.1\r\nHost: local")
            wait_until(lambda: bool(uploads(tmp_path)), 60)
            hearing = threading.Thread(target=hear_of_photo)
            hearing.start()
        # The service has exited.
        hearing.join(60)
        for name, connection in (("upload", upload_half), ("batch", batch_half)):
            answers[name] = read_to_end(connection)
        assert read_to_end(idle) == b""
        assert len(read_to_end(slow)) < PICTURE_BYTES
    assert set(answers) == {"upload", "batch", "photo"}
    for answer in answers.values():
        assert "is stopping" in str(problem(answer, 503, "OVERLOADED")["detail"])
        assert b"retry-after: 10" in answer.lower()
    assert uploads(tmp_path) == []
    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    with database.read() as session:
        statuses = session.scalars(select(Job.status)).all()
        balance = session.scalars(select(User.balance)).one()
    database.close()
    assert sorted(statuses) == [Status.COMPLETED, Status.FAILED]
    assert balance == LOCAL_ADMIN_CREDITS - 3, "the one picture that was made is paid for"


def test_what_cannot_be_broken_off_is_left_by_the_process(tmp_path: Path) -> None:
    over, left = threading.Event(), threading.Event()

    @asynccontextmanager
    async def hanging(_: FastAPI) -> AsyncIterator[None]:
        yield
        held_until(over, 120)

    service = FastAPI(lifespan=hanging)
    service.state.parts = AppState()
    times = StopTimes(uploads=0, answers=0, give_back=0, workers=0, closing=0, queue=0)
    state_of(service).put(Shutdown, Shutdown(times))
    server = server_of(service, app_settings.load(auth="off", data_dir=tmp_path), left.set)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    wait_until(lambda: server.started, 60)
    server.should_exit = True
    try:
        assert left.wait(60)
        assert thread.is_alive()
    finally:
        over.set()
        thread.join(60)


def test_a_start_that_hangs_is_left_by_the_process(tmp_path: Path) -> None:
    over, left = threading.Event(), threading.Event()

    @asynccontextmanager
    async def hanging(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(over.wait, 120)
        yield

    service = FastAPI(lifespan=hanging)
    service.state.parts = AppState()
    times = StopTimes(uploads=0, answers=0, give_back=0, workers=0, closing=0, queue=0)
    state_of(service).put(Shutdown, Shutdown(times))
    server = server_of(service, app_settings.load(auth="off", data_dir=tmp_path), left.set)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert not server.started
            server.handle_exit(signal.SIGTERM, None)  # What uvicorn registers as the signal handler.
            assert left.wait(60)
            assert not server.started
        finally:
            server._captured_signals.clear()  # Else uvicorn would raise the signal again, in pytest.
            over.set()
            thread.join(60)


def test_several_workers_have_one_time_together() -> None:
    given: list[float] = []

    class Slow:
        def start(self) -> None: ...

        def ask_to_stop(self) -> None: ...

        def wait(self, seconds: float) -> None:
            given.append(seconds)
            time.sleep(min(seconds, 0.2))

    several: list[Any] = [Slow() for _ in range(4)]

    async def run() -> None:
        async with supervisor._running(several, 0.5):
            pass

    asyncio.run(run())
    assert given[0] > given[1] > given[2]
    assert given[3] == 0


def test_the_stages_are_over_before_the_system_kills_the_service() -> None:
    times = StopTimes()
    assert times.uploads < times.answers
    assert times.whole <= 30
