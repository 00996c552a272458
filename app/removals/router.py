"""`/api/background-remover`: prices, one photo, its refinement, and the credits it costs."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic.alias_generators import to_camel

from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import RefiningUserDep, RemovingUserDep, SecretDep, UserDep
from cutout.app.billing import ledger, pricing
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.billing.schemas import Credits, DiscountInfo, Entry, PlanInfo, PriceInfo, PriceRequest
from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.core.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    ConflictError,
    DeadlineExceededError,
    ImageTooLargeError,
    InvalidBackgroundError,
    InvalidImageError,
    InvalidInputError,
    NoSubjectError,
    NotFoundError,
    OverloadedError,
    RegionEmptyError,
    RegionOutsideError,
    UnsupportedFormatError,
)
from cutout.app.db.tables import Job
from cutout.app.http import backgrounds, strokes
from cutout.app.http.backgrounds import fetch_background
from cutout.app.http.dependencies import DatabaseDep, ImageFetcherDep, PresetsDep, SettingsDep, StorageDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL, OptionsForm
from cutout.app.jobs.schemas import JobInfo, TierInfo
from cutout.app.jobs.urls import API, urls_of
from cutout.app.net.image_fetcher import ImageFetcher
from cutout.app.removals import service as removals
from cutout.app.removals.dependencies import ExecutorDep, RefinementSlotsDep, RemovalContextDep
from cutout.app.removals.form import (
    RefinementForm,
    ViewForm,
    describe_refinement,
    describe_removal,
    read_refinement,
    read_removal,
)
from cutout.app.removals.refining import find_original, show
from cutout.app.removals.remote import RemoteBackground, RemotePhoto
from cutout.app.removals.schemas import PresetInfo, PresetList, Pricing
from cutout.app.stores.dependencies import ResultStoresDep
from cutout.inference.imaging.encode import Format
from cutout.inference.limits import SizeLimits
from cutout.inference.option_values import OptionValues

router = APIRouter(prefix=API, tags=["background remover"], route_class=AuthFirstRoute)

LARGEST_ID = 2**63 - 1
IdempotencyKeyHeader = Annotated[str | None, Header(min_length=1, max_length=255, pattern=NO_NUL)]
SERVING = BoundedExecutor("prices", threads=4, waiting=60, retry_after=2)


@router.get("/pricing", responses=error_responses(OverloadedError))
async def get_pricing(executor: ExecutorDep) -> Pricing:
    """Prices in credits, with the model and backend that serve each tier on this host."""
    # Anybody may ask, and where workers make pictures their queue may hang.
    _, tiers = await SERVING.run(executor.serving)
    return Pricing(
        rupiah_per_credit=pricing.RUPIAH_PER_CREDIT,
        tiers=TierInfo.by_tier(tiers),
        discounts=[DiscountInfo.of(discount) for discount in pricing.DISCOUNTS],
        plans={name: PlanInfo.of(plan) for name, plan in pricing.PLANS.items()},
    )


@router.get("/presets")
async def get_presets(presets: PresetsDep) -> PresetList:
    """List the presets of this host: their sizes and backgrounds, the options that they set, and where they come from."""
    return PresetList(presets=[PresetInfo.of(preset) for preset in presets.values()])


@router.post("/pricing/calculate")
async def calculate_price(wanted: PriceRequest, _: UserDep) -> PriceInfo:
    """Price one image, all frames of an animation, or a batch with its discount."""
    return PriceInfo.of(wanted.tier, pricing.price(wanted.tier, wanted.image_count, wanted.frames))


@router.post(
    "/remove",
    response_model=JobInfo,
    responses={
        200: {"content": {"image/*": {}}, "description": "The job, or the picture if `Accept` asks"},
        **error_responses(
            InvalidInputError,
            BodyTooSlowError,
            BodyTooLargeError,
            InvalidImageError,
            InvalidBackgroundError,
            RegionOutsideError,
            RegionEmptyError,
            NoSubjectError,
            InsufficientCredits,
            NotFoundError,
            ConflictError,
            ImageTooLargeError,
            UnsupportedFormatError,
            OverloadedError,
            DeadlineExceededError,
        ),
    },
    openapi_extra={"requestBody": {"required": True, "content": describe_removal()}},
)
async def remove(
    request: Request,
    user: RemovingUserDep,
    context: RemovalContextDep,
    fetcher: ImageFetcherDep,
    stores: ResultStoresDep,
    settings: SettingsDep,
    presets: PresetsDep,
    secret: SecretDep,
    accept: Annotated[str, Header()] = "",
    idempotency_key: IdempotencyKeyHeader = None,
) -> JobInfo | Response:
    """Remove the background of one photo.

    Answers with the job and its `resultUrl`; with the picture itself where `Accept` asks for `image/*`. What fails
    costs nothing. The same `Idempotency-Key` gives the same answer and is charged once. With a `storeUrl` the picture
    is stored there too; `store` says whether it is there, and if not, that is tried again. With `animation=all` every frame of
    an animation is cut out, at the tier's price for each, in credits.
    """
    wants_picture, accepted = read_accept(accept)
    received = await read_removal(request, settings.max_upload_bytes)
    form, photo, sizes = received.form, received.photo, settings.limits.sizes
    values, remote = await _read_values(form, received.files, accepted, fetcher, sizes)
    options = presets.options(values, to_camel, sizes)
    source = RemotePhoto(form.image_url or "", fetcher.fetch) if photo is None else photo
    store_url = None if form.store_url is None else stores.check(form.store_url, user)
    if store_url is not None:
        await stores.require_public([store_url])
    job, picture = await removals.remove_one(
        context, user.id, source, options, idempotency_key, store_url, remote, received.name
    )
    store = await stores.deliver_now(job, picture)
    if wants_picture:
        return _picture(job, picture, {} if store is None else {"X-Cutout-Store": store.status.value})
    return JobInfo.of(job, urls_of(job, secret, settings.kept), store)


@router.post(
    "/jobs/{job_id}/refine",
    response_model=JobInfo,
    responses={
        200: {"content": {"image/*": {}}, "description": "The new job, or the picture if `Accept` asks"},
        **error_responses(
            InvalidInputError,
            BodyTooSlowError,
            BodyTooLargeError,
            ImageTooLargeError,
            InvalidBackgroundError,
            NoSubjectError,
            InsufficientCredits,
            NotFoundError,
            ConflictError,
            OverloadedError,
            DeadlineExceededError,
        ),
    },
    openapi_extra={"requestBody": {"required": False, "content": describe_refinement()}},
)
async def refine(
    job_id: uuid.UUID,
    request: Request,
    user: RefiningUserDep,
    context: RemovalContextDep,
    slots: RefinementSlotsDep,
    fetcher: ImageFetcherDep,
    settings: SettingsDep,
    presets: PresetsDep,
    secret: SecretDep,
    accept: Annotated[str, Header()] = "",
    idempotency_key: IdempotencyKeyHeader = None,
) -> JobInfo | Response:
    """Make a result again with other hints or another layout, from what the network saw at first.

    Send all hints that are to hold, not only new ones. Format, background, shadow and layout may change too, one by one
    or by a `preset`; what is not sent stays. `tier`, `roi`, `box`, `keepProfile`, `maxMegapixels` and `animation` stay as they
    were. An animation cannot be refined.
    The result is a new job, and the first one stays as it is. It is free for a day after the first removal
    (`CUTOUT_FREE_REFINE_HOURS`), and has the price of its tier later.
    """
    wants_picture, accepted = read_accept(accept)
    form, files = await read_refinement(request, settings.max_upload_bytes, RefinementForm)
    values, remote = await _read_values(form, files, accepted, fetcher, settings.limits.sizes)
    free = timedelta(hours=settings.free_refine_hours)
    with slots.one(user.id):
        original = await find_original(context.database, context.storage, user.id, job_id, free)
        options = original.refined(values, presets, to_camel, settings.limits.sizes)
        job, picture = await removals.remove_one(
            context, user.id, original, options, idempotency_key, background=remote
        )
    if wants_picture:
        return _picture(job, picture)
    return JobInfo.of(job, urls_of(job, secret, settings.kept))


@router.post(
    "/jobs/{job_id}/refine/view",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The picture"},
        **error_responses(
            InvalidInputError,
            BodyTooSlowError,
            BodyTooLargeError,
            ImageTooLargeError,
            InvalidBackgroundError,
            NoSubjectError,
            NotFoundError,
            ConflictError,
            OverloadedError,
            DeadlineExceededError,
        ),
    },
    openapi_extra={"requestBody": {"required": False, "content": describe_refinement(ViewForm)}},
)
async def view_refinement(
    job_id: uuid.UUID,
    request: Request,
    user: RefiningUserDep,
    executor: ExecutorDep,
    slots: RefinementSlotsDep,
    fetcher: ImageFetcherDep,
    database: DatabaseDep,
    storage: StorageDep,
    settings: SettingsDep,
    presets: PresetsDep,
) -> Response:
    """Show how a refinement would look, in a small picture and without a job.

    Takes what `/refine` takes, and answers with a picture of at most `viewMegapixels`, as fast as a brush needs it. It costs
    nothing and is not kept. Answers 409 when refining is no longer free, and where workers make the pictures.
    """
    form, files = await read_refinement(request, settings.max_upload_bytes, ViewForm)
    values, remote = await _read_values(form, files, None, fetcher, settings.limits.sizes)
    free = timedelta(hours=settings.free_refine_hours)
    with slots.one(user.id):
        original = await find_original(database, storage, user.id, job_id, free)
        options = original.refined(values, presets, to_camel, settings.limits.sizes)
        if remote is not None:
            options = replace(options, background=await remote.fetch(remote.url))
        most_pixels = round(1_000_000 * form.view_megapixels)
        cutout = await show(executor, original, options, most_pixels, user.id)
    return Response(cutout.data, media_type=cutout.format.media_type)


@router.get("/credits")
async def get_credits(
    user: UserDep,
    database: DatabaseDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
) -> Credits:
    """Return one's balance, and the movements that make it up, the newest first."""
    balance, entries = await asyncio.to_thread(
        database.run_read_only, ledger.statement, user.id, limit, before
    )
    return Credits(balance=balance, entries=[Entry.of(entry) for entry in entries])


