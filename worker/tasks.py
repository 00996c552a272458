"""Jobs run on a wake-up signal: claim some photos, run them through the engine, store and commit each when it is done.

RQ calls `interactive` and `batch` by name; they use the `WorkerContext` that `rq_worker` has set. A signal may be spurious,
repeated or late, because the database holds the work.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import timedelta
from functools import partial
from itertools import groupby

import stamina
import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.batches import service as batches
from cutout.app.core.errors import describe
from cutout.app.db.tables import Batch, Status, now
from cutout.app.jobs import completion, leases, originals
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Claim, Claimed, Line
from cutout.app.storage.base import StorageError
from cutout.app.stores.service import infos_of_batch
from cutout.inference.cutout import Cutout
from cutout.inference.errors import CutoutError, Overloaded
from cutout.inference.masked_photo import MaskedPhoto, Source
from cutout.inference.options import Options
from cutout.worker import zip_archive
from cutout.worker.context import STORING_AT_ONCE, WorkerContext
from cutout.worker.zip_archive import ArchiveError

log = structlog.get_logger()

# A worker claims at most 1/SHARES of the remaining photos of a batch.
SHARES = 4
# How often the database is asked whether an animation in work is still wanted.
ASK_EVERY_SECONDS = 2.0
UPLOAD_GONE = "The uploaded photo no longer exists. It was not charged; send it again."
# The database may be restarted after a result was stored and before it is committed.
commits = stamina.retry(on=OperationalError, attempts=None, timeout=20.0, wait_max=1.0)

_worker_context: WorkerContext | None = None


class _NotOurs(CutoutError):
    """The photo was cancelled, or this worker's lease on it expired."""


def set_context(context: WorkerContext) -> None:
    """Set the `WorkerContext` of this process."""
    global _worker_context
    _worker_context = context


def interactive() -> None:
    """Process photos whose callers wait for the response."""
    process_line(_context(), Line.INTERACTIVE)


def batch() -> None:
    """Process some photos of a batch, and finish batches whose photos have all ended."""
    process_line(_context(), Line.BATCH)


def process_line(context: WorkerContext, line: Line) -> None:
    """Handle one wake-up signal: claim photos and process them."""
    claim = context.database.run_in_transaction(
        leases.claim, line, context.pace.most, context.lease, shares=SHARES
    )
    is_notified = True
    # Where nothing could be claimed, others have it in hand, or it needs a newer worker: the services look for it too.
    if claim is not None and context.database.run_read_only(leases.has_waiting_work, line):
        is_notified = context.queue.notify_workers(line)  # for the next idle worker, which may be this one
    if claim is not None:
        if claim.begins is not None:
            log.info("Batch processing started", batch=str(claim.begins))
        process_claim(context, claim)
    if not is_notified:  # the queue did not answer then, but may be back
        context.queue.notify_workers(line)
    if line is Line.BATCH:
        end_batches(context)


def process_claim(context: WorkerContext, claim: Claim) -> None:
    """Run the claimed photos through the engine; release those that cannot be finished now, for a later attempt.

    Raises:
        DeviceLost: the device has failed.
        StorageError: photos cannot be read or results cannot be stored.
        OperationalError: the database does not answer.

    """
    left = {photo.job_id: photo for photo in claim.photos}
    start, its_fault, pause = time.perf_counter(), False, None
    with context.held.holding(claim.token):
        try:
            # Each photo that is no batch's has its own copy of the pictures of its options, and only its are in memory.
            for _, same in groupby(claim.photos, key=lambda photo: photo.pictures):
                photos = list(same)
                options = partial(_with_pictures, _read_pictures(context, photos[0]))
                waiting = _unless_stopped(context, claim.token, photos)
                storing: set[Future[None]] = set()
                began = time.perf_counter()
                made = context.engine.remove_many(
                    waiting,
                    options,
                    keep_masks=context.keep_photos,
                    is_wanted=_asking(context, claim.token),
                )
                for photo, outcome in made:
                    if len(storing) >= STORING_AT_ONCE:
                        storing = _some_done(storing)
                    ended = partial(_end, context, claim.token, photo, outcome, began)
                    storing.add(context.storing.submit(_and_forget, left, photo, ended))
                while storing:
                    storing = _some_done(storing)
        except (StorageError, OperationalError):
            pause = context.lease
            raise
        except BaseException:
            its_fault = True
            raise
        finally:
            if left:
                _release_photos(context, claim.token, list(left), pause, its_fault)
    done = len(claim.photos) - len(left)
    if done:
        context.pace.took(done, time.perf_counter() - start)


