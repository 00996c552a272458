"""Refining a result: the same photo is cut out again with other hints, from the masks that the network made of it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pydantic import ValidationError

from cutout.app.core.errors import ConflictError, InvalidInputError, NotFoundError, OverloadedError
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.session import Database
from cutout.app.db.tables import Status, now
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import OPTIONS
from cutout.app.jobs.originals import original_key
from cutout.app.storage.base import Storage
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.masked_photo import UNUSABLE, MaskedPhoto
from cutout.inference.option_values import OptionValues
from cutout.inference.options import Options

# Options of the first removal that a refinement may change. Those that decide what the network is shown stay, and so does
# the place of the subject.
CHANGEABLE = frozenset({"format", "mask_only", "background", "quality"})


class RefinementSlots:
    """Limits how many refinements are worked on at once.

    Each has a photo with masks in memory that its caller did not send, so the limit for uploads does not count it. For
    one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = max(1, count)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a slot until the end of the block.

        Raises:
            OverloadedError: none is free.

        """
        if self._free == 0:
            raise OverloadedError("Too many results are being refined. Try again in a moment.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class CannotRefine(ConflictError):
    """The result of this job cannot be refined."""

    example = "The photo of this job is no longer kept. Send it again, with the same hints."


@dataclass(frozen=True)
class Original:
    """A removal whose result can be refined: its job, options, photo with masks, and the name of the photo's file.

    `is_free` says that refining it costs nothing now.
    """

    job_id: uuid.UUID
    options: Options
    photo: MaskedPhoto = field(repr=False)
    is_free: bool
    name: str | None = None

    def refined(self, wanted: Options, values: OptionValues) -> Options:
        """Return its options with the hints of `wanted`, and with those others that are given in its `values`.

        Raises:
            InvalidInputError: a picture was behind the first result, which is not kept.
            InvalidOptions: the options do not go together.

        """
        given = {name for name, value in vars(values).items() if value is not None}
        if values.background_image is not None:
            given.add("background")
        if values.wants_mask:  # a format says so too
            given.add("mask_only")
        changed = {name: getattr(wanted, name) for name in CHANGEABLE & given}
        if isinstance(self.options.background, Picture) and "background" not in changed:
            raise InvalidInputError(
                "background: the picture behind the first result is not kept. Send it again as backgroundImage, or"
                " send another background, such as none."
            )
        hints = replace(wanted.hints, box=self.options.hints.box)
        options = replace(self.options, hints=hints, **changed)
        options.check()
        return options


async def find_original(
    database: Database, storage: Storage, user_id: uuid.UUID, job_id: uuid.UUID, free: timedelta
) -> Original:
    """Return the removal that a job's result comes from. Refining it costs nothing for the time `free` after its end.

    Raises:
        NotFoundError: the user has no such job.
        CannotRefine: it has no result, or its photo is not kept.

    """

    def find() -> Original:
        job = jobs.find(database, user_id, job_id)
        if job is not None and job.refined_from is not None:  # its masks are those of the first removal
            job = jobs.find(database, user_id, job.refined_from)
        if job is None:
            raise NotFoundError("You have no job with this id.")
        if job.status is not Status.COMPLETED or job.finished_at is None:
            raise CannotRefine("This job has no result to refine. Wait for it, or send the photo again.")
        kept = None if job.options is None else storage.get(original_key(job.id))
        if kept is None:
            raise CannotRefine(
                "The photo of this job is not kept, or no longer. Send it again, with the same hints."
            )
        try:
            options = OPTIONS.validate_python(job.options)
        except ValidationError as error:  # an option has another form now
            raise CannotRefine(UNUSABLE) from error
        is_free = now() - job.finished_at <= free
        return Original(job.id, options, MaskedPhoto.from_bytes(kept), is_free, job.name)

    return await to_storage_thread(find)
