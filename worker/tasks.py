"""What a bell sets in motion: claim some photos, take them through the engine, store and commit each as it is done.

RQ calls `interactive` and `batch` by their names; they work at the bench that `gpu_worker` has set up. Both may be rung
in vain, twice, or late: what is to be done stands in the database.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby

import stamina
import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.batches import service as batches
from cutout.app.core.errors import describe
from cutout.app.db.tables import Batch, Status, now
from cutout.app.jobs import completion, leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Claim, Claimed, Line
from cutout.app.storage.base import StorageError
from cutout.inference.engine import Cutout
from cutout.inference.errors import CutoutError, Overloaded
from cutout.worker import zip_archive
from cutout.worker.context import STORING_AT_ONCE, Bench
from cutout.worker.zip_archive import ArchiveError

log = structlog.get_logger()

# Of what is left of a batch, a worker takes one of so many.
SHARES = 4
UPLOAD_GONE = "The photo is no longer here. It was not charged; send it again."
# The database may be restarted between a picture and its commit.
commits = stamina.retry(on=OperationalError, attempts=None, timeout=20.0, wait_max=1.0)

_bench: Bench | None = None


class _NotOurs(CutoutError):
    """A photo was cancelled, or this worker was taken for lost."""


def work_at(bench: Bench) -> None:
    """Set the bench up that this process works at."""
    global _bench
    _bench = bench


def interactive() -> None:
    """Do photos whose callers wait."""
    answer(_the_bench(), Line.INTERACTIVE)


def batch() -> None:
    """Do some photos of a batch, and end the batches whose photos have all ended."""
    answer(_the_bench(), Line.BATCH)


def answer(bench: Bench, line: Line) -> None:
    """Answer a bell."""
    claim = bench.database.run(leases.claim, line, bench.pace.most, bench.lease, now(), SHARES)
    rung = True
    if bench.database.ask(leases.something_waits, line, now()):
        rung = bench.queue.ring(line)  # for the next worker; this one looks again when it hears that
    if claim is not None:
        if claim.begins is not None:
            log.info("Batch processing started", batch=str(claim.begins))
        carry_out(bench, claim)
    if not rung:  # the queue was away for a moment, and may be there again
        bench.queue.ring(line)
    if line is Line.BATCH:
        end_batches(bench)


def carry_out(bench: Bench, claim: Claim) -> None:
    """Take what was claimed through the engine; what cannot be done now is let go, for others or for later.

    Raises:
        DeviceLost: the device has failed.
        StorageError: photos cannot be read or pictures not be kept.
        OperationalError: the database is away.

    """
    left = {photo.job_id: photo for photo in claim.photos}
    start, its_fault, not_before = time.perf_counter(), False, None
    with bench.held.holding(claim.token):
        try:
            for options, photos in groupby(claim.photos, key=lambda photo: photo.options):
                waiting = _unless_stopped(bench, claim.token, list(photos))
                storing: set[Future[None]] = set()
                began = time.perf_counter()
                for photo, outcome in bench.engine.remove_many(waiting, options):
                    if len(storing) >= STORING_AT_ONCE:
                        storing = _some_done(storing)
                    ended = partial(_end, bench, claim.token, photo, outcome, began)
                    storing.add(bench.storing.submit(_and_forget, left, photo, ended))
                while storing:
                    storing = _some_done(storing)
        except (StorageError, OperationalError):
            not_before = bench.in_a_lease()
            raise
        except BaseException:
            its_fault = True
            raise
        finally:
            if left:
                _let_go(bench, claim.token, list(left), not_before, its_fault)
    done = len(claim.photos) - len(left)
    if done:
        bench.pace.took(done, time.perf_counter() - start)


def end_batches(bench: Bench) -> None:
    """Have the batches ended whose photos have all ended, beside the work on others."""
    while (claimed := bench.database.run(leases.claim_ending, bench.lease, now())) is not None:
        bench.packing.submit(end_batch, bench, *claimed)


def end_batch(bench: Bench, token: uuid.UUID, batch: Batch) -> None:
    """Pack a batch's pictures, then settle and announce its end. What cannot be done now is tried again later."""
    try:
        with bench.held.holding(token):
            size = _packed(bench, batch)
            # What workers left that were killed between a commit and this.
            bench.storage.delete_older_than(timedelta(0), jobs.uploads_of(batch.id))
            ended = commits(bench.database.run)(batches.end, batch.id, token, size, now())
    except ArchiveError as error:
        # What is not there cannot be had by trying again: the photo failed after all, and is not charged.
        log.error("picture lost", batch=str(batch.id), job=str(error.job_id), detail=str(error))
        with bench.database.begin() as session:
            completion.lose(session, error.job_id, str(error))
            batches.postpone(session, batch.id, token, now())
        bench.queue.ring(Line.BATCH)
    except Exception:
        log.exception("batch not ended", batch=str(batch.id))
        with bench.database.begin() as session:
            batches.postpone(session, batch.id, token, bench.in_a_lease())
    else:
        if ended is not None:
            log.info(
                "Batch processing finished",
                batch=str(batch.id),
                user=str(batch.user_id),
                status=ended.status.value,
                charged=ended.charged,
                zip_bytes=ended.zip_bytes,
            )


