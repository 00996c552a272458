"""Batches whose callers disconnect while their photos are being stored or the batch is being written."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cutout.app.batches import service as batches
from cutout.app.batches.service import BatchRequest
from cutout.app.batches.upload import BatchUpload, receiving
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.jobs.queue import Queue
from cutout.app.storage.local import LocalStorage
from cutout.inference.options import Options
from tests.app.databases import new_user
from tests.fakes import files_below, held_until


class Slow(LocalStorage):
    """Storage that waits for the test before it writes the second file."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.count = 0

    def put(self, key: str, data: bytes) -> None:
        self.count += 1
        if self.count == 2:
            self.began.set()
            held_until(self.go_on)
        super().put(key, data)


def kept(storage: LocalStorage) -> int:
    return len(files_below(storage.root / "uploads"))


def cancelled_while(
    storage: LocalStorage,
    work: Callable[[BatchUpload], Awaitable[object]],
    began: threading.Event,
    go_on: threading.Event,
) -> None:
    """Take in a batch, and cancel the caller's task in the middle."""

    async def take_in() -> None:
        async with receiving(storage) as upload:
            await work(upload)

    async def cancel() -> None:
        task = asyncio.create_task(take_in())
        await asyncio.to_thread(held_until, began)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)

    asyncio.run(cancel())


def test_what_is_still_being_stored_goes_too(tmp_path: Path) -> None:
    storage = Slow(tmp_path)

    async def add_two(upload: BatchUpload) -> None:
        for name in ("a.png", "b.png"):
            await upload.add(name, b"x")

    cancelled_while(storage, add_two, storage.began, storage.go_on)
    assert (storage.count, kept(storage)) == (2, 0)


def test_what_is_taken_in_stays(
    database: Database, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, queue, user = LocalStorage(tmp_path), Queue(redis_url), new_user(database)
    began, go_on = threading.Event(), threading.Event()
    submit = batches.submit

    def slow_submit(*args: object) -> object:
        began.set()
        held_until(go_on)
        return submit(*args)  # type: ignore[arg-type]

    async def hand_in(upload: BatchUpload) -> None:
        for name in ("a.png", "b.png"):
            await upload.add(name, b"x")
        await upload.submit(database, queue, user.id, BatchRequest(Options()), None)

    monkeypatch.setattr(batches, "submit", slow_submit)
    with database.begin() as session:
        ledger.grant(session, user.id, 6, f"grant:{uuid.uuid4()}")
    cancelled_while(storage, hand_in, began, go_on)
    queue.close()
    assert kept(storage) == 2
    with database.read() as session:
        assert ledger.balance(session, user.id) == 0