def end_batches(context: WorkerContext) -> None:
    """Schedule the packing of all batches whose photos have ended, in parallel to the work on other photos."""
    while (claimed := context.database.run_in_transaction(leases.claim_ending, context.lease)) is not None:
        context.packing.submit(end_batch, context, *claimed)


def end_batch(context: WorkerContext, token: uuid.UUID, batch: Batch) -> None:
    """Pack a batch's results into a ZIP, then settle and announce its end. On failure, postpone it for a retry."""
    try:
        with context.held.holding(token):
            size = _packed(context, batch)
            # Uploads left by workers that were killed after a commit.
            context.storage.delete_older_than(timedelta(0), jobs.uploads_of(batch.id))
            ended = commits(context.database.run_in_transaction)(batches.end, batch.id, token, size, now())
    except ArchiveError as error:
        # A retry cannot restore a lost result, so the photo is marked as failed and is not charged.
        log.error("result lost", batch=str(batch.id), job=str(error.job_id), detail=str(error))
        with context.database.begin() as session:
            completion.lose(session, error.job_id, str(error))
            batches.postpone(session, batch.id, token, timedelta(0))
        context.queue.notify_workers(Line.BATCH)
    except Exception:
        log.exception("batch not finished", batch=str(batch.id))
        with context.database.begin() as session:
            batches.postpone(session, batch.id, token, context.lease)
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


def _packed(context: WorkerContext, batch: Batch) -> int | None:
    photos = context.database.run_read_only(batches.photos_of, batch.id)
    if not any(photo.status is Status.COMPLETED for photo in photos):
        return None
    stores = context.database.run_read_only(infos_of_batch, batch.id)
    return zip_archive.store(context.storage, batch, photos, stores)


def _read_pictures(context: WorkerContext, photo: Claimed) -> dict[str, bytes]:
    """Read the pictures of a photo's options from the storage, by the SHA-256 of their bytes."""
    found = {sha256: context.storage.get(key) for sha256, key in photo.pictures.items()}
    if None in found.values():
        # The engine fails each photo with this, and none of them is charged.
        log.warning("picture of the options is gone", batch=str(photo.batch_id), job=str(photo.job_id))
    return {sha256: data or b"" for sha256, data in found.items()}


def _with_pictures(pictures: Mapping[str, bytes], photo: Claimed) -> Options:
    """Return a photo's options with the bytes of their pictures."""
    return photo.options.with_pictures(lambda picture: pictures[picture.sha256])


def _unless_stopped(
    context: WorkerContext, token: uuid.UUID, photos: Sequence[Claimed]
) -> Iterator[tuple[Claimed, Callable[[], Source]]]:
    for photo in photos:
        if context.stopping.is_set():
            return
        yield photo, partial(_read, context, token, photo)


def _asking(context: WorkerContext, token: uuid.UUID) -> Callable[[Claimed], bool]:
    """Return what tells whether a photo is still ours. An animation takes minutes, in which its caller may hang up."""
    asked: dict[uuid.UUID, float] = {}

    def is_wanted(photo: Claimed) -> bool:
        at = time.monotonic()
        if at - asked.setdefault(photo.job_id, at) < ASK_EVERY_SECONDS:
            return True
        asked[photo.job_id] = at
        try:
            return context.database.run_read_only(leases.holds, photo.job_id, token)
        except OperationalError:  # the database is away; its picture is stored when it is back
            return True

    return is_wanted


def _read(context: WorkerContext, token: uuid.UUID, photo: Claimed) -> Source:
    if not context.database.run_read_only(leases.holds, photo.job_id, token):
        raise _NotOurs
    data = context.storage.get(photo.upload)
    if data is None:
        raise CutoutError(UPLOAD_GONE)
    return MaskedPhoto.from_bytes(data) if photo.is_masked else data


