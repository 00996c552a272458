"""`/api/auth/session`: who is signed in on the page, signing in and signing out there."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, model_validator

from cutout.app.auth.dependencies import (
    ApiKeyDep,
    LocalAdmin,
    LoginsDep,
    SecretDep,
    SessionDep,
    TokenDep,
    get_caller,
)
from cutout.app.auth.session_cookie import forget_session, from_own_page, keep_session
from cutout.app.auth.sessions import PageSession
from cutout.app.auth.tokens import password_mark
from cutout.app.core.errors import ForbiddenError, OverloadedError, UnauthenticatedError
from cutout.app.core.schema import Schema
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.tables import Role, User
from cutout.app.http.dependencies import DatabaseDep, SettingsDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL, Body
from cutout.app.http.state import state_of

router = APIRouter(prefix="/api/auth", tags=["account"])


class SignIn(
    Body,
    json_schema_extra={
        "examples": [
            {"email": "anna@shop.example", "password": "correct horse battery"},
            {"apiKey": "cutout_…"},
        ]
    },
):
    """E-mail address and password of a local account; or an API key, for users of a platform in front."""

    email: Annotated[str, Field(max_length=320, pattern=NO_NUL)] | None = None
    password: Annotated[str, Field(max_length=1000)] | None = None
    api_key: Annotated[str, Field(max_length=200, pattern=NO_NUL)] | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "SignIn":
        given = (self.email is not None, self.password is not None, self.api_key is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("send an e-mail address and a password, or an API key")
        return self


class SignedInUser(Schema):
    """The user who is signed in. `subject` is the `sub` of the platform's tokens."""

    id: uuid.UUID
    email: str | None
    role: Role
    subject: str


class SessionInfo(Schema):
    """Whether callers need to authenticate, and who is signed in on the page; `user` is null if nobody is."""

    authentication: Literal["on", "off"]
    user: SignedInUser | None

    @classmethod
    def of(cls, user: User | None, authentication: Literal["on", "off"]) -> "SessionInfo":
        if user is None:
            return cls(authentication=authentication, user=None)
        known = SignedInUser(id=user.id, email=user.email, role=user.role, subject=user.subject)
        return cls(authentication=authentication, user=known)


@router.get(
    "/session",
    openapi_extra={"security": [{}]},
    responses=error_responses(DatabaseUnavailableError, OverloadedError),
)
async def get_session(
    request: Request,
    database: DatabaseDep,
    settings: SettingsDep,
    token: TokenDep,
    api_key: ApiKeyDep,
    cookie: SessionDep,
) -> SessionInfo:
    """Return who is signed in on the page. Without a session, or with one that has ended, `user` is null.

    Credentials in a header count here too: a platform in front may add them to every request of the page.
    """
    try:
        user = await get_caller(request, database, token, api_key, cookie)
    except (UnauthenticatedError, ForbiddenError):
        user = None
    return SessionInfo.of(user, settings.auth)


@router.post("/session", dependencies=[Depends(from_own_page)])
async def sign_in(
    wanted: SignIn,
    request: Request,
    response: Response,
    logins: LoginsDep,
    secret: SecretDep,
    settings: SettingsDep,
) -> SessionInfo:
    """Sign in on the page: the answer sets a cookie that scripts cannot read. For programs, there is `POST /login`.

    Needs the header `X-Cutout-Page: 1`. Wrong passwords are limited as for `POST /login`. Without authentication
    there is nothing to sign in to: then the answer is that of `GET`.
    """
    local_admin = state_of(request.app).find(LocalAdmin)
    if local_admin is not None:
        return SessionInfo.of(local_admin.user, settings.auth)
    if wanted.api_key is not None:
        key, user = await logins.with_key(wanted.api_key)
        signed_in = PageSession(user.id, key_id=key.id)
    else:
        user = await logins.with_password(wanted.email or "", wanted.password or "")
        signed_in = PageSession(user.id, password_mark=password_mark(user.password_hash or ""))
    keep_session(request, response, secret, signed_in)
    return SessionInfo.of(user, settings.auth)


@router.delete("/session", status_code=204, dependencies=[Depends(from_own_page)])
async def sign_out(response: Response) -> None:
    """Sign out on the page: the answer deletes the cookie. Needs the header `X-Cutout-Page: 1`."""
    forget_session(response)