def _packed(bench: Bench, batch: Batch) -> int | None:
    photos = bench.database.ask(batches.photos_of, batch.id)
    if not any(photo.status is Status.COMPLETED for photo in photos):
        return None
    return zip_archive.store(bench.storage, batch, photos)


def _unless_stopped(
    bench: Bench, token: uuid.UUID, photos: Sequence[Claimed]
) -> Iterator[tuple[Claimed, Callable[[], bytes]]]:
    for photo in photos:
        if bench.stopping.is_set():
            return
        yield photo, partial(_read, bench, token, photo)


def _read(bench: Bench, token: uuid.UUID, photo: Claimed) -> bytes:
    if not bench.database.ask(leases.holds, photo.job_id, token):
        raise _NotOurs
    data = bench.storage.get(photo.upload)
    if data is None:
        raise CutoutError(UPLOAD_GONE)
    return data


def _end(
    bench: Bench, token: uuid.UUID, photo: Claimed, outcome: Cutout | CutoutError | OSError, began: float
) -> None:
    if isinstance(outcome, _NotOurs):
        return
    if isinstance(outcome, Cutout):
        milliseconds = round(1000 * (time.perf_counter() - began))
        if not _complete(bench, token, photo, outcome, milliseconds):
            return
    elif isinstance(outcome, Overloaded) and photo.attempt < leases.MOST_ATTEMPTS:
        # Networks elsewhere want a pause. A worker's own engine has no such bound for batches.
        later = now() + timedelta(seconds=max(outcome.retry_after, 1.0))
        let_go = partial(leases.let_go, not_before=later, tried=True)
        commits(bench.database.run)(let_go, token, [photo.job_id])
        log.info("photo put off", job=str(photo.job_id), detail=str(outcome))
        return
    else:
        code, detail = describe(outcome)
        told = partial(completion.fail, code=code, detail=detail, claim=token)
        if not commits(bench.database.run)(told, photo.job_id):
            return
        log.info("photo failed", job=str(photo.job_id), code=code, detail=str(outcome))
    try:
        bench.storage.delete(photo.upload)
        for attempt in range(1, photo.attempt):  # what a lost worker may have left
            bench.storage.delete(jobs.result_key(photo.job_id, photo.options.format, attempt))
    except StorageError as error:  # the sweeper deletes it
        log.warning("not deleted", job=str(photo.job_id), detail=str(error))


def _complete(bench: Bench, token: uuid.UUID, photo: Claimed, cutout: Cutout, milliseconds: int) -> bool:
    bench.storage.put(photo.result, cutout.data)
    sha256 = hashlib.sha256(cutout.data).hexdigest()
    told = partial(completion.complete, cutout=cutout, milliseconds=milliseconds, claim=token, sha256=sha256)
    if commits(bench.database.run)(told, photo.job_id) is None:
        bench.storage.delete(photo.result)
        return False
    log.info(
        "Background removed successfully",
        tier=cutout.tier.value,
        job=str(photo.job_id),
        batch=str(photo.batch_id) if photo.batch_id else None,
        user=str(photo.user_id),
        model=cutout.checkpoint,
        backend=cutout.backend,
        ms=milliseconds,
        no_foreground=cutout.no_foreground,
    )
    return True


def _and_forget(left: dict[uuid.UUID, Claimed], photo: Claimed, end: Callable[[], None]) -> None:
    end()
    del left[photo.job_id]


def _some_done(running: set[Future[None]]) -> set[Future[None]]:
    """Wait for one of these, and return those that go on."""
    done, going_on = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return going_on


def _let_go(
    bench: Bench, token: uuid.UUID, job_ids: Sequence[uuid.UUID], not_before: datetime | None, its_fault: bool
) -> None:
    try:
        with bench.database.begin() as session:
            leases.let_go(session, token, job_ids, not_before=not_before, tried=its_fault)
    except OperationalError as error:  # the lease runs out
        log.warning("photos not let go", photos=len(job_ids), detail=str(error.orig))


def _the_bench() -> Bench:
    if _bench is None:
        raise RuntimeError("this process is no worker; start one with: cutout worker")
    return _bench
