"""The embedded queue, through stops and kills, and the supervision of processes next to the service."""

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from rq import Queue as RqQueue

from cutout.app.config import settings as app_settings
from cutout.app.core import log_config
from cutout.app.embedded import supervisor, valkey
from cutout.app.embedded.supervisor import (
    EmbeddedProcesses,
    NoPlaceForQueue,
    ParentWatch,
    SupervisedProcess,
    socket_path,
)
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from tests.fakes import PATIENCE, wait_until
from tests.processes import descendants, kill, lives

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_goes_on(tmp_path: Path) -> Iterator[None]:
    """Stop processes that a failed test has left."""
    yield
    valkey.stop(None, tmp_path / "valkey/socket")


def settings_in(folder: Path, **others: object) -> app_settings.Settings:
    return app_settings.load(**{"auth": "off", "data_dir": folder, **others})


@asynccontextmanager
async def queue_in(folder: Path) -> AsyncIterator[Queue]:
    """Run the queue of a service whose data are in `folder`, and wait until it answers."""
    household = EmbeddedProcesses(settings_in(folder))
    queue = Queue(household.queue_url)
    async with household.queue(10):
        await asyncio.to_thread(wait_until, lambda: answers(queue))
        yield queue
    queue.close()


def answers(queue: Queue) -> bool:
    assert queue.connection is not None
    try:
        return bool(queue.connection.ping())
    except RedisError:
        return False


def wake_ups(queue: Queue) -> int:
    return RqQueue(Line.BATCH.value, connection=queue.connection).count


def process_of(queue: Queue) -> int:
    assert queue.connection is not None
    return int(queue.connection.info("server")["process_id"])


def is_kept(folder: Path) -> bool:
    """Return whether a keeper process holds the folder."""
    with (folder / "valkey/lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def keepers_of(folder: Path) -> list[int]:
    return [
        pid
        for pid, command in descendants(os.getpid()).items()
        if lives(pid) and f"cutout.app.embedded.valkey {folder}/valkey " in command
    ]


def keeper_of(folder: Path) -> int:
    (keeper,) = keepers_of(folder)
    return keeper


def test_a_bell_is_there_after_a_stop(tmp_path: Path) -> None:
    async def run() -> None:
        async with queue_in(tmp_path) as queue:
            assert queue.notify_workers(Line.BATCH)
            server, keeper = process_of(queue), keeper_of(tmp_path)
        assert not lives(server)
        assert not lives(keeper)
        async with queue_in(tmp_path) as queue:
            assert wake_ups(queue) == 1
            assert process_of(queue) != server

    asyncio.run(run())


def test_a_bell_is_there_after_all_was_killed(tmp_path: Path) -> None:
    """A kill leaves a socket that no process listens on."""

    async def run() -> None:
        async with queue_in(tmp_path) as queue:
            assert queue.notify_workers(Line.BATCH)
            server = process_of(queue)
            kill(keeper_of(tmp_path))
            kill(server)
            await asyncio.to_thread(wait_until, lambda: not lives(server))
        assert (tmp_path / "valkey/socket").exists()
        async with queue_in(tmp_path) as queue:
            assert wake_ups(queue) == 1

    asyncio.run(run())


def test_a_valkey_whose_keeper_was_killed_is_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with queue_in(tmp_path) as queue:
            server, keeper = process_of(queue), keeper_of(tmp_path)
            kill(keeper)
        assert lives(server)  # The next keeper was not started.
        async with queue_in(tmp_path) as queue:
            assert process_of(queue) == server  # which answers before its next keeper has started
            await asyncio.to_thread(wait_until, lambda: is_kept(tmp_path))
            assert keeper_of(tmp_path) != keeper
        await asyncio.to_thread(wait_until, lambda: not lives(server))

    asyncio.run(run())


def test_a_keeper_and_a_valkey_that_die_are_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.1)

    async def run() -> None:
        async with queue_in(tmp_path) as queue:
            queue.notify_workers(Line.BATCH)
            server, keeper = process_of(queue), keeper_of(tmp_path)
            kill(server)
            await asyncio.to_thread(wait_until, lambda: not lives(server) and answers(queue))
            assert wake_ups(queue) == 1
            assert keeper_of(tmp_path) == keeper
            server = process_of(queue)
            (tmp_path / "valkey/socket").unlink()  # As any other program might do.
            await asyncio.to_thread(wait_until, lambda: not lives(server) and answers(queue))
            assert wake_ups(queue) == 1
            kill(keeper)
            await asyncio.to_thread(wait_until, lambda: keepers_of(tmp_path) not in ([], [keeper]))
            assert wake_ups(queue) == 1

    asyncio.run(run())


