"""What routes are handed: who calls, the engine, the database, the storage, the settings.

All of these are async although few wait for anything: FastAPI sends each plain function through its thread pool, which
made eighteen trips a removal.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from cutout.app.auth import accounts
from cutout.app.auth.signed_urls import is_signed
from cutout.app.auth.tokens import InvalidToken, TokenReader, require_api_key
from cutout.app.config.settings import Settings
from cutout.app.db.session import Database
from cutout.app.db.tables import Role, User
from cutout.app.http.problem_details import Problem
from cutout.app.jobs.queue import Queue
from cutout.app.jobs.queue_stats import Backlog
from cutout.app.net.image_fetcher import Fetcher
from cutout.app.notifications.outbox import PostOffice
from cutout.app.observability.metrics import Metrics
from cutout.app.ratelimit.limits import Kind, RateLimits
from cutout.app.removals.executors import Hands
from cutout.app.removals.service import Workplace
from cutout.app.storage.base import Storage
from cutout.app.system.readiness import Readiness
from cutout.inference.errors import ModelUnavailable


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_storage(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


async def get_database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def get_secret(request: Request) -> str:
    secret: str = request.app.state.secret
    return secret


async def get_fetcher(request: Request) -> Fetcher:
    fetcher: Fetcher = request.app.state.fetcher
    return fetcher


async def get_metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def get_rate_limits(request: Request) -> RateLimits:
    rate_limits: RateLimits = request.app.state.rate_limits
    return rate_limits


async def get_queue(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


async def get_backlog(request: Request) -> Backlog:
    backlog: Backlog = request.app.state.backlog
    return backlog


async def get_readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


async def get_office(request: Request) -> PostOffice:
    office: PostOffice = request.app.state.office
    return office


async def get_stopping(request: Request) -> asyncio.Event:
    stopping: asyncio.Event = request.app.state.stopping
    return stopping


async def get_hands(request: Request) -> Hands:
    hands: Hands | None = request.app.state.hands
    if hands is None:
        raise ModelUnavailable("The models are still loading. Try again in a moment.")
    return hands


async def require_queue(queue: Annotated[Queue, Depends(get_queue)]) -> None:
    # Aside: it waits for an answer.
    await asyncio.to_thread(queue.require)


SettingsDep = Annotated[Settings, Depends(get_settings)]
StorageDep = Annotated[Storage, Depends(get_storage)]
DatabaseDep = Annotated[Database, Depends(get_database)]
SecretDep = Annotated[str, Depends(get_secret)]
FetcherDep = Annotated[Fetcher, Depends(get_fetcher)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
RateLimitsDep = Annotated[RateLimits, Depends(get_rate_limits)]
QueueDep = Annotated[Queue, Depends(get_queue)]
BacklogDep = Annotated[Backlog, Depends(get_backlog)]
ReadinessDep = Annotated[Readiness, Depends(get_readiness)]
HandsDep = Annotated[Hands, Depends(get_hands)]
OfficeDep = Annotated[PostOffice, Depends(get_office)]
# Is set when the server is told to stop: what never ends by itself ends then.
StoppingDep = Annotated[asyncio.Event, Depends(get_stopping)]


async def get_workplace(
    request: Request,
    hands: HandsDep,
    storage: StorageDep,
    database: DatabaseDep,
    settings: SettingsDep,
    metrics: MetricsDep,
) -> Workplace:
    lease = timedelta(seconds=settings.lease_seconds)
    return Workplace(
        hands,
        storage,
        database,
        lease,
        metrics=metrics,
        leases=request.app.state.leases,
        require_storage=request.app.state.readiness.require_storage,
    )


WorkplaceDep = Annotated[Workplace, Depends(get_workplace)]


TOKEN = HTTPBearer(
    scheme_name="token",
    bearerFormat="JWT",
    description="Of the platform in front, or of `POST /api/auth/login`.",
    auto_error=False,
)
API_KEY = APIKeyHeader(
    name="X-Api-Key", scheme_name="key", description="Of `POST /api/auth/keys`.", auto_error=False
)
TokenDep = Annotated[HTTPAuthorizationCredentials | None, Security(TOKEN)]
ApiKeyDep = Annotated[str | None, Security(API_KEY)]


async def get_caller(request: Request, database: DatabaseDep, token: TokenDep, api_key: ApiKeyDep) -> User:
    """Say who calls, by a bearer token or an API key; without accounts everyone is the local admin."""
    known: User | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    local_admin: User | None = request.app.state.local_admin
    if local_admin is not None:
        structlog.contextvars.bind_contextvars(user=str(local_admin.id))
        return local_admin
    reader: TokenReader = request.app.state.tokens

    if api_key:
        # What is mistyped, or made up, takes no thread and no connection to the database.
        require_api_key(api_key)
        user = await asyncio.to_thread(database.ask, accounts.by_key, api_key)
    elif token is None:
        raise InvalidToken("Send an API key (X-Api-Key) or a token (Authorization: Bearer).")
    else:
        claims = await reader.read_aside(token.credentials)
        user = await asyncio.to_thread(accounts.identify, database, claims)
    structlog.contextvars.bind_contextvars(user=str(user.id))
    return user


CallerDep = Annotated[User, Depends(get_caller)]


def counted(kind: Kind) -> Callable[[User, RateLimits], Awaitable[User]]:
    """Say who calls, and count the call; refused, it has cost nothing but the reading of its body."""

    async def get_counted(caller: CallerDep, rate_limits: RateLimitsDep) -> User:
        await rate_limits.take(kind, str(caller.id))
        return caller

    return get_counted


get_user = counted(Kind.READS)
UserDep = Annotated[User, Depends(get_user)]
RemovingUserDep = Annotated[User, Depends(counted(Kind.REMOVE))]
BatchUserDep = Annotated[User, Depends(counted(Kind.BATCH_ATTEMPT))]


async def get_reader(
    request: Request,
    database: DatabaseDep,
    secret: SecretDep,
    rate_limits: RateLimitsDep,
    token: TokenDep,
    api_key: ApiKeyDep,
    expires: int | None = None,
    signature: str | None = None,
) -> uuid.UUID | None:
    """Say whose things a call may read: the caller's, or by an address that we signed what is there, whoever's it is."""
    if expires is None or signature is None:
        caller = await get_caller(request, database, token, api_key)
        return (await get_user(caller, rate_limits)).id
    if not is_signed(secret, request.url.path, expires, signature):
        raise Problem("NOT_FOUND", "This address is not valid, or not any more. Ask for a new one.")
    return None


ReaderDep = Annotated[uuid.UUID | None, Depends(get_reader)]


async def get_admin(user: UserDep) -> User:
    """Say who calls, if it is an admin."""
    if user.role is not Role.ADMIN:
        raise Problem("FORBIDDEN", "Only an admin may do this.")
    return user


AdminDep = Annotated[User, Depends(get_admin)]
