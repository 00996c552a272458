"""Refining a result: the same photo is cut out again with other hints, from the masks that the network made of it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pydantic import ValidationError

from cutout.app.core.errors import ConflictError, InvalidInputError, NotFoundError, OverloadedError
from cutout.app.core.shares import Shares
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.session import Database
from cutout.app.db.tables import Status, now
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import OPTIONS
from cutout.app.jobs.originals import original_key
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.storage.base import Storage
from cutout.inference.cutout import Cutout
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import NO_MARGIN
from cutout.inference.limits import SizeLimits
from cutout.inference.masked_photo import UNUSABLE, MaskedPhoto
from cutout.inference.option_values import OptionValues, check_options, read_options
from cutout.inference.options import Options
from cutout.inference.presets import Preset, Presets

# Options of the first removal that a refinement may change: those of the whole result, and those of its layout. All of them
# act on what the network returned. Those that decide what it is shown stay.
CHANGEABLE = frozenset(
    {"format", "mask_only", "background", "quality", "shadow", "keep_shadow", "require_subject"}
)
CHANGEABLE_LAYOUT = frozenset({"trim", "margin", "scale", "position", "canvas"})


class RefinementSlots:
    """Limits how many refinements are worked on at once.

    Each has a photo with masks in memory that its caller did not send, so the limit for uploads does not count it. A
    quarter of them is the most for one user, or two: a picture for the background that comes slowly from elsewhere holds
    a slot for long. For one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = max(1, count)
        self._shares = Shares(
            max(2, count // 4), "Too many of your results are being refined. Try again in a moment."
        )

    @contextmanager
    def one(self, user_id: uuid.UUID) -> Iterator[None]:
        """Take a slot for a user until the end of the block.

        Raises:
            OverloadedError: none is free, or the user has their share.

        """
        with self._shares.one(user_id):
            if self._free == 0:
                raise OverloadedError("Too many results are being refined. Try again in a moment.")
            self._free -= 1
            try:
                yield
            finally:
                self._free += 1


class NoView(ConflictError):
    """A refinement cannot be looked at before it is made."""

    example = "Refining this result is no longer free, so it cannot be looked at first. Refine it."


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

    def refined(
        self, values: OptionValues, presets: Presets, named: Callable[[str], str], sizes: SizeLimits
    ) -> Options:
        """Return its options with the hints of `values`, and with those others that are given in them.

        A preset stands for all that a refinement may change: what neither it nor the other values give has its default, as
        in a removal with this preset. `named` returns the name that the caller knows an option by.

        Raises:
            InvalidInputError: a picture was behind the first result, which is not kept.
            InvalidOptions: a value cannot be used, the options do not go together, or the preset would change what the
                network is shown.
            InvalidBackground: the picture for the background cannot be read.

        """
        filled = presets.apply(values, named)
        wanted = read_options(filled, named, sizes)
        if values.preset is not None:
            self._require_same_view(presets.require(values.preset), wanted, named)
        given = CHANGEABLE | CHANGEABLE_LAYOUT if values.preset is not None else _given(filled)
        if isinstance(self.options.background, Picture) and "background" not in given:
            raise InvalidInputError(
                "background: the picture behind the first result is not kept. Send it again as backgroundImage, or"
                " send another background, such as none."
            )
        changed = {name: getattr(wanted, name) for name in CHANGEABLE & given}
        placed = {name: getattr(wanted.layout, name) for name in CHANGEABLE_LAYOUT & given}
        layout = replace(self.options.layout, **placed)
        if (
            not layout.trim and layout.canvas is None and "margin" not in given
        ):  # it went with one that is gone
            layout = replace(layout, margin=NO_MARGIN)
        hints = replace(wanted.hints, box=self.options.hints.box)
        # An animation is not refined, so this is a still picture.
        options = replace(self.options, hints=hints, layout=layout, all_frames=False, **changed)
        check_options(options, sizes)
        return options

    def _require_same_view(self, preset: Preset, wanted: Options, named: Callable[[str], str]) -> None:
        """Refuse a preset, of the operator's own, that sets what stays to another value than the first removal's."""
        first = self.options
        stays = {
            "roi": wanted.layout.region == first.layout.region,
            "box": wanted.hints.box == first.hints.box,
            "keep_profile": wanted.keep_profile == first.keep_profile,
            "max_megapixels": wanted.layout.max_pixels == first.layout.max_pixels,
        }
        for name in preset.given:
            if not stays.get(name, True):
                raise InvalidOptions(
                    f"{named('preset')}: {preset.name} sets {named(name)}, which stays as it was in the first removal."
                    " Choose another preset, or send the photo to /remove again."
                )


def _given(values: OptionValues) -> set[str]:
    """Return the options that are given in values, and those that they switch off, as they do in a preset."""
    given = {name for name, value in vars(values).items() if value is not None}
    if values.background_image is not None:
        given.add("background")
    if values.wants_mask:  # a format says so too; it has none of the others
        given |= {"mask_only", "background", "shadow", "keep_shadow"}
    if values.keep_shadow:  # there is only one shadow
        given.add("shadow")
    if values.shadow == "soft":
        given.add("keep_shadow")
    return given


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
        if (job.frames or 1) > 1:
            raise CannotRefine("An animation cannot be refined. Send it again, with other options.")
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


async def show(
    executor: RemovalExecutor, original: Original, options: Options, most_pixels: int, user_id: uuid.UUID
) -> Cutout:
    """Return a picture of at most so many pixels, as a refinement with these options would look. It is no job.

    Raises:
        NoView: refining costs something by now, or the networks run elsewhere.
        CutoutError: the picture cannot be made.

    """
    if not original.is_free:
        raise NoView("Refining this result is no longer free, so it cannot be looked at first. Refine it.")
    if options.format is Format.ZIP:  # to look at
        options = replace(options, format=Format.PNG)
    cutout = await executor.show(original.photo, options, most_pixels, user_id)
    if cutout is None:
        raise NoView(
            "Workers make the pictures on this host, so a refinement cannot be looked at first. Refine it."
        )
    return cutout
