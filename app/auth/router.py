"""`/api/auth`: login, and the caller's API keys."""

import asyncio
import hashlib
import hmac
import uuid
from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Request
from pydantic import Field

from cutout.app.auth import accounts
from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import SecretDep, UserDep
from cutout.app.auth.tokens import TokenReader
from cutout.app.core.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
)
from cutout.app.core.schema import Schema
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.tables import ApiKey
from cutout.app.http.client_address import client_of
from cutout.app.http.dependencies import DatabaseDep, RateLimitsDep, SettingsDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL, Body
from cutout.app.http.state import state_of
from cutout.app.ratelimit.limits import Kind, RateLimited

log = structlog.get_logger()

router = APIRouter(prefix="/api/auth", tags=["account"], route_class=AuthFirstRoute)


class Login(
    Body,
    json_schema_extra={"examples": [{"email": "anna@shop.example", "password": "correct horse battery"}]},
):
    """E-mail address and password of a local account."""

    email: Annotated[str, Field(max_length=320, pattern=NO_NUL)]
    password: Annotated[str, Field(max_length=1000)]


class Token(Schema):
    """An access token, to be sent as `Authorization: Bearer`. It expires after `expiresIn` seconds."""

    access_token: str
    expires_in: int


class KeyName(Body, json_schema_extra={"examples": [{"name": "laptop"}]}):
    """A name for a new API key, such as the program or device that will use it."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class KeyInfo(Schema):
    """An API key. `shown` is only the beginning of the key; `revokedAt` is null while the key is valid."""

    id: uuid.UUID
    name: str
    shown: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyInfo":
        return cls(
            id=key.id, name=key.name, shown=key.shown, created_at=key.created_at, revoked_at=key.revoked_at
        )


class NewKey(KeyInfo):
    """A new API key. `key` is returned only in this response, so store it now."""

    key: str


class Keys(Schema):
    """The caller's API keys, newest first."""

    keys: list[KeyInfo]


@router.post(
    "/login",
    responses=error_responses(
        UnauthenticatedError, ForbiddenError, DatabaseUnavailableError, OverloadedError
    ),
)
async def log_in(
    login: Login,
    request: Request,
    database: DatabaseDep,
    rate_limits: RateLimitsDep,
    secret: SecretDep,
    settings: SettingsDep,
) -> Token:
    """Log in to a local account and return an access token.

    After five wrong passwords within a minute, further logins with the same e-mail address are refused for a while
    (429). Logins from one client address, and from all addresses together, are limited too.
    """
    account = hashlib.sha256(accounts.local_subject(login.email).encode()).hexdigest()
    await rate_limits.check(Kind.LOGIN, account)
    # A login refused for its client address does not count towards the limit for all addresses.
    try:
        await rate_limits.take(Kind.LOGIN_ADDRESS, _hidden(secret, client_of(request)))
    except RateLimited:
        if "x-forwarded-for" in request.headers and not settings.trusted_proxies:
            # Either a client forged the header, or the service is behind a proxy and all its clients count as one.
            log.warning("logins refused; if the client is your proxy, add it to CUTOUT_TRUSTED_PROXIES")
        raise
    await rate_limits.take(Kind.LOGIN_ALL, "all")
    reader = state_of(request.app).get(TokenReader)
    user = await accounts.PASSWORDS.run(accounts.log_in, database, login.email, login.password)
    if user is None:
        await rate_limits.take(Kind.LOGIN, account)
        # People type passwords into the wrong field, so what was typed is not logged.
        raise UnauthenticatedError(
            "The e-mail address or the password is wrong.",
            reason="login: no such account, or a wrong password",
        )
    # Check again: of many passwords tried at once, the right one must not pass after too many wrong ones.
    await rate_limits.check(Kind.LOGIN, account)
    structlog.contextvars.bind_contextvars(user=str(user.id))
    token, seconds = reader.sign_login(user.subject, user.password_hash or "")
    return Token(access_token=token, expires_in=seconds)


def _hidden(secret: str, client: str) -> str:
    """Return a keyed hash of a client's address, so that the address itself is not stored in Redis."""
    return hmac.new(secret.encode(), client.encode(), hashlib.sha256).hexdigest()


@router.get("/keys")
async def get_keys(user: UserDep, database: DatabaseDep) -> Keys:
    """List the caller's API keys, including revoked ones, newest first."""
    found = await asyncio.to_thread(database.run_read_only, accounts.keys, user)
    return Keys(keys=[KeyInfo.of(key) for key in found])


@router.post("/keys", status_code=201, responses=error_responses(ConflictError))
async def make_key(wanted: KeyName, user: UserDep, database: DatabaseDep, settings: SettingsDep) -> NewKey:
    """Create an API key. The key is returned only in this response."""
    most = settings.max_api_keys
    key, row = await asyncio.to_thread(
        database.run_in_transaction, accounts.create_key, user, wanted.name, most
    )
    return NewKey(**KeyInfo.of(row).model_dump(), key=key)


@router.delete("/keys/{key_id}", status_code=204, responses=error_responses(NotFoundError))
async def revoke_key(key_id: uuid.UUID, user: UserDep, database: DatabaseDep) -> None:
    """Revoke an API key. It stops working at once."""
    if not await asyncio.to_thread(database.run_in_transaction, accounts.revoke_key, user, key_id):
        raise NotFoundError("You have no API key with this id.")
