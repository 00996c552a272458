"""The RQ worker: how it runs the jobs in its queue."""

import pytest
from rq import Queue as RqQueue

from cutout.app.batches import service as batches
from cutout.app.db.session import Database
from cutout.app.db.tables import Status
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.worker import tasks
from cutout.worker.rq_worker import RqWorker
from tests.worker.worker_fixtures import context_of, small_photos, submitted


@pytest.mark.parametrize("name", ["cutout.worker.tasks.batch", "worker.jobs.batch"])
def test_jobs_are_run_by_their_name_and_by_that_of_the_last_release(
    name: str, database: Database, storage: LocalStorage, redis_url: str
) -> None:
    batch = submitted(database, storage, small_photos(2))
    with context_of(database, storage, redis_url) as context:
        tasks.set_context(context)
        waiting = RqQueue(Line.BATCH.value, connection=context.queue.connection)
        RqWorker(context, [Line.BATCH], redis_url, name.replace(".", "-")).execute_job(
            waiting.enqueue(name), waiting
        )
    with database.begin() as session:
        assert Status.COMPLETED in {photo.status for photo in batches.photos_of(session, batch.id)}
