"""A batch's ZIP: its results under the photos' file names, and a manifest with the outcome of each photo.

`zipfile` is used rather than a streaming library. Each result is complete in memory, so the entry's header contains its
size and checksum, and tools that unpack during the download can read it. The entries' timestamps can also be set, so
that a batch gives the same bytes whichever worker builds its ZIP.
"""

import hashlib
import io
import struct
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from zipfile import ZipFile, ZipInfo

from cutout.app.batches import service as batches
from cutout.app.batches.names import unique_stems
from cutout.app.core.schema import Schema
from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs import queries as stored
from cutout.app.jobs.schemas import JobError, StoreInfo, SubjectBox
from cutout.app.storage.base import Storage
from cutout.inference.tiers import Tier

MANIFEST = "manifest.json"


class ArchiveError(Exception):
    """The result of a completed job is missing, or its checksum differs."""

    def __init__(self, job_id: uuid.UUID, detail: str) -> None:
        super().__init__(detail)
        self.job_id = job_id


class ManifestImage(Schema):
    """Outcome of one photo. `name` is the file name of the upload, `file` that of the result in the ZIP.

    `store` is the way of the result to its user's own store, as it was when the ZIP was made.
    """

    position: int | None
    name: str | None
    file: str | None
    status: Status
    sha256: str | None
    bytes: int | None
    width: int | None
    height: int | None
    model: str | None
    backend: str | None
    substitute: bool | None
    no_foreground: bool | None
    subject: SubjectBox | None
    coverage: float | None
    uncertainty: float | None
    needs_review: bool | None
    notes: list[str]
    processing_ms: int | None
    store: StoreInfo | None
    error: JobError | None

    @classmethod
    def of(cls, job: Job, file: str | None, size: int | None, store: StoreInfo | None) -> "ManifestImage":
        return cls(
            position=job.position,
            name=job.name,
            file=file,
            status=job.status,
            sha256=job.sha256,
            bytes=size,
            width=job.width,
            height=job.height,
            model=job.model,
            backend=job.backend,
            substitute=job.substitute,
            no_foreground=job.no_foreground,
            subject=SubjectBox.of(job.subject),
            coverage=job.coverage,
            uncertainty=job.uncertainty,
            needs_review=job.needs_review,
            notes=job.notes or [],
            processing_ms=job.milliseconds,
            store=store,
            error=JobError(code=job.error_code, detail=job.error_detail or "") if job.error_code else None,
        )


class Manifest(Schema):
    """The final state of a batch, and its photos in the order of upload."""

    batch_id: uuid.UUID
    tier: Tier
    status: Status
    counts: dict[Status, int]
    created_at: datetime
    credits_charged: int
    credits_returned: int
    images: list[ManifestImage]

    @classmethod
    def of(cls, batch: Batch, jobs: Sequence[Job], images: list[ManifestImage]) -> "Manifest":
        counts = Counter(job.status for job in jobs)
        returned = batches.credits_of_unfinished(jobs)
        return cls(
            batch_id=batch.id,
            tier=batch.tier,
            status=batches.end_status(batch, counts),
            counts=counts,
            created_at=batch.created_at,
            credits_charged=batch.credits - returned,
            credits_returned=returned,
            images=images,
        )


def store(
    storage: Storage,
    batch: Batch,
    jobs: Sequence[Job],
    stores: Mapping[uuid.UUID, StoreInfo] | None = None,
) -> int:
    """Write a batch's ZIP to storage, with one result at a time in memory; return its size in bytes.

    `stores` are the ways of results to their user's own store, by job.

    Raises:
        ArchiveError: a completed job's result is missing, or its SHA-256 differs; no ZIP is left.
        StorageError: a result cannot be read, or the ZIP cannot be written; no ZIP is left.

    """
    end = _End()
    storage.put_stream(stored.archive_key(batch.id), parts_of(end, storage, batch, jobs, stores or {}))
    return end.start


def zip_names(jobs: Sequence[Job]) -> dict[uuid.UUID, str]:
    """Return the file names of completed jobs: the names of the photos with the extension of the output format.

    The names are safe to unpack on any system, and unique even if case is ignored; a photo's name does not depend on
    whether others completed.
    """
    ordered = _in_order(jobs)
    stems = unique_stems([(job.name or "", job.position or 0) for job in ordered])
    return {
        job.id: f"{stem}.{job.format}"
        for job, stem in zip(ordered, stems, strict=True)
        if job.status is Status.COMPLETED
    }


def _in_order(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: job.position or 0)


def parts_of(
    end: "_End",
    storage: Storage,
    batch: Batch,
    jobs: Sequence[Job],
    stores: Mapping[uuid.UUID, StoreInfo],
) -> Iterator[bytes]:
    """Yield the ZIP in parts. The manifest is the last entry, because it describes the entries before it."""
    names = zip_names(jobs)
    images = []
    with ZipFile(end, "w") as archive:
        for job in _in_order(jobs):
            file, size = names.get(job.id), None
            if file is not None:
                picture = _picture(storage, job)
                size = len(picture)
                archive.writestr(_entry(file, batch.created_at), picture)
                del picture
                yield end.take()
            images.append(ManifestImage.of(job, file, size, stores.get(job.id)))
        manifest = Manifest.of(batch, jobs, images).model_dump_json(by_alias=True, indent=2)
        archive.writestr(_entry(MANIFEST, batch.created_at), manifest + "\n")
    yield end.take()


def _picture(storage: Storage, job: Job) -> bytes:
    picture = storage.get(stored.result_key_of(job))
    if picture is None:
        raise ArchiveError(
            job.id,
            "The result was created but no longer exists. The photo was not charged; send it again.",
        )
    if hashlib.sha256(picture).hexdigest() != job.sha256:
        raise ArchiveError(
            job.id,
            "The stored result was changed after it was created. The photo was not charged; send it again.",
        )
    return picture


def _entry(name: str, at: datetime) -> ZipInfo:
    at = at.astimezone(UTC)
    entry = ZipInfo(name, at.timetuple()[:6])
    # The ZIP timestamp has no time zone and is read as local time; this extra field, "UT", holds a Unix timestamp.
    entry.extra = struct.pack("<HHBl", 0x5455, 5, 1, int(at.timestamp()))
    entry.create_system = 3  # Unix, wherever this runs
    entry.external_attr = 0o100644 << 16
    return entry


class _End(io.BytesIO):
    """Buffer for the tail of a file that is being written; the bytes from 0 to `start` were already taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.start = 0

    def tell(self) -> int:
        return self.start + super().tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self.start + super().seek(offset - (self.start if whence == io.SEEK_SET else 0), whence)

    def take(self) -> bytes:
        """Return the buffered bytes and remove them from the buffer."""
        data = self.getvalue()
        self.start += len(data)
        super().seek(0)
        self.truncate()
        return data
