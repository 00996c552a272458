"""Upload of a batch: photos are stored as they arrive, and deleted again unless the batch is accepted."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.batches import service as batches
from cutout.app.batches.service import BatchRequest, StoredPhoto
from cutout.app.core.threads import finished, to_storage_thread, to_the_end
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, now
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.ratelimit.limits import Limit
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.imaging.backgrounds import Picture

log = structlog.get_logger()


class BatchUpload:
    """The photos of a batch that have been received so far."""

    def __init__(self, storage: Storage) -> None:
        self.batch_id = uuid.uuid4()
        self.photos: list[StoredPhoto] = []
        self.background: Picture | None = None
        self.is_taken_in = False
        self._storage = storage

    @property
    def names(self) -> list[str]:
        """The file names of the photos, as they were sent."""
        return [photo.name for photo in self.photos]

    async def add(self, name: str, data: bytes) -> None:
        """Store a photo.

        Raises:
            StorageError: the photo cannot be stored.

        """
        await finished(to_storage_thread(self._add, name, data))

    async def add_background(self, picture: Picture) -> None:
        """Store the picture that stands behind the subjects; from then on `background` names it, without its bytes.

        Raises:
            StorageError: the picture cannot be stored.

        """
        self.background = Picture(picture.sha256)
        key = jobs.picture_key(self.batch_id, picture.sha256)
        await finished(to_storage_thread(self._storage.put, key, picture.data))

    async def submit(
        self,
        database: Database,
        queue: Queue,
        user_id: uuid.UUID,
        order: BatchRequest,
        key: str | None,
        limit: Limit | None = None,
    ) -> Batch:
        """Create the batch, hold its price and notify the workers; or return the batch created with `key` before.

        Raises:
            QueueUnavailable: the workers cannot be notified.
            WrongBatchSize: there are too few photos or too many.
            InsufficientCredits: the user has too few credits.
            KeyUsed: the key was used for a different request.
            RateLimited: the user has reached `limit` for accepted batches.

        """
        return await to_the_end(self._submit, database, queue, user_id, order, key, limit)

    def discard(self) -> None:
        """Delete the stored pictures. The clean-up of old uploads deletes those that cannot be deleted now."""
        keys = [jobs.upload_key(photo.job_id, self.batch_id) for photo in self.photos]
        if self.background is not None:
            keys.append(jobs.picture_key(self.batch_id, self.background.sha256))
        for key in keys:
            try:
                self._storage.delete(key)
            except StorageError as error:
                log.warning("upload not deleted", batch=str(self.batch_id), detail=str(error))

    def _add(self, name: str, data: bytes) -> None:
        photo = StoredPhoto(uuid.uuid4(), name, hashlib.sha256(data).hexdigest())
        self.photos.append(photo)
        self._storage.put(jobs.upload_key(photo.job_id, self.batch_id), data)

    def _submit(
        self,
        database: Database,
        queue: Queue,
        user_id: uuid.UUID,
        order: BatchRequest,
        key: str | None,
        limit: Limit | None,
    ) -> Batch:
        queue.require()
        # If the database's answer to the commit is lost, the batch may exist and need its photos.
        self.is_taken_in = True
        try:
            batch, self.is_taken_in = batches.submit(
                database, user_id, self.batch_id, self.photos, order, now(), key, limit
            )
        except OperationalError:
            raise
        except BaseException:
            self.is_taken_in = False
            raise
        if self.is_taken_in:
            queue.notify_workers(Line.BATCH)
        return batch


@asynccontextmanager
async def receiving(storage: Storage) -> AsyncIterator[BatchUpload]:
    """Receive a batch within the block; on exit, delete its photos unless the batch was accepted, or may have been."""
    upload = BatchUpload(storage)
    try:
        yield upload
    finally:
        if not upload.is_taken_in:
            await to_the_end(upload.discard)
