"""A batch of 500 photos on one worker and on two: speed-up, latency of the status endpoint, and wait of single photos.

The network is a fake of 100 ms per photo, so that each worker has a device of its own; the service passes single
photos to the same workers (`CUTOUT_API_ENGINE=queue`). Expected: two workers reach at least 1.9 times the throughput of
one; a status request takes less than 50 ms in the median; a single photo takes at most 3 s, whatever is queued.
"""

import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx2

from benchmarks.report import Table, publish
from cutout.app.bootstrap import local_admin
from cutout.app.db.tables import Batch
from cutout.app.jobs.leases import Line
from tests.fakes import photo_bytes
from tests.worker.killing import Deployment, site
from tests.worker.worker_fixtures import small_photos, submitted

IMAGES, NETWORK_MS = 500, 100
STATUS_EVERY, REMOVE_EVERY = 0.25, 2.0


def run() -> None:
    """Measure batches on both databases, print and save the results."""
    rows, figures = [], {}
    for database in ("SQLite", "PostgreSQL"):
        alone = 0.0
        for workers in (1, 2):
            with (
                tempfile.TemporaryDirectory() as folder,
                site(
                    Path(folder),
                    on_postgresql=database == "PostgreSQL",
                    workers=workers,
                    milliseconds=NETWORK_MS,
                    api_engine="queue",
                    lease_seconds=30,
                ) as place,
            ):
                seconds, status, waits = one_batch(place)
            alone = alone or seconds
            figures[f"{database}, {workers}"] = {"seconds": seconds, "status": status, "waits": waits}
            rows.append(
                [
                    database,
                    str(workers),
                    f"{IMAGES / seconds:.1f}",
                    f"{alone / seconds:.2f}",
                    f"{1000 * statistics.median(status):.0f}",
                    f"{statistics.median(waits):.1f}",
                    f"{max(waits):.1f}",
                ]
            )
    columns = [
        "database",
        "workers",
        "photos a second",
        "to one worker",
        "status, median ms",
        "single photo, median s",
        "worst, s",
    ]
    publish(
        "batches",
        [Table(f"A batch of {IMAGES} photos, {NETWORK_MS} ms of network each", columns, rows)],
        figures,
    )


def one_batch(place: Deployment) -> tuple[float, list[float], list[float]]:
    """Process a batch while its status is polled and single photos are sent.

    Return the duration of the batch, the latencies of the status requests, and those of the single photos, in seconds.
    """
    admin = local_admin(place.database)
    batch = submitted(place.database, place.storage, small_photos(IMAGES), user_id=admin.id)
    place.queue.notify_workers(Line.BATCH)
    status: list[float] = []
    waits: list[float] = []
    over = threading.Event()

    def send() -> None:
        with httpx2.Client(base_url=place.address, timeout=60) as client:
            while not over.wait(REMOVE_EVERY):
                begun = time.monotonic()
                client.post(
                    "/api/background-remover/remove",
                    files={"image": ("photo.png", photo_bytes(), "image/png")},
                ).raise_for_status()
                waits.append(time.monotonic() - begun)

    sender = threading.Thread(target=send)
    sender.start()
    with httpx2.Client(base_url=place.address, timeout=60) as client:
        while True:
            begun = time.monotonic()
            answer = client.get(f"/api/background-remover/batch/{batch.id}").raise_for_status().json()
            status.append(time.monotonic() - begun)
            if answer["finishedAt"] is not None:
                break
            time.sleep(STATUS_EVERY)
    over.set()
    sender.join()
    with place.database.begin() as session:
        ended = session.get_one(Batch, batch.id)
        assert ended.finished_at is not None
    assert answer["counts"]["completed"] == IMAGES
    return (ended.finished_at - ended.created_at).total_seconds(), status, waits
