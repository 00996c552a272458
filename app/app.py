"""The service, put together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from cutout import __version__
from cutout.app.auth import accounts
from cutout.app.auth import router as auth_router
from cutout.app.auth.tokens import TokenReader
from cutout.app.batches import router as batches_router
from cutout.app.billing import admin_router
from cutout.app.billing import router as billing_router
from cutout.app.bootstrap import engine_from, mailer_from, prepare, storage_from
from cutout.app.config.data_folder import open_data_folder
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.app.core import log_config
from cutout.app.core.shutdown import Stopping
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.embedded.supervisor import Embedded
from cutout.app.http import middleware, openapi, problem_details, security_headers
from cutout.app.http.metrics_middleware import Measure
from cutout.app.jobs.lease_renewal import Leases, renewing
from cutout.app.jobs.model_status import served_by
from cutout.app.jobs.queue import Queue
from cutout.app.jobs.queue_stats import Backlog
from cutout.app.maintenance import sweeping
from cutout.app.net.image_fetcher import Fetcher
from cutout.app.net.safe_http import Outside
from cutout.app.net.url_policy import Destinations
from cutout.app.notifications.outbox import PostOffice
from cutout.app.observability.metrics import Metrics
from cutout.app.ratelimit.limits import Kind, Limit, RateLimits
from cutout.app.removals import router as removals_router
from cutout.app.removals.executors import Elsewhere, Hands, Here
from cutout.app.stats import router as stats_router
from cutout.app.storage.base import Storage
from cutout.app.system import health, metrics, page
from cutout.app.system.readiness import Readiness
from cutout.inference.engine import Engine

log = structlog.get_logger()

# For one e-mail address.
WRONG_PASSWORDS = Limit(5, 60)


def create_app(
    settings: Settings | None = None,
    make_engine: Callable[[Settings], Engine] | None = None,
    embedded: Embedded | None = None,
) -> FastAPI:
    """Build the service. `make_engine` stands in for the real engine in tests of everything else; what is `embedded`
    runs while the service does.

    Raises:
        SettingsError: a setting is unknown, malformed or unsafe.

    """
    settings = settings or load_settings()
    log_config.configure(settings.log_format)
    open_data_folder(settings)
    database, storage = Database(settings.database, settings.database_seconds), storage_from(settings)

    async def load(service: FastAPI) -> Hands:
        engine = await asyncio.to_thread(make_engine or engine_from, settings)
        await asyncio.to_thread(engine.warm_up)
        service.state.engine = engine
        for tier, served in served_by(engine).items():
            log.info(
                "background-remover: ENABLED",
                tier=tier.value,
                model=served.model,
                backend=served.backend,
                substitute_for=served.wanted if served.substitute else None,
            )
        return Here(engine, storage, database)

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(prepare, settings, database, storage)
        if settings.auth == "off":
            service.state.local_admin = await asyncio.to_thread(accounts.local_admin, database)
        hands: Hands
        if settings.api_engine == "local":
            hands = await load(service)
        else:
            hands = Elsewhere(
                service.state.queue,
                storage,
                database,
                settings.max_waiting,
                timedelta(seconds=settings.deadline_seconds),
            )
            log.info("background-remover: ENABLED", engine="workers behind the queue")
        service.state.hands = hands
        service.state.metrics.about(__version__, await asyncio.to_thread(migrate.head))
        lease = timedelta(seconds=settings.lease_seconds)
        async with AsyncExitStack() as beside:
            await beside.enter_async_context(service.state.readiness.looking())
            beside.enter_context(renewing(service.state.leases, database, lease))
            await beside.enter_async_context(
                sweeping(
                    database,
                    storage,
                    service.state.queue,
                    service.state.office,
                    service.state.leases,
                    kept=timedelta(days=settings.result_days),
                    lease=lease,
                    deadline=timedelta(seconds=settings.deadline_seconds),
                )
            )
            yield
        # Who waits longer for the engine would be killed instead.
        with suppress(TimeoutError):
            async with asyncio.timeout(service.state.stopping.times.closing):
                await hands.close()
        await service.state.rate_limits.close()
        service.state.queue.close()
        service.state.backlog.close()
        database.close()

    @asynccontextmanager
    async def household(service: FastAPI) -> AsyncIterator[None]:
        if embedded is None:
            async with lifespan(service):
                yield
            return
        times = service.state.stopping.times
        # Workers load their models once the service's own are there: together both would be late.
        async with (
            embedded.queue(times.queue),
            lifespan(service),
            embedded.workers(times.workers),
        ):
            early = asyncio.create_task(stop_workers_early(service.state.stopping, embedded))
            try:
                yield
            finally:
                early.cancel()

    async def stop_workers_early(stopping: Stopping, embedded: Embedded) -> None:
        """Let workers finish beside the service's own requests, unless it is they who do those."""
        await stopping.wait()
        if settings.api_engine == "local":
            await asyncio.to_thread(embedded.ask_workers_to_stop)

    service = FastAPI(
        title="Cutout",
        version=__version__,
        summary="Background removal on your own GPU.",
        openapi_tags=openapi.TAGS,
        lifespan=household,
        # Its own page loads scripts from elsewhere; ours is among the pages.
        docs_url=None,
        redoc_url=None,
        # A redirect would repeat the host that the caller named, whatever that is.
        redirect_slashes=False,
    )
    _furnish(service, settings, database, storage, embedded)
    _guard(service, settings)
    problem_details.install(service)
    _open(service, settings)
    return service


