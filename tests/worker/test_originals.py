"""Photos that are kept for refining do not outlive their jobs."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import update

from cutout.app import user_deletion
from cutout.app.batches import service as batches
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, Status, now
from cutout.app.jobs import leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Claimed, Line
from cutout.app.jobs.originals import ORIGINALS, original_key
from cutout.app.storage.local import LocalStorage
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.masked_photo import MaskedPhoto
from cutout.inference.options import Options
from cutout.worker.tasks import process_claim, process_line
from tests.app.databases import on_both
from tests.fakes import FakeRunner, files_below, photo_bytes
from tests.worker.worker_fixtures import context_of, submitted


def cancel(database: Database, storage: LocalStorage, batch: Batch) -> None:
    with database.begin() as session:
        assert batches.cancel(session, session.get_one(Batch, batch.id), now())


def delete_user(database: Database, storage: LocalStorage, batch: Batch) -> None:
    user_deletion.delete_user(database, storage, batch.user_id)


@on_both
@pytest.mark.parametrize("end", [cancel, delete_user])
def test_a_photo_whose_job_ends_during_the_work_is_not_kept(
    database: Database, storage: LocalStorage, end: Callable[[Database, LocalStorage, Batch], None]
) -> None:
    behind = Picture.of(photo_bytes(9, 7))
    options = Options(background=behind)
    batch = submitted(database, storage, [photo_bytes(seed=seed) for seed in range(2)], options)
    storage.put(jobs.picture_key(batch.id, behind.sha256), behind.data)
    ended: list[int] = []

    def end_once() -> None:
        if not ended:
            ended.append(1)
            end(database, storage, batch)

    with context_of(database, storage, runner=FakeRunner(before=end_once), keep_photos=True) as context:
        process_line(context, Line.BATCH)
    assert ended
    assert files_below(storage.root / ORIGINALS) == files_below(storage.root / jobs.RESULTS) == []
    assert files_below(storage.root / jobs.UPLOADS) == []


def test_a_late_worker_leaves_the_photo_of_the_one_that_took_over(
    database: Database, storage: LocalStorage
) -> None:
    submitted(database, storage, [photo_bytes(), photo_bytes(seed=2)])
    lease = timedelta(seconds=30)
    with context_of(database, storage, keep_photos=True) as other:
        photos: list[Claimed] = []

        def take_over() -> None:
            # What workers keep that are killed before they say that they are done.
            for photo in photos:
                storage.put(original_key(photo.job_id), b"left")
            with database.begin() as session:
                assert leases.release_expired(session, now() + 2 * lease) == len(photos)
            for _ in range(2):  # first the photo that no worker was lost with
                process_line(other, Line.BATCH)

        with context_of(database, storage, runner=FakeRunner(before=take_over), keep_photos=True) as context:
            late = database.run_in_transaction(leases.claim, Line.BATCH, 1, lease, now())
            assert late is not None
            photos += late.photos
            process_claim(context, late)
    with database.begin() as session:
        done = session.get_one(Job, photos[0].job_id)
        assert (done.status, done.attempts) == (Status.COMPLETED, 2)
    assert MaskedPhoto.from_bytes(storage.get(original_key(done.id)) or b"").photo == photo_bytes()


def test_a_photo_that_fails_after_its_worker_was_lost_is_not_kept(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, [photo_bytes(), b"no photo"])
    with database.begin() as session:
        session.execute(update(Job).values(attempts=1))
        photos = batches.photos_of(session, batch.id)
    for photo in photos:
        storage.put(original_key(photo.id), b"left")
    with context_of(database, storage, keep_photos=True) as context:
        for _ in range(2):
            process_line(context, Line.BATCH)
    with database.begin() as session:
        done, failed = batches.photos_of(session, batch.id)
        assert (done.status, failed.status) == (Status.COMPLETED, Status.FAILED)
    assert [file.name for file in files_below(storage.root / ORIGINALS)] == [str(done.id)]
