"""Uploads are deleted when no job needs them any more, and not before."""

import os
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from cutout.app.bootstrap import storage_from
from cutout.app.config import settings as app_settings
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs import queries as jobs
from cutout.app.jobs import upload_cleanup
from cutout.app.storage.local import LocalStorage
from cutout.inference.tiers import Tier
from tests.app.databases import new_user
from tests.app.s3_fixtures import S3Server

HOURS = 3600
AGE = timedelta(hours=3)


def new_job(database: Database, user_id: uuid.UUID, status: Status, batch_id: uuid.UUID | None = None) -> Job:
    job = Job(
        user_id=user_id,
        batch_id=batch_id,
        status=status,
        tier=Tier.BASIC,
        credits=3,
        format="png",
        options={},
    )
    with database.begin() as session:
        session.add(job)
    return job


def new_batch(database: Database, user_id: uuid.UUID) -> Batch:
    batch = Batch(
        user_id=user_id,
        status=Status.PROCESSING,
        tier=Tier.BASIC,
        images=2,
        credits=6,
        discount=0,
        discount_percent=0,
    )
    with database.begin() as session:
        session.add(batch)
    return batch


def test_uploads_of_ended_jobs_and_of_none_go_when_they_are_old(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_cleanup, "JOBS_AT_ONCE", 2)
    storage = LocalStorage(tmp_path / "data")
    user, place = new_user(database), tmp_path / "data"
    batch = new_batch(database, user.id)

    def upload(job_id: uuid.UUID, batch_id: uuid.UUID | None, age: float) -> str:
        key = jobs.upload_key(job_id, batch_id)
        storage.put(key, b"photo")
        written = (place / key).stat().st_mtime - age
        os.utime(place / key, (written, written))
        return key

    kept: set[str] = set()
    gone: set[str] = set()
    for status in Status:
        waited_for = status in (Status.PENDING, Status.PROCESSING)
        for batch_id in (None, batch.id):
            job = new_job(database, user.id, status, batch_id)
            (kept if waited_for else gone).add(upload(job.id, batch_id, 4 * HOURS))
        kept.add(upload(new_job(database, user.id, status).id, None, 2 * HOURS))
    gone.add(upload(uuid.uuid4(), uuid.uuid4(), 4 * HOURS))
    kept.add(upload(uuid.uuid4(), uuid.uuid4(), 2 * HOURS))
    # Left by a process that died while it was writing.
    broken_off = f"uploads/{uuid.uuid4()}/.cutout-1"
    storage.put(broken_off, b"pho")
    os.utime(place / broken_off, (0, 0))
    storage.put("results/old.png", b"no upload")
    os.utime(place / "results/old.png", (0, 0))

    assert upload_cleanup.forget_uploads(database, storage, AGE) == len(gone) + 1
    assert set(storage.list_older_than(timedelta(0), "uploads/")) == kept
    assert storage.get("results/old.png") == b"no upload"
    assert upload_cleanup.forget_uploads(database, storage, AGE) == 0
    # No empty folders of incomplete batches remain.
    assert all(any(folder.iterdir()) for folder in (place / "uploads").iterdir())


def test_pictures_of_options_stay_while_a_photo_waits(database: Database, tmp_path: Path) -> None:
    """A batch may wait for longer than an upload may take."""
    storage, user = LocalStorage(tmp_path / "data"), new_user(database)
    kept: set[str] = set()
    for status in (Status.PENDING, Status.PROCESSING, Status.COMPLETED):
        batch = new_batch(database, user.id)
        new_job(database, user.id, status, batch.id)
        for owner in (batch.id, new_job(database, user.id, status).id):
            key = jobs.picture_key(owner, "0" * 64)
            storage.put(key, b"picture")
            if status is not Status.COMPLETED:
                kept.add(key)
    storage.put(jobs.picture_key(uuid.uuid4(), "0" * 64), b"of nothing")
    assert upload_cleanup.forget_uploads(database, storage, timedelta(0)) == 3
    assert set(storage.list_older_than(timedelta(0), "uploads/")) == kept


def test_uploads_in_a_bucket_go_too(database: Database, s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings, s3_prefix="cutout/"))
    user = new_user(database)
    keys = {}
    for status in (Status.PENDING, Status.COMPLETED):
        job = new_job(database, user.id, status)
        keys[status] = jobs.upload_key(job.id, None)
        storage.put(keys[status], b"photo")
    assert upload_cleanup.forget_uploads(database, storage, AGE) == 0
    # The cut-off is in the future, because S3 has times in whole seconds.
    assert upload_cleanup.forget_uploads(database, storage, timedelta(seconds=-2)) == 1
    assert storage.get(keys[Status.PENDING]) == b"photo"
    assert storage.get(keys[Status.COMPLETED]) is None