def test_two_services_in_one_folder_share_a_queue_and_either_goes_on_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with queue_in(tmp_path) as other:
            async with queue_in(tmp_path) as queue:
                assert process_of(queue) == process_of(other)
                queue.notify_workers(Line.BATCH)
            assert wake_ups(other) == 1
        first = queue_in(tmp_path)
        await first.__aenter__()
        async with queue_in(tmp_path) as queue:
            await first.__aexit__(None, None, None)
            await asyncio.to_thread(wait_until, lambda: answers(queue))
            assert wake_ups(queue) == 1

    asyncio.run(run())


@pytest.mark.parametrize("name", ["x" * 120, "my photos"])
def test_a_folder_that_no_socket_can_have_gets_another_place(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    assert folder not in socket_path(folder / "valkey").parents

    async def run() -> None:
        async with queue_in(folder) as queue:
            queue.notify_workers(Line.BATCH)
        async with queue_in(folder) as queue:
            assert wake_ups(queue) == 1
            assert queue.connection is not None
            assert queue.connection.client_info()

    asyncio.run(run())


def test_a_place_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "my photos"
    place = socket_path(folder).parent
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.raises(NoPlaceForQueue, match="not private to this user"):
        socket_path(folder)
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(NoPlaceForQueue):
        socket_path(folder)


def test_what_is_asked_for_is_what_there_is(tmp_path: Path) -> None:
    own = EmbeddedProcesses(settings_in(tmp_path, device="cpu", port=8123))
    assert own.queue_url == f"unix://{tmp_path}/valkey/socket"
    assert own._own_settings() == {
        "CUTOUT_HOST": "127.0.0.1",
        "CUTOUT_PORT": "8123",
        "CUTOUT_DEVICE": "cpu",
        "REDIS_URL": own.queue_url,
    }
    other = settings_in(tmp_path, redis_url="redis://elsewhere")
    assert (EmbeddedProcesses(other).queue_url, other.workers_here) == ("redis://elsewhere", 0)
    assert settings_in(tmp_path, redis_url="redis://elsewhere", workers=2).workers_here == 2
    none = EmbeddedProcesses(settings_in(tmp_path / "none", workers=0))
    assert none.queue_url is None
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_said() -> None:
    with pytest.raises(NoPlaceForQueue, match="/proc/nowhere"):
        EmbeddedProcesses(settings_in(Path("/proc/nowhere")))


def test_why_a_valkey_does_not_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_config.configure("console")
    (tmp_path / "appendonlydir").write_text("not a folder")
    assert valkey.start(tmp_path, tmp_path / "socket") is None
    assert "appendonlydir" in capsys.readouterr().err
    monkeypatch.setattr(valkey, "get_binary_path", lambda: tmp_path / "none")
    assert valkey.start(tmp_path, tmp_path / "socket") is None
    assert "No such file" in capsys.readouterr().err


def test_a_valkey_that_is_busy_is_there(tmp_path: Path) -> None:
    address = tmp_path / "socket"
    assert not valkey.listens(address)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        assert not valkey.listens(address)
        listening.listen(0)
        assert valkey.listens(address)
        with ExitStack() as waiting:  # It accepts none of them, so its backlog is full.
            for _ in range(3):
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect(str(address))
            assert valkey.listens(address)
    assert not valkey.listens(address)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(
        supervisor.log, "warning", lambda event, **more: told.append({"event": event, **more})
    )
    return told


def run_supervised(code: str, until: Callable[[], bool], patience: float = 20) -> None:
    """Supervise a process that runs `code` until a condition is true; then stop it."""
    life = ParentWatch()
    process = SupervisedProcess("it", [sys.executable, "-c", code], os.environ, life.end)
    process.start()
    try:
        wait_until(until)
    finally:
        process.ask_to_stop()
        process.wait(patience)


def test_what_goes_on_ending_is_started_ever_later(
    told: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_WAIT_SECONDS", 0.03)
    run_supervised("raise SystemExit(3)", lambda: len(told) >= 4)
    assert [one["again_in_seconds"] for one in told[:4]] == [0.01, 0.02, 0.03, 0.03]
    assert {one["exit_code"] for one in told} == {3}
    told.clear()
    monkeypatch.setattr(supervisor, "HEALTHY_SECONDS", 0)
    run_supervised("", lambda: len(told) >= 3)
    assert {one["again_in_seconds"] for one in told} == {0.01}


def test_what_cannot_be_started_is_tried_again(
    told: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.01)
    life = ParentWatch()
    process = SupervisedProcess("it", ["/nowhere/to/be/found"], os.environ, life.end)
    process.start()
    wait_until(lambda: len(told) >= 2)
    process.ask_to_stop()
    process.wait(PATIENCE)
    assert "No such file" in str(told[0]["detail"])


def test_what_does_not_stop_is_killed(told: list[dict[str, object]], tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
time.sleep(60)
"""
    run_supervised(code, lambda: any(tmp_path.iterdir()), patience=0.1)
    assert [one["event"] for one in told] == ["it killed"]
    (pid,) = (int(file.name) for file in tmp_path.iterdir())
    assert not lives(pid)
