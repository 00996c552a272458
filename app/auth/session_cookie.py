"""The cookie of the page's sessions. Scripts cannot read it, and it counts only in requests of the page itself."""

import asyncio
from typing import Annotated

from fastapi import Header, Request, Response
from fastapi.security import APIKeyCookie
from starlette.requests import HTTPConnection

from cutout.app.auth import sessions
from cutout.app.auth.sessions import LASTS, PageSession, read_session, sign_session
from cutout.app.config.settings import Settings
from cutout.app.core.errors import ForbiddenError
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.http.dependencies import SettingsDep
from cutout.app.http.openapi import raises
from cutout.app.http.own_page import (
    PAGE_HEADER,
    READING,
    is_from_https,
    is_https,
    require_own_origin,
    require_own_page,
)
from cutout.app.http.state import state_of

COOKIE = "cutout_session"
# Browsers take a cookie of this name only by HTTPS and only for this very host, so that no sibling domain can set it.
SECURE_COOKIE = f"__Host-{COOKIE}"
# The calls that the page makes. Those for clients of other APIs change something also by GET, and the page makes none.
PATHS = ("/api/background-remover/", "/api/auth/")


class SessionCookie(APIKeyCookie):
    """Finds the cookie of a session in a request, under the name that it has by HTTPS or by HTTP."""

    def __init__(self) -> None:
        super().__init__(
            name=COOKIE,
            scheme_name="session",
            description="The cookie of the page at `/`, from `POST /api/auth/session`; by HTTPS its name is"
            f" `{SECURE_COOKIE}`. It counts only in requests of the page itself: with `Sec-Fetch-Site: same-origin` or"
            " none, with this service's own `Origin` or none, and, unless the method is GET or HEAD, with the header"
            f" `{PAGE_HEADER}: 1`. Programs send a key or a token instead.",
            auto_error=False,
        )

    async def __call__(self, request: HTTPConnection) -> str | None:
        found = request.cookies.get(SECURE_COOKIE)
        if found is None and not is_https(request, _public_url(request)):
            found = request.cookies.get(COOKIE)
        return found or None


SESSION = SessionCookie()


@raises(ForbiddenError)
async def from_own_page(
    request: Request,
    settings: SettingsDep,
    _: Annotated[
        str | None, Header(alias=PAGE_HEADER, description="`1`: a page of another origin cannot send it.")
    ] = None,
) -> None:
    """Let a request pass only if the service's own page made it, or a program that says so."""
    require_own_page(request, settings.public_url)


async def find_session_user(request: Request, database: Database, secret: str, cookie: str) -> User:
    """Return the user of a session.

    Raises:
        ForbiddenError: the request is not one of the page, or the account is disabled.
        InvalidToken: the session has ended.

    """
    public_url = _public_url(request)
    if not request.scope["path"].startswith(PATHS):
        raise ForbiddenError("The cookie of the page does not count here. Send an API key or a token.")
    if request.method in READING:
        require_own_origin(request, public_url)
    else:
        require_own_page(request, public_url)
    signed_in = read_session(secret, cookie)
    return await asyncio.to_thread(database.run_read_only, sessions.user_of, signed_in)


def keep_session(request: Request, response: Response, secret: str, signed_in: PageSession) -> None:
    """Set the cookie of a session in the response."""
    is_secure = is_from_https(request, _public_url(request))
    response.set_cookie(
        SECURE_COOKIE if is_secure else COOKIE,
        sign_session(secret, signed_in),
        max_age=round(LASTS.total_seconds()),
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )


def forget_session(response: Response) -> None:
    """Delete the cookie of a session, whatever its name."""
    for name in (COOKIE, SECURE_COOKIE):
        response.delete_cookie(name, path="/", secure=name == SECURE_COOKIE, httponly=True, samesite="strict")


def _public_url(request: HTTPConnection) -> str | None:
    return state_of(request.app).get(Settings).public_url
