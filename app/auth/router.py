"""`/api/auth`: login, and the caller's API keys."""

import asyncio
import uuid
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from cutout.app.auth import accounts
from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import LoginsDep, UserDep
from cutout.app.auth.tokens import TokenReader
from cutout.app.core.errors import ConflictError, NotFoundError
from cutout.app.core.schema import Schema
from cutout.app.db.tables import ApiKey
from cutout.app.http.dependencies import DatabaseDep, SettingsDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL, Body
from cutout.app.http.state import state_of

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


@router.post("/login")
async def log_in(login: Login, request: Request, logins: LoginsDep) -> Token:
    """Log in to a local account and return an access token.

    After five wrong passwords within a minute, further logins with the same e-mail address are refused for a while
    (429). Logins from one client address, and from all addresses together, are limited too.
    """
    user = await logins.with_password(login.email, login.password)
    reader = state_of(request.app).get(TokenReader)
    token, seconds = reader.sign_login(user.subject, user.password_hash or "")
    return Token(access_token=token, expires_in=seconds)


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
