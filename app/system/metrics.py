"""`/metrics`: the service's metrics for Prometheus."""

import asyncio
import hmac
from typing import Annotated

from fastapi import APIRouter, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cutout.app.config.base import is_loopback
from cutout.app.config.settings import Settings
from cutout.app.core.errors import UnauthenticatedError
from cutout.app.http.dependencies import ExpositionDep, SettingsDep
from cutout.app.http.openapi import error_responses

router = APIRouter(tags=["metrics"])

# A proxy on this host calls from a loopback address too, but its requests come from other machines.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


METRICS_TOKEN = HTTPBearer(
    scheme_name="metrics", description="The value of `CUTOUT_METRICS_TOKEN`.", auto_error=False
)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **error_responses(UnauthenticatedError)},
    openapi_extra={"security": [{}]},
)
async def get_metrics(
    request: Request,
    exposition: ExpositionDep,
    settings: SettingsDep,
    token: Annotated[HTTPAuthorizationCredentials | None, Security(METRICS_TOKEN)],
) -> Response:
    """Return the metrics in the Prometheus text format.

    Accessible from the service's own machine, or with `CUTOUT_METRICS_TOKEN` as a bearer token.
    """
    if not (is_from_here(request) or is_known(token, settings)):
        # Not 404: the path is documented, and a scraper with a wrong token should report that.
        raise UnauthenticatedError(
            "Call this from the service's own machine, or send CUTOUT_METRICS_TOKEN as a bearer token.",
        )
    figures = await asyncio.to_thread(exposition.text)
    return Response(figures, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def is_from_here(request: Request) -> bool:
    """Return whether a request comes from this machine: loopback client, loopback host name, no proxy headers."""
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and is_loopback(request.url.hostname or "")
        and not any(name in request.headers for name in FORWARDED)
    )


def is_known(token: HTTPAuthorizationCredentials | None, settings: Settings) -> bool:
    """Return whether a request carries the configured metrics token."""
    return (
        token is not None
        and settings.metrics_token is not None
        and hmac.compare_digest(
            token.credentials.encode(), settings.metrics_token.get_secret_value().encode()
        )
    )
