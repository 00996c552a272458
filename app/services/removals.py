"""One photo: from the caller's bytes to a stored result."""

import asyncio
import time
import uuid
from dataclasses import dataclass

import structlog

from app.storage import Storage
from inference.encode import Format
from inference.engine import Cutout, Engine
from inference.options import Options

log = structlog.get_logger()

RESULTS = "results/"


@dataclass(frozen=True)
class Job:
    """A removal that was done. `milliseconds` counts from the caller's bytes to the finished picture."""

    job_id: str
    cutout: Cutout
    milliseconds: int


async def remove_one(engine: Engine, data: bytes, options: Options) -> Job:
    """Remove the background of one photo; other calls go on meanwhile.

    Raises:
        CutoutError: the photo cannot be taken, or the engine has too much waiting.

    """
    start = time.perf_counter()
    job_id = str(uuid.uuid4())
    cutout = await asyncio.wrap_future(engine.submit(data, options))
    job = Job(job_id, cutout, round(1000 * (time.perf_counter() - start)))
    log.info(
        "Background removed successfully",
        tier=cutout.tier.value,
        job=job_id,
        model=cutout.checkpoint,
        backend=cutout.backend,
        ms=job.milliseconds,
        no_foreground=cutout.no_foreground,
    )
    return job


async def keep(storage: Storage, job: Job) -> None:
    """Store a job's picture, to be fetched by its id.

    Raises:
        StorageError: it cannot be written.

    """
    await asyncio.to_thread(storage.put, _key(job.job_id, job.cutout.format), job.cutout.data)


async def fetch(storage: Storage, job_id: uuid.UUID) -> tuple[bytes, Format] | None:
    """Return a stored picture and its format, or None where there is none by that id."""
    for file_format in Format:
        data = await asyncio.to_thread(storage.get, _key(str(job_id), file_format))
        if data is not None:
            return data, file_format
    return None


def _key(job_id: str, file_format: Format) -> str:
    return f"{RESULTS}{job_id}.{file_format.value}"
