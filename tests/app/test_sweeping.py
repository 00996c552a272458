"""What is done by the clock goes on, whatever fails of it."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import logs, sweeping
from app.db.session import Database
from app.db.tables import IdempotencyKey, Job, Status
from app.services import accounts, credits, removals
from app.services.tokens import Claims
from app.storage import StorageError
from app.storage.local import LocalStorage
from inference.options import Options
from tests.app.shop import engine_of, place_of
from tests.fakes import FakeRunner, photo_bytes


class FailsAtFirst(LocalStorage):
    """Cannot be reached at first, then is broken in a way that nobody thought of, then works."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.failures: list[Exception] = [ValueError("surprise"), StorageError("away", "the host's reason")]

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        if self.failures:
            raise self.failures.pop()
        return super().delete_older_than(age, prefix)


def test_old_things_go_and_lost_ones_are_settled_although_some_of_it_fails(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("console")
    for interval in ("SETTLE_EVERY", "DELETE_EVERY"):
        monkeypatch.setattr(sweeping, interval, timedelta(milliseconds=20))
    storage = FailsAtFirst(tmp_path)
    storage.put("results/old.png", b"old")
    storage.put("uploads/nobodys", b"old")
    for old in ("results/old.png", "uploads/nobodys"):
        os.utime(tmp_path / old, (0, 0))
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 6, "grant:anna")
    for key in ("old", "new"):
        removals._begin(place, user.id, photo_bytes(), Options(), key)
    with database.begin() as session:
        session.execute(
            text("UPDATE idempotency_keys SET created_at = '2020-01-01 00:00:00' WHERE key = 'old'")
        )

    def left(session: Session) -> tuple[set[Status], list[str]]:
        return set(session.scalars(select(Job.status))), list(session.scalars(select(IdempotencyKey.key)))

    async def sweep() -> None:
        async with sweeping.sweeping(database, storage, timedelta(days=1)):
            async with asyncio.timeout(20):
                while any(
                    storage.list_older_than(timedelta(days=1), folder) for folder in ("results/", "uploads/")
                ) or database.ask(left) != ({Status.FAILED}, ["new"]):
                    await asyncio.sleep(0.01)

    asyncio.run(sweep())
    with database.read() as session:
        assert credits.balance(session, user.id) == 6
    told = "".join(capsys.readouterr())
    assert "the host's reason" in told
    assert "surprise" in told
    engine_of(place).close()
