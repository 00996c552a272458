"""`/api/auth`: logging in, and one's own API keys."""

import asyncio
import hashlib
import uuid
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from app.api.deps import DatabaseDep, RateLimitsDep, UserDep
from app.api.problems import tells
from app.api.routing import CallerFirst
from app.api.schemas import NO_NUL, Body, Schema
from app.db.tables import ApiKey
from app.errors import Problem
from app.services import accounts
from app.services.rate_limits import Kind
from app.services.tokens import TokenReader

router = APIRouter(prefix="/api/auth", tags=["account"], route_class=CallerFirst)


class Login(
    Body,
    json_schema_extra={"examples": [{"email": "anna@shop.example", "password": "correct horse battery"}]},
):
    """An account kept here."""

    email: Annotated[str, Field(max_length=320, pattern=NO_NUL)]
    password: Annotated[str, Field(max_length=1000)]


class Token(Schema):
    """To be sent as `Authorization: Bearer`, for `expiresIn` seconds."""

    access_token: str
    expires_in: int


class KeyName(Body, json_schema_extra={"examples": [{"name": "laptop"}]}):
    """What an API key is for."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class KeyInfo(Schema):
    """An API key, without the key."""

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
    """An API key, shown this once."""

    key: str


class Keys(Schema):
    """One's API keys, the newest first."""

    keys: list[KeyInfo]


@router.post("/login", responses=tells("UNAUTHENTICATED", "DATABASE_UNAVAILABLE"))
async def log_in(login: Login, request: Request, database: DatabaseDep, rate_limits: RateLimitsDep) -> Token:
    """Log in to an account that is kept here. Five wrong passwords in a minute make the address wait."""
    address = hashlib.sha256(accounts.local_subject(login.email).encode()).hexdigest()
    await rate_limits.check(Kind.LOGIN, address)
    reader: TokenReader = request.app.state.tokens
    subject = await asyncio.to_thread(accounts.log_in, database, login.email, login.password)
    if subject is None:
        await rate_limits.take(Kind.LOGIN, address)
        raise Problem("UNAUTHENTICATED", "The e-mail address or the password is wrong.")
    # Of many passwords tried at once the right one passes only where few wrong ones came before it.
    await rate_limits.check(Kind.LOGIN, address)
    token, seconds = reader.sign_login(subject)
    return Token(access_token=token, expires_in=seconds)


@router.get("/keys")
async def get_keys(user: UserDep, database: DatabaseDep) -> Keys:
    """List one's API keys."""
    found = await asyncio.to_thread(database.ask, accounts.keys, user)
    return Keys(keys=[KeyInfo.of(key) for key in found])


@router.post("/keys", status_code=201)
async def make_key(wanted: KeyName, user: UserDep, database: DatabaseDep) -> NewKey:
    """Make an API key. It is shown this once."""
    key, row = await asyncio.to_thread(database.run, accounts.create_key, user, wanted.name)
    return NewKey(**KeyInfo.of(row).model_dump(), key=key)


@router.delete("/keys/{key_id}", status_code=204, responses=tells("NOT_FOUND"))
async def revoke_key(key_id: uuid.UUID, user: UserDep, database: DatabaseDep) -> None:
    """Make an API key worthless, at once."""
    if not await asyncio.to_thread(database.run, accounts.revoke_key, user, key_id):
        raise Problem("NOT_FOUND", "You have no key by this id.")
