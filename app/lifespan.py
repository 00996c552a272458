"""The start and the stop of a service: each part is started in order, and stopped in the reverse order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import structlog

from cutout.app.auth.dependencies import LocalAdmin
from cutout.app.bootstrap import local_admin, prepare
from cutout.app.config.settings import Settings
from cutout.app.core.shutdown import Shutdown
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.embedded.supervisor import EmbeddedProcesses
from cutout.app.http.state import AppState
from cutout.app.jobs.lease_renewal import LeaseRenewer, renewing
from cutout.app.jobs.model_status import served_by
from cutout.app.jobs.queue import Queue
from cutout.app.jobs.queue_stats import QueueStats
from cutout.app.maintenance import running_maintenance
from cutout.app.notifications.outbox import Outbox
from cutout.app.observability.metrics import Metrics
from cutout.app.observability.tracing import Tracing
from cutout.app.ratelimit.limits import RateLimits
from cutout.app.removals.executors import LocalExecutor, QueueExecutor, RemovalExecutor
from cutout.app.storage.base import Storage
from cutout.app.stores.service import ResultStores
from cutout.app.system.readiness import Readiness
from cutout.inference.engine import Engine
from cutout.version import __version__

log = structlog.get_logger()


@asynccontextmanager
async def lifespan(
    state: AppState,
    settings: Settings,
    make_engine: Callable[[Settings], Engine],
    embedded: EmbeddedProcesses | None,
) -> AsyncIterator[None]:
    """Run the parts of a service until the end of the block."""
    times = state.get(Shutdown).times
    async with AsyncExitStack() as stack:
        if embedded is not None:
            await stack.enter_async_context(embedded.queue(times.queue))
        await _open_storage(state, settings, stack)
        executor = await _executor(state, settings, make_engine)
        state.put(RemovalExecutor, executor)
        stack.push_async_callback(_close_executor, executor, times.closing)
        await _start_background_work(state, settings, stack)
        if embedded is not None:
            # Workers load their models after the service has loaded its own: both at once would take longer.
            await stack.enter_async_context(embedded.workers(times.workers))
            stopping_early = asyncio.create_task(_stop_workers_early(state, settings, embedded))
            stack.callback(stopping_early.cancel)
        yield


async def _open_storage(state: AppState, settings: Settings, stack: AsyncExitStack) -> None:
    """Bring the database to the schema of this version, check the storage, and have both closed at the end."""
    database = state.get(Database)
    stack.callback(database.close)
    stack.push_async_callback(asyncio.to_thread, state.get(Tracing).close)
    stack.callback(state.get(QueueStats).close)
    stack.callback(state.get(Queue).close)
    stack.push_async_callback(state.get(RateLimits).close)
    await asyncio.to_thread(prepare, settings, database, state.get(Storage))
    if settings.auth == "off":
        state.put(LocalAdmin, LocalAdmin(await asyncio.to_thread(local_admin, database)))
    state.get(Metrics).about(__version__, await asyncio.to_thread(migrate.head))


async def _executor(
    state: AppState, settings: Settings, make_engine: Callable[[Settings], Engine]
) -> RemovalExecutor:
    """Return what makes single photos: an engine in this process, or the workers behind the queue."""
    database, storage = state.get(Database), state.get(Storage)
    if settings.api_engine == "queue":
        log.info("background-remover: ENABLED", engine="workers behind the queue")
        deadline = timedelta(seconds=settings.deadline_seconds)
        return QueueExecutor(state.get(Queue), storage, database, settings.max_waiting, deadline)
    engine = await asyncio.to_thread(make_engine, settings)
    await asyncio.to_thread(engine.warm_up)
    state.put(Engine, engine)
    for tier, served in served_by(engine).items():
        log.info(
            "background-remover: ENABLED",
            tier=tier.value,
            model=served.model,
            backend=served.backend,
            substitute_for=served.wanted if served.substitute else None,
        )
    return LocalExecutor(engine, keep_photos=settings.keep_photos)


async def _close_executor(executor: RemovalExecutor, seconds: float) -> None:
    # A process that waits longer for its engine would be killed by the last resort.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await executor.close()


async def _start_background_work(state: AppState, settings: Settings, stack: AsyncExitStack) -> None:
    """Start what runs beside the requests: probes, the renewal of leases, and maintenance."""
    database, lease = state.get(Database), timedelta(seconds=settings.lease_seconds)
    leases = state.get(LeaseRenewer)
    await stack.enter_async_context(state.get(Readiness).looking())
    stack.enter_context(renewing(leases, database, lease))
    await stack.enter_async_context(
        running_maintenance(
            database,
            state.get(Storage),
            state.get(Queue),
            state.get(Outbox),
            state.get(ResultStores),
            leases,
            kept=settings.kept,
            lease=lease,
            deadline=timedelta(seconds=settings.deadline_seconds),
        )
    )


async def _stop_workers_early(state: AppState, settings: Settings, embedded: EmbeddedProcesses) -> None:
    """Let workers finish at the same time as the service's own requests, unless the workers are what answers those."""
    await state.get(Shutdown).wait()
    if settings.api_engine != "queue":
        await asyncio.to_thread(embedded.ask_workers_to_stop)
