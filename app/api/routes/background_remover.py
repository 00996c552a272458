"""`/api/background-remover`: prices, and one photo."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Form, Header, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.deps import EngineDep, SettingsDep, StorageDep
from app.api.schemas import DiscountInfo, JobInfo, PlanInfo, Pricing, TierInfo
from app.errors import Problem, upload_too_large
from app.services import pricing, removals
from inference.encode import Format
from inference.layout import parse_colour
from inference.options import Options
from inference.tiers import Tier

router = APIRouter(prefix="/api/background-remover", tags=["background remover"])


class RemoveForm(BaseModel):
    """The form of `POST /remove`. A field of another name is an error, not a silent default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    image: Annotated[UploadFile, Field(description="the photo's file")]
    tier: Tier = Tier.BASIC
    format: Annotated[Format | None, Field(description="default: what `Accept` names, else `png`")] = None
    mask_only: Annotated[bool, Field(description="the alpha itself, as a grey picture")] = False
    background: Annotated[str | None, Field(description="a colour, such as `white` or `#ffffff`")] = None
    quality: Annotated[int, Field(ge=1, le=100, description="of WebP, AVIF and JPEG")] = 90


@router.get("/pricing")
async def get_pricing(engine: EngineDep) -> Pricing:
    """Prices in credits, with the model and backend that serve each tier on this host."""
    return Pricing(
        rupiah_per_credit=pricing.RUPIAH_PER_CREDIT,
        tiers=TierInfo.by_tier(engine),
        discounts=[DiscountInfo.of(discount) for discount in pricing.DISCOUNTS],
        plans={name: PlanInfo.of(plan) for name, plan in pricing.PLANS.items()},
    )


@router.post(
    "/remove",
    response_model=JobInfo,
    responses={
        200: {"content": {"image/*": {}}, "description": "The job, or the picture where `Accept` asks"}
    },
)
async def remove(
    form: Annotated[RemoveForm, Form(media_type="multipart/form-data")],
    engine: EngineDep,
    storage: StorageDep,
    settings: SettingsDep,
    accept: Annotated[str, Header()] = "",
) -> JobInfo | Response:
    """Remove the background of one photo.

    Answers with the job and its `resultUrl`; with the picture itself where `Accept` asks for `image/*`.
    """
    wants_picture, accepted = read_accept(accept)
    options = Options(
        tier=form.tier,
        format=form.format or accepted or Format.PNG,
        mask_only=form.mask_only,
        background=parse_colour(form.background) if form.background else None,
        quality=form.quality,
    )
    data = await form.image.read()
    if len(data) > settings.max_upload_bytes:
        raise upload_too_large(settings.max_upload_bytes)
    job = await removals.remove_one(engine, data, options)
    if wants_picture:
        return Response(job.cutout.data, media_type=options.format.media_type, headers=picture_headers(job))
    await removals.keep(storage, job)
    return JobInfo.of(job, result_url=f"{router.prefix}/jobs/{job.job_id}/image")


@router.get("/jobs/{job_id}/image", response_class=Response, responses={200: {"content": {"image/*": {}}}})
async def get_job_image(job_id: uuid.UUID, storage: StorageDep) -> Response:
    """Return the picture of a job."""
    stored = await removals.fetch(storage, job_id)
    if stored is None:
        raise Problem(404, "NOT_FOUND", "There is no picture by this id; it may have expired.")
    data, file_format = stored
    return Response(data, media_type=file_format.media_type, headers={"Cache-Control": "private, immutable"})


def picture_headers(job: removals.Job) -> dict[str, str]:
    """Say beside a picture what JSON says of a job."""
    cutout = job.cutout
    return {
        "X-Cutout-Model": cutout.checkpoint,
        "X-Cutout-Backend": cutout.backend,
        "X-Cutout-Substitute": str(cutout.substitute).lower(),
        "X-Cutout-No-Foreground": str(cutout.no_foreground).lower(),
        "X-Cutout-Processing-Ms": str(job.milliseconds),
        "Vary": "Accept",
    }


def read_accept(accept: str) -> tuple[bool, Format | None]:
    """Tell whether an `Accept` header asks for a picture, and of which format if it names one.

    The first media type that is JSON or a picture decides; `*/*` asks for nothing in particular.
    """
    for entry in accept.lower().split(","):
        media_type = entry.split(";")[0].strip()
        if media_type == "application/json":
            return False, None
        if media_type.startswith("image/"):
            return True, next((item for item in Format if item.media_type == media_type), None)
    return False, None
