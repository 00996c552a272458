"""`/metrics`: the service's figures, for its operator."""

import asyncio
import hmac
from typing import Annotated

from fastapi import APIRouter, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cutout.app.config.base import is_loopback
from cutout.app.config.settings import Settings
from cutout.app.core.errors import UnauthenticatedError
from cutout.app.http.dependencies import MetricsDep, SettingsDep
from cutout.app.http.openapi import error_responses

router = APIRouter(tags=["metrics"])

# A proxy on this host calls from a loopback address too; what it calls for comes from elsewhere.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


METRICS_TOKEN = HTTPBearer(scheme_name="metrics", description="`CUTOUT_METRICS_TOKEN`.", auto_error=False)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **error_responses(UnauthenticatedError)},
    openapi_extra={"security": [{}]},
)
async def get_metrics(
    request: Request,
    metrics: MetricsDep,
    settings: SettingsDep,
    token: Annotated[HTTPAuthorizationCredentials | None, Security(METRICS_TOKEN)],
) -> Response:
    """Return the figures in Prometheus' text format: to this machine, or by `CUTOUT_METRICS_TOKEN`."""
    if not (is_from_here(request) or is_known(token, settings)):
        # No 404: where it is stands in the documentation, and a scraper with a wrong token should say so.
        raise UnauthenticatedError(
            "Ask from the service's own machine, or send CUTOUT_METRICS_TOKEN as a bearer token.",
        )
    figures = await asyncio.to_thread(generate_latest, metrics.registry)
    return Response(figures, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def is_from_here(request: Request) -> bool:
    """Tell whether a call comes from this machine, as far as can be told: straight, and by a name of its own."""
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and is_loopback(request.url.hostname or "")
        and not any(name in request.headers for name in FORWARDED)
    )


def is_known(token: HTTPAuthorizationCredentials | None, settings: Settings) -> bool:
    """Tell whether a call brings the metrics' token."""
    return (
        token is not None
        and settings.metrics_token is not None
        and hmac.compare_digest(
            token.credentials.encode(), settings.metrics_token.get_secret_value().encode()
        )
    )
