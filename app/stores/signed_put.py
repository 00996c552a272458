"""Storing a result by a PUT to an address that the user has signed."""

import re

import httpx2

from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.notifications.errors import NotDelivered
from cutout.app.notifications.sending import send

# Azure refuses a PUT that does not say which kind of object it makes.
AZURE = re.compile(r"\.blob\.core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)", re.IGNORECASE)
# Of the refusals, those that a later attempt may not meet: timeouts, locks, and too many calls.
PASSING = {408, 409, 423, 425, 429}


async def put(http_client: SafeHttpClient, url: str, data: bytes, media_type: str, seconds: float) -> int:
    """Send a result to an address, and return the status code. Redirects are not followed, the answer is not read.

    Raises:
        NotDelivered: the address is not allowed, the server does not respond in time, or refuses the result.

    """
    headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
    if AZURE.search(httpx2.URL(url).host):
        headers["x-ms-blob-type"] = "BlockBlob"
    status, retry_after = await send(http_client, "PUT", url, headers, data, seconds)
    if not 200 <= status < 300:
        raise NotDelivered(
            _reason(status, media_type),
            status=status,
            final=_is_final(status),
            retry_after=retry_after,
        )
    return status


def _is_final(status: int) -> bool:
    return 300 <= status < 500 and status not in PASSING


def _reason(status: int, media_type: str) -> str:
    if status < 400:
        return f"The store answers {status}, a redirect, which is not followed. Sign the address that it leads to."
    if status in (400, 401, 403):
        return (
            f"The store refuses the address with {status}: its signature may have expired, or may not allow a PUT of"
            f" {media_type}. The result is still at resultUrl."
        )
    if status in (404, 410):
        return f"The store answers {status}: there is no such bucket or container. The result is still at resultUrl."
    return f"The store answers {status} instead of 2xx."
