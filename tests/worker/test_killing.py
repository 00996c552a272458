"""A deployment of real processes, some of which are killed; `python -m benchmarks killing` does it a hundred times."""

import random
from collections.abc import Iterator

import pytest

from cutout.app.batches import service as batches
from cutout.app.db.tables import Batch, Status
from cutout.app.jobs.leases import Line
from tests.fakes import photo_bytes, wait_until
from tests.worker.killing import Deployment, live_through, site
from tests.worker.worker_fixtures import small_photos, submitted

pytestmark = pytest.mark.slow

DEADLY = b"this photo kills its worker"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with site(tmp_path_factory.mktemp("site"), on_postgresql=True, killer=DEADLY.decode()) as place:
        yield place


def test_a_batch_lives_through_kills(place: Deployment) -> None:
    rng = random.Random(20261125)
    for kind in ("worker frozen", "PostgreSQL killed"):
        live_through(place, rng, kind)


def test_a_photo_that_kills_its_worker_each_time_fails_alone(place: Deployment) -> None:
    sent = [*small_photos(4), photo_bytes(seed=4) + DEADLY, *small_photos(4)]
    starts = sum(worker.starts for worker in place.workers)
    batch = submitted(place.database, place.storage, sent)
    place.queue.notify_workers(Line.BATCH)

    def ended() -> bool:
        with place.database.read() as session:
            return session.get_one(Batch, batch.id).finished_at is not None

    wait_until(ended, 90)
    with place.database.read() as session:
        found, photos = session.get_one(Batch, batch.id), batches.photos_of(session, batch.id)
    assert [photo.position for photo in photos if photo.status is Status.FAILED] == [4]
    assert [photo.status for photo in photos].count(Status.COMPLETED) == 8
    assert "3 times" in (photos[4].error_detail or "")
    assert (found.status, found.charged) == (Status.PARTIAL, 24)
    assert sum(worker.starts for worker in place.workers) == starts + 3