def limits_of(settings: Settings) -> dict[Kind, Limit]:
    """Return how often what may be called. Without accounts nobody is kept from his own machine."""
    calls = {
        Kind.REMOVE: Limit(settings.remove_per_minute, 60),
        Kind.BATCH: Limit(settings.batch_per_hour, 3600),
        Kind.BATCH_ATTEMPT: Limit(settings.batch_attempts_per_hour, 3600),
        Kind.READS: Limit(settings.reads_per_minute, 60),
    }
    limited = {kind: limit for kind, limit in calls.items() if limit.calls > 0 and settings.auth == "on"}
    logins = {
        Kind.LOGIN_ADDRESS: Limit(settings.login_per_minute, 60),
        Kind.LOGIN_ALL: Limit(settings.all_logins_per_minute, 60),
    }
    limited |= {kind: limit for kind, limit in logins.items() if limit.calls > 0}
    return {Kind.LOGIN: WRONG_PASSWORDS} | limited


def _furnish(
    service: FastAPI,
    settings: Settings,
    database: Database,
    storage: Storage,
    embedded: Embedded | None,
) -> None:
    """Put what routes are handed into the service's state; hands and engine come at the start."""
    state = service.state
    state.settings = settings
    state.storage = storage
    state.database = database
    state.secret = settings.secret_or_own()
    state.tokens = TokenReader(
        state.secret,
        secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
        jwks_url=settings.jwks_url,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
    outside = Outside(Destinations(settings.fetch_allow_networks))
    state.fetcher = Fetcher(outside, settings.max_upload_bytes, settings.fetch_seconds)
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    # The embedded queue is for one host, which counts in its own memory.
    state.rate_limits = RateLimits(limits_of(settings), redis_url)
    queue_url = redis_url if embedded is None else embedded.queue_url
    state.queue = Queue(queue_url)
    state.backlog = Backlog(database, queue_url)
    state.metrics = Metrics(lambda: state.engine, state.rate_limits.refused, state.backlog)
    state.office = PostOffice(
        database,
        outside,
        state.secret,
        timedelta(days=settings.result_days),
        mailer_from(settings),
        settings.public_url or "",
        state.metrics,
        # On one's own machine the mail server is one's own, too.
        notify_any_email=settings.notify_any_email or settings.auth == "off",
    )
    state.leases = Leases()
    state.readiness = Readiness(
        database, state.backlog, storage, timedelta(seconds=settings.storage_check_seconds)
    )
    state.stopping = Stopping()
    state.local_admin = None
    state.engine = state.hands = None


def _guard(service: FastAPI, settings: Settings) -> None:
    """Put what every request passes before the routes."""
    # The last one added is the first one passed.
    most = settings.max_upload_bytes
    uploads = {
        f"{removals_router.router.prefix}/remove": (most, problem_details.upload_too_large),
        f"{batches_router.router.prefix}/batch": (settings.max_batch_bytes, problem_details.batch_too_large),
    }
    service.add_middleware(middleware.Unexpected)
    service.add_middleware(
        middleware.BodyMemory, paths=uploads, total_bytes=settings.uploads_at_once_bytes, most_bytes=most
    )
    service.add_middleware(
        middleware.BodyTime,
        seconds=settings.upload_seconds,
        bytes_each=most,
        stopping=service.state.stopping,
    )
    service.add_middleware(middleware.BodyLimit, uploads=uploads)
    if settings.cors_origins:
        service.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=security_headers.CORS_METHODS,
            allow_headers=security_headers.CORS_SENT,
            expose_headers=security_headers.CORS_READ,
            max_age=security_headers.CORS_SECONDS,
        )
    if settings.auth == "off":
        # Whatever other origins may else: here they would be the admin.
        service.add_middleware(middleware.LocalOnly)
    service.add_middleware(Measure, metrics=service.state.metrics)
    service.add_middleware(middleware.BrowserHeaders)
    service.add_middleware(middleware.CutOff, stopping=service.state.stopping)
    service.add_middleware(middleware.RequestId)
    if settings.trusted_proxies:
        trusted = [str(network) for network in settings.trusted_proxies]
        service.add_middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)


def _open(service: FastAPI, settings: Settings) -> None:
    """Let requests in to the routes, and describe what they answer."""
    for module in (
        health,
        auth_router,
        removals_router,
        batches_router,
        billing_router,
        stats_router,
        admin_router,
        metrics,
        page,
    ):
        service.include_router(module.router)
    everywhere = ("INTERNAL", "FORBIDDEN") if settings.auth == "off" else ("INTERNAL",)
    openapi.describe(service, everywhere)
    for path, files in page.FILES.items():
        service.mount(path, files)
