"""FastAPI dependencies that authenticate the caller by a bearer token, an API key, a signed URL or the page's cookie."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from cutout.app.auth import accounts
from cutout.app.auth.logins import Logins
from cutout.app.auth.session_cookie import SESSION, find_session_user
from cutout.app.auth.signed_urls import ServiceSecret, is_signed
from cutout.app.auth.tokens import KEY_PREFIX, InvalidToken, TokenReader, require_api_key
from cutout.app.core.errors import ForbiddenError, NotFoundError, OverloadedError, UnauthenticatedError
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.tables import Role, User
from cutout.app.http.client_address import client_of
from cutout.app.http.dependencies import DatabaseDep, RateLimitsDep, SettingsDep
from cutout.app.http.openapi import raises
from cutout.app.http.state import provided, state_of
from cutout.app.ratelimit.limits import Kind, RateLimits


@dataclass(frozen=True)
class LocalAdmin:
    """The only user of a service whose authentication is off; an admin."""

    user: User


SecretDep = Annotated[ServiceSecret, Depends(provided(ServiceSecret))]
BEARER_TOKEN = HTTPBearer(
    scheme_name="token",
    bearerFormat="JWT",
    description="A token from the platform in front, or from `POST /api/auth/login`.",
    auto_error=False,
)
API_KEY = APIKeyHeader(
    name="X-Api-Key", scheme_name="key", description="A key from `POST /api/auth/keys`.", auto_error=False
)
TokenDep = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER_TOKEN)]
ApiKeyDep = Annotated[str | None, Security(API_KEY)]
SessionDep = Annotated[str | None, Security(SESSION)]


@raises(UnauthenticatedError, ForbiddenError, DatabaseUnavailableError, OverloadedError)
async def get_caller(
    request: Request, database: DatabaseDep, token: TokenDep, api_key: ApiKeyDep, session: SessionDep
) -> User:
    """Return the caller, identified by an API key, a bearer token or, without either, the cookie of the page.

    With authentication off, it is the local admin.
    """
    known: User | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    state = state_of(request.app)
    local_admin = state.find(LocalAdmin)
    if local_admin is not None:
        structlog.contextvars.bind_contextvars(user=str(local_admin.user.id))
        return local_admin.user
    if not api_key and token is not None and token.credentials.startswith(KEY_PREFIX):
        api_key = token.credentials  # the clients of some APIs send keys so
    if api_key:
        # Reject mistyped and invented keys here, without using a thread or a database connection.
        require_api_key(api_key)
        user = await asyncio.to_thread(database.run_read_only, accounts.by_key, api_key)
    elif token is None and session is not None:
        user = await find_session_user(request, database, state.get(ServiceSecret), session)
    elif token is None:
        raise InvalidToken("Send an API key (X-Api-Key) or a token (Authorization: Bearer).")
    else:
        claims = await state.get(TokenReader).read_aside(token.credentials)
        user = await asyncio.to_thread(accounts.identify, database, claims)
    structlog.contextvars.bind_contextvars(user=str(user.id))
    return user


CallerDep = Annotated[User, Depends(get_caller)]


def counted(kind: Kind) -> Callable[[User, RateLimits], Awaitable[User]]:
    """Return a dependency that returns the caller and counts the call against the rate limit of its kind."""

    async def get_counted(caller: CallerDep, rate_limits: RateLimitsDep) -> User:
        await rate_limits.take(kind, str(caller.id))
        return caller

    return get_counted


get_user = counted(Kind.READS)
UserDep = Annotated[User, Depends(get_user)]
RemovingUserDep = Annotated[User, Depends(counted(Kind.REMOVE))]
RefiningUserDep = Annotated[User, Depends(counted(Kind.REFINE))]
BatchUserDep = Annotated[User, Depends(counted(Kind.BATCH_ATTEMPT))]


@raises(UnauthenticatedError, ForbiddenError, DatabaseUnavailableError, OverloadedError)
async def get_reader(
    request: Request,
    database: DatabaseDep,
    secret: SecretDep,
    rate_limits: RateLimitsDep,
    token: TokenDep,
    api_key: ApiKeyDep,
    session: SessionDep,
    expires: int | None = None,
    signature: str | None = None,
) -> uuid.UUID | None:
    """Return the id of the user whose data may be read. None means any user's data at this path: the URL is signed."""
    if expires is None or signature is None:
        caller = await get_caller(request, database, token, api_key, session)
        return (await get_user(caller, rate_limits)).id
    if not is_signed(secret, request.url.path, expires, signature):
        raise NotFoundError("This signed URL is invalid or has expired. Request a new one.")
    return None


ReaderDep = Annotated[uuid.UUID | None, Depends(get_reader)]


@raises(ForbiddenError)
async def get_admin(user: UserDep) -> User:
    """Return the caller if they are an admin."""
    if user.role is not Role.ADMIN:
        raise ForbiddenError("Only an admin may do this.")
    return user


AdminDep = Annotated[User, Depends(get_admin)]


@raises(UnauthenticatedError, ForbiddenError, DatabaseUnavailableError, OverloadedError)
async def get_logins(
    request: Request,
    database: DatabaseDep,
    rate_limits: RateLimitsDep,
    secret: SecretDep,
    settings: SettingsDep,
) -> Logins:
    """Return the logins of the client that makes this request."""
    has_odd_proxy = "x-forwarded-for" in request.headers and not settings.trusted_proxies
    return Logins(database, rate_limits, secret, client_of(request), has_odd_proxy)


LoginsDep = Annotated[Logins, Depends(get_logins)]