def _end(
    context: WorkerContext,
    token: uuid.UUID,
    photo: Claimed,
    outcome: Cutout | CutoutError | OSError,
    began: float,
) -> None:
    if isinstance(outcome, _NotOurs):
        return
    if isinstance(outcome, Cutout):
        milliseconds = round(1000 * (time.perf_counter() - began))
        if not _complete(context, token, photo, outcome, milliseconds):
            return
        _trace(context, photo, outcome, began)
    elif isinstance(outcome, Overloaded) and photo.attempt < leases.MOST_ATTEMPTS:
        # A remote backend asked for a pause. A worker's own engine does not limit batches in this way.
        pause = timedelta(seconds=max(outcome.retry_after, 1.0))
        release_photos = partial(leases.release_photos, wait=pause, tried=True)
        commits(context.database.run_in_transaction)(release_photos, token, [photo.job_id])
        log.info("photo postponed", job=str(photo.job_id), detail=str(outcome))
        return
    else:
        code, detail = describe(outcome)
        told = partial(completion.fail, code=code, detail=detail, claim=token)
        if not commits(context.database.run_in_transaction)(told, photo.job_id):
            return
        log.info("photo failed", job=str(photo.job_id), code=code, detail=str(outcome))
        _trace(context, photo, code, began)
    try:
        context.storage.delete(photo.upload)
        if photo.batch_id is None:
            for key in photo.pictures.values():
                context.storage.delete(key)
        left = photo.results()
        if photo.attempt > 1 and not isinstance(outcome, Cutout):
            left.append(originals.original_key(photo.job_id))
        for key in left:
            context.storage.delete(key)
    except StorageError as error:  # maintenance deletes it later
        log.warning("files not deleted", job=str(photo.job_id), detail=str(error))


def _trace(context: WorkerContext, photo: Claimed, outcome: Cutout | str, began: float) -> None:
    """Record a removal that has ended, with the code of its error if it failed."""
    if not context.tracing.enabled:
        return
    laps, failed = (outcome.laps, None) if isinstance(outcome, Cutout) else ((), outcome)
    context.tracing.removed(
        context.queue.trace_of(photo.batch_id or photo.job_id),
        laps[0][1] if laps else began,
        laps,
        failed,
        cutout__job_id=str(photo.job_id),
        cutout__tier=photo.options.tier.value,
        cutout__outcome=failed or "completed",
    )


def _complete(
    context: WorkerContext, token: uuid.UUID, photo: Claimed, cutout: Cutout, milliseconds: int
) -> bool:
    result = jobs.result_key(photo.job_id, cutout.format, photo.attempt)
    context.storage.put(result, cutout.data)
    if cutout.masked is not None:
        originals.keep(context.storage, photo.job_id, cutout.masked)
    sha256 = hashlib.sha256(cutout.data).hexdigest()
    told = partial(completion.complete, cutout=cutout, milliseconds=milliseconds, claim=token, sha256=sha256)
    if commits(context.database.run_in_transaction)(told, photo.job_id) is None:
        context.storage.delete(result)
        # It was cancelled, or its user was deleted; or another worker has it, whose photo is the same one.
        if not context.database.run_read_only(originals.may_have_one, photo.job_id):
            context.storage.delete(originals.original_key(photo.job_id))
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
    """Wait until at least one future is done, and return those that are still running."""
    done, going_on = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return going_on


def _release_photos(
    context: WorkerContext,
    token: uuid.UUID,
    job_ids: Sequence[uuid.UUID],
    pause: timedelta | None,
    its_fault: bool,
) -> None:
    try:
        with context.database.begin() as session:
            leases.release_photos(session, token, job_ids, wait=pause, tried=its_fault)
    except OperationalError as error:  # the lease expires by itself
        log.warning("photos not released", photos=len(job_ids), detail=str(error.orig))


def _context() -> WorkerContext:
    if _worker_context is None:
        raise RuntimeError("this process is not a worker; start one with: cutout worker")
    return _worker_context
