"""Whether a request that a cookie authenticates comes from a page of this service, and how that page was reached.

Browsers add cookies to requests by themselves, also to those that pages of others make. Therefore the cookie of a
session counts only where the browser says that the page is of this origin, and, for whatever changes something, where the
request has a header that no page of another origin can send: a browser would ask first, and CORS never allows it.
"""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request

from cutout.app.core.errors import ForbiddenError

PAGE_HEADER = "X-Cutout-Page"
READING = ("GET", "HEAD")


def require_own_origin(request: Request, public_url: str | None) -> None:
    """Check that a request comes from a page of this origin, as far as its headers say where it comes from.

    Raises:
        ForbiddenError: it comes from a page of another origin.

    """
    own = _own_origins(request, public_url)
    elsewhere = any(site != "same-origin" for site in request.headers.getlist("sec-fetch-site"))
    if elsewhere or any(origin not in own for origin in request.headers.getlist("origin")):
        raise ForbiddenError(
            "Pages of other origins may not use this service's cookie; send an API key (X-Api-Key) or a token"
            " (Authorization: Bearer). If this is the service's own page behind a proxy, have the proxy pass Host on, or"
            " set CUTOUT_PUBLIC_URL to the address in the browser."
        )


def require_own_page(request: Request, public_url: str | None) -> None:
    """Check that a request was made by a script of this service's own page.

    Raises:
        ForbiddenError: it comes from a page of another origin, or has no header `X-Cutout-Page`.

    """
    require_own_origin(request, public_url)
    if request.headers.get(PAGE_HEADER) != "1":
        raise ForbiddenError(
            f"With the cookie of the page, this call needs the header {PAGE_HEADER}: 1. Other programs send an API key"
            " (X-Api-Key) or a token (Authorization: Bearer)."
        )


def is_https(request: HTTPConnection, public_url: str | None) -> bool:
    """Return whether the browser reaches this service by HTTPS, as far as is known here.

    It is known from the connection, from a trusted proxy, or because the request is for the host of `CUTOUT_PUBLIC_URL`.
    """
    if request.url.scheme == "https":
        return True
    return public_url is not None and _origin_of(public_url) == f"https://{_host(request)}"


def is_from_https(request: Request, public_url: str | None) -> bool:
    """Return whether a script of a page made this request that was loaded by HTTPS.

    A proxy that nobody trusts may have taken the HTTPS off; the browser's `Origin` still tells.
    """
    return is_https(request, public_url) or request.headers.get("origin", "").startswith("https://")


def _own_origins(request: Request, public_url: str | None) -> set[str]:
    host = _host(request)
    # By HTTPS also where the request came without it, since a proxy may have taken it off; never the other way round.
    own = {f"https://{host}"}
    if not is_https(request, public_url):
        own.add(f"http://{host}")
    if public_url is not None:
        own.add(_origin_of(public_url))
    return own


def _host(request: HTTPConnection) -> str:
    return request.headers.get("host", "").lower()


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
