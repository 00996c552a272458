"""The RQ worker: how it runs the jobs in its queue."""

from datetime import timedelta

import pytest
from rq import Queue as RqQueue

from cutout.app.batches import service as batches
from cutout.app.db.session import Database
from cutout.app.db.tables import Status
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.worker import rq_worker, tasks
from cutout.worker.rq_worker import RqWorker
from tests.fakes import FakeRunner, wait_until
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


def test_rq_hears_of_a_job_while_it_is_in_work(
    database: Database, storage: LocalStorage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its record of a job of some slow photos would expire, and the job would count as failed."""
    monkeypatch.setattr(rq_worker, "BEAT_EVERY", timedelta(milliseconds=20))

    def last_heard() -> object:
        assert worker.execution is not None
        return worker.connection.hget(worker.execution.key, "last_heartbeat")

    def work_until_heard() -> None:
        before = last_heard()
        wait_until(lambda: last_heard() != before)
        heard.append(last_heard())

    heard: list[object] = []
    submitted(database, storage, small_photos(2))
    with context_of(database, storage, redis_url, FakeRunner(before=work_until_heard)) as context:
        tasks.set_context(context)
        worker = RqWorker(context, [Line.BATCH], redis_url, "slow")
        waiting = RqQueue(Line.BATCH.value, connection=context.queue.connection)
        for old in waiting.job_ids:
            waiting.remove(old)
        assert context.queue.notify_workers(Line.BATCH)
        (job,) = waiting.jobs
        # A failed one is not kept for a year.
        assert job.failure_ttl is not None
        assert job.failure_ttl <= 3600
        worker.execute_job(job, waiting)
        assert waiting.failed_job_registry.count == 0
    assert heard