async def _read_values(
    form: OptionsForm,
    files: Mapping[str, bytes],
    accepted: Format | None,
    fetcher: ImageFetcher,
    sizes: SizeLimits,
) -> tuple[OptionValues, RemoteBackground | None]:
    """Return the values of a form and of its files; and the picture behind, if it has to be fetched."""
    remote, picture_behind = None, None
    if form.background_image_url is not None:
        remote = RemoteBackground(
            form.background_image_url, partial(fetch_background, fetcher=fetcher, sizes=sizes)
        )
        picture_behind = remote.stand_in
    elif backgrounds.PART in files:
        picture_behind = await backgrounds.read_part(files[backgrounds.PART], sizes)
    return form.values(accepted, picture_behind, await strokes.read_parts(files, sizes)), remote


def _picture(job: Job, picture: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    # `auto` was resolved when the picture was made.
    media_type = Format(job.format).media_type
    return Response(picture, media_type=media_type, headers=picture_headers(job) | dict(headers))


def picture_headers(job: Job) -> dict[str, str]:
    """Say beside a picture what JSON says of a job."""
    box = job.subject
    return {
        "X-Cutout-Job": str(job.id),
        "X-Cutout-Model": job.model or "",
        "X-Cutout-Backend": job.backend or "",
        "X-Cutout-Substitute": str(job.substitute).lower(),
        "X-Cutout-No-Foreground": str(job.no_foreground).lower(),
        "X-Cutout-Processing-Ms": str(job.milliseconds),
        "X-Cutout-Subject": "{left},{top},{width},{height}".format(**box) if box else "",
        "X-Cutout-Coverage": f"{job.coverage or 0:.4f}",
        "X-Cutout-Uncertainty": f"{job.uncertainty or 0:.4f}",
        "X-Cutout-Needs-Review": str(bool(job.needs_review)).lower(),
        "Vary": "Accept",
    }


def read_accept(accept: str) -> tuple[bool, Format | None]:
    """Tell whether an `Accept` header asks for the result itself, and in which format if it names one.

    The first media type that is JSON, a picture or a ZIP decides; `*/*` asks for nothing in particular.
    """
    for entry in accept.lower().split(","):
        media_type = entry.split(";")[0].strip()
        if media_type == "application/json":
            return False, None
        named = next((one for one in Format if one.media_type == media_type and one is not Format.AUTO), None)
        if named is not None or media_type.startswith("image/"):
            return True, named
    return False, None
