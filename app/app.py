"""The service, assembled from its parts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import cache

from fastapi import APIRouter, FastAPI
from prometheus_client.registry import Collector
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from cutout.app.auth import admin_router as auth_admin_router
from cutout.app.auth import router as auth_router
from cutout.app.auth import session_router
from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.auth.tokens import TokenReader
from cutout.app.batches import router as batches_router
from cutout.app.billing import admin_router
from cutout.app.billing import router as billing_router
from cutout.app.bootstrap import buckets_from, engine_from, mailer_from, storage_from
from cutout.app.compat import router as compat
from cutout.app.config.data_folder import open_data_folder
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.app.core import log_config
from cutout.app.core.errors import ForbiddenError, InternalError
from cutout.app.core.shutdown import Shutdown
from cutout.app.db.session import Database
from cutout.app.embedded.supervisor import EmbeddedProcesses
from cutout.app.http import middleware, openapi, problem_details, security_headers
from cutout.app.http.metrics_middleware import MetricsMiddleware
from cutout.app.http.path_prefix import PathPrefix
from cutout.app.http.state import AppState
from cutout.app.http.tracing_middleware import TracingMiddleware
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.jobs.queue import Queue
from cutout.app.jobs.queue_stats import QueueStats
from cutout.app.lifespan import lifespan
from cutout.app.net.image_fetcher import ImageFetcher
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import UrlPolicy
from cutout.app.notifications.outbox import Outbox
from cutout.app.observability.exposition import Exposition
from cutout.app.observability.metrics import Metrics
from cutout.app.observability.trace_export import open_tracing
from cutout.app.observability.tracing import Tracing
from cutout.app.ratelimit.limits import Kind, Limit, RateLimits
from cutout.app.removals import jobs_router
from cutout.app.removals import router as removals_router
from cutout.app.removals.refining import RefinementSlots
from cutout.app.stats import admin_router as stats_admin_router
from cutout.app.stats import router as stats_router
from cutout.app.storage.base import Storage
from cutout.app.storage.probe import StorageProbe
from cutout.app.stores.service import ResultStores
from cutout.app.system import health, metrics, page
from cutout.app.system.database_metrics import DatabaseMetrics
from cutout.app.system.engine_metrics import EngineMetrics
from cutout.app.system.host_metrics import HostMetrics
from cutout.app.system.live_metrics import LiveMetrics
from cutout.app.system.readiness import Readiness
from cutout.inference.engine import Engine
from cutout.inference.presets import Presets, load_presets
from cutout.version import __version__

# For one e-mail address.
WRONG_PASSWORDS = Limit(5, 60)


def create_app(
    settings: Settings | None = None,
    make_engine: Callable[[Settings], Engine] | None = None,
    embedded: EmbeddedProcesses | None = None,
) -> FastAPI:
    """Build the service. `make_engine` replaces the real engine in tests of everything else; `embedded` processes run
    while the service does.

    Raises:
        SettingsError: a setting is unknown, malformed or unsafe.

    """
    settings = settings or load_settings()
    log_config.configure(settings.log_format)
    open_data_folder(settings)
    state = init_state(settings, embedded)

    def run(_: FastAPI) -> AbstractAsyncContextManager[None]:
        return lifespan(state, settings, make_engine or engine_from, embedded)

    service = FastAPI(
        title="Cutout",
        version=__version__,
        summary="Background removal on your own GPU.",
        openapi_tags=openapi.TAGS,
        lifespan=run,
        # FastAPI's page loads scripts from another host; the service has its own page of the API.
        docs_url=None,
        redoc_url=None,
        # A redirect would repeat the host that the caller named, whatever that is.
        redirect_slashes=False,
        servers=[{"url": settings.path_prefix}] if settings.path_prefix else None,
    )
    service.state.parts = state
    add_middleware(service, settings, state)
    problem_details.install(service)
    include_routers(service, settings)
    return service


def limits_of(settings: Settings) -> dict[Kind, Limit]:
    """Return the rate limit for each kind of call. Only logins are limited when authentication is off."""
    calls = {
        Kind.REMOVE: Limit(settings.remove_per_minute, 60),
        Kind.REFINE: Limit(settings.refine_per_minute, 60),
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


def init_state(settings: Settings, embedded: EmbeddedProcesses | None) -> AppState:
    """Build the parts that endpoints share; the executor and its engine are added at the start."""
    state = AppState()
    state.put(problem_details.ErrorShapes, problem_details.ErrorShapes(compat.ERROR_SHAPES))
    state.put(Settings, settings)
    state.put(Tracing, open_tracing("cutout", __version__))
    database = state.put(Database, Database(settings.database, settings.database_seconds))
    storage = state.put(Storage, storage_from(settings))
    probe = state.put(StorageProbe, StorageProbe(storage, timedelta(seconds=settings.storage_check_seconds)))
    secret = state.put(ServiceSecret, ServiceSecret(settings.secret_or_own(), settings.path_prefix))
    state.put(
        TokenReader,
        TokenReader(
            secret,
            secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
            jwks_url=settings.jwks_url,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
        ),
    )
    http_client = SafeHttpClient(UrlPolicy(settings.fetch_allow_networks))
    state.put(ImageFetcher, ImageFetcher(http_client, settings.max_upload_bytes, settings.fetch_seconds))
    state.put(Presets, load_presets(settings.presets))
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    # The embedded queue serves one host, whose rate limits are counted in its own memory.
    rate_limits = state.put(RateLimits, RateLimits(limits_of(settings), redis_url))
    queue_url = redis_url if embedded is None else embedded.queue_url
    state.put(Queue, Queue(queue_url))
    queue_stats = state.put(QueueStats, QueueStats(database, queue_url))
    figures = state.put(Metrics, Metrics())
    state.put(Exposition, Exposition(figures.registry, None if embedded is None else embedded.worker_figures))
    state.put(
        Outbox,
        Outbox(
            database,
            http_client,
            secret,
            settings.kept,
            mailer_from(settings),
            settings.public_origin,
            figures,
            # Without accounts the mail server belongs to the only user.
            notify_any_email=settings.notify_any_email or settings.auth == "off",
        ),
    )
    state.put(ResultStores, ResultStores(database, storage, http_client, buckets_from(settings), figures))
    state.put(LeaseRenewer, LeaseRenewer())
    # As many as there are uploads of the largest size in memory at once.
    slots = settings.uploads_at_once_bytes // settings.max_upload_bytes
    state.put(RefinementSlots, RefinementSlots(slots))
    state.put(Readiness, Readiness(database, queue_stats, probe))
    for collector in _collectors(state, settings, rate_limits, embedded):
        figures.registry.register(collector)
    state.put(Shutdown, Shutdown())
    return state


def _collectors(
    state: AppState, settings: Settings, rate_limits: RateLimits, embedded: EmbeddedProcesses | None
) -> Iterator[Collector]:
    """Yield what reads metrics from other parts at each scrape."""
    if settings.api_engine != "queue":  # there the workers have the engines
        yield EngineMetrics(lambda: state.find(Engine))
    yield LiveMetrics(rate_limits.refused, state.get(QueueStats))
    yield DatabaseMetrics(state.get(Database).committed)
    restarts = None if embedded is None else embedded.restarts
    yield HostMetrics(settings.data_dir.expanduser(), state.get(Readiness), restarts)


def add_middleware(service: FastAPI, settings: Settings, state: AppState) -> None:
    """Put what every request passes before the endpoints."""
    # The last one added is the first one passed.
    most = settings.max_upload_bytes
    uploads = {
        f"{removals_router.router.prefix}/remove": (most, problem_details.upload_too_large),
        f"{removals_router.router.prefix}/jobs/{{job_id}}/refine": (most, problem_details.upload_too_large),
        f"{removals_router.router.prefix}/jobs/{{job_id}}/refine/view": (
            most,
            problem_details.upload_too_large,
        ),
        f"{batches_router.router.prefix}/batch": (settings.max_batch_bytes, problem_details.batch_too_large),
    }
    encoded = compat.ENCODED_UPLOADS
    uploads |= dict.fromkeys(compat.UPLOADS, (most, problem_details.upload_too_large))
    service.add_middleware(middleware.UnexpectedErrors)
    in_memory = dict.fromkeys(uploads, most) | dict.fromkeys(encoded, middleware.encoded_bytes(most))
    service.add_middleware(
        middleware.BodyMemory, paths=in_memory, total_bytes=max(settings.uploads_at_once_bytes, most)
    )
    service.add_middleware(
        middleware.BodyTime,
        seconds=settings.upload_seconds,
        bytes_each=most,
        stopping=state.get(Shutdown),
    )
    service.add_middleware(middleware.BodyLimit, uploads=uploads, encoded=encoded)
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
    service.add_middleware(MetricsMiddleware, metrics=state.get(Metrics))
    if state.get(Tracing).enabled:
        service.add_middleware(TracingMiddleware, tracing=state.get(Tracing))
    service.add_middleware(middleware.BrowserHeaders)
    service.add_middleware(middleware.ShutdownMiddleware, stopping=state.get(Shutdown))
    service.add_middleware(middleware.RequestId)
    if settings.trusted_proxies:
        trusted = [str(network) for network in settings.trusted_proxies]
        service.add_middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)
    if settings.path_prefix:
        service.add_middleware(PathPrefix, prefix=settings.path_prefix)


def include_routers(service: FastAPI, settings: Settings) -> None:
    """Add the files of the page and the endpoints, and describe which errors these answer with."""
    # First, since the page asks for dozens of files, each of which would be compared with all endpoints.
    for path, files in page.FILES.items():
        service.mount(path, files)
    service.routes.extend(_endpoints())
    everywhere = (InternalError, ForbiddenError) if settings.auth == "off" else (InternalError,)
    openapi.describe(service, everywhere)


@cache
def _endpoints() -> list[BaseRoute]:
    """Return the endpoints, which all services of this process share. FastAPI prepares them at the first request, which
    takes a tenth of a second; that matters to tests, which make many services.
    """
    together = APIRouter()
    for module in (
        health,
        auth_router,
        session_router,
        removals_router,
        jobs_router,
        batches_router,
        billing_router,
        stats_router,
        admin_router,
        stats_admin_router,
        auth_admin_router,
        metrics,
        page,
        compat,
    ):
        together.include_router(module.router)
    return together.routes
