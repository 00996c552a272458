"""The service, put together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import structlog
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import app
from app import errors, logs
from app.api import guards
from app.api.routes import background_remover, health, page
from app.services import removals
from app.settings import Settings, SettingsError
from app.settings import load as load_settings
from app.startup import engine_from
from app.storage import Storage
from app.storage.local import LocalStorage
from inference.engine import Engine

log = structlog.get_logger()

SWEEP_EVERY = timedelta(hours=1)


def create_app(
    settings: Settings | None = None, make_engine: Callable[[Settings], Engine] | None = None
) -> FastAPI:
    """Build the service. `make_engine` stands in for the real engine in tests of everything else.

    Raises:
        SettingsError: a setting is unknown, malformed or unsafe.

    """
    settings = settings or load_settings()
    if settings.auth != "off":
        raise SettingsError(
            "This version has no accounts yet: set CUTOUT_AUTH=off, which serves this machine only."
        )
    logs.configure(settings.log_format)

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        engine = await asyncio.to_thread(make_engine or engine_from, settings)
        await asyncio.to_thread(engine.warm_up)
        service.state.engine = engine
        for tier, serving in engine.serving.items():
            log.info(
                "background-remover: ENABLED",
                tier=tier.value,
                model=serving.choice.checkpoint.name,
                backend=serving.runner.backend,
                substitute_for=serving.choice.wanted if serving.choice.substitute else None,
            )
        sweeper = asyncio.create_task(_sweep(service.state.storage, timedelta(days=settings.result_days)))
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        await asyncio.to_thread(engine.close)

    service = FastAPI(
        title="Cutout",
        version=app.__version__,
        summary="Background removal on your own GPU.",
        lifespan=lifespan,
    )
    service.state.settings = settings
    service.state.storage = LocalStorage(settings.data_dir)
    service.state.engine = None
    errors.install(service)
    # The last one added is the first one passed.
    service.add_middleware(guards.BodyLimit, limit_bytes=settings.max_upload_bytes)
    service.add_middleware(guards.LocalOnly)
    service.add_middleware(guards.RequestId)
    service.include_router(health.router)
    service.include_router(background_remover.router)
    service.include_router(page.router)
    service.mount("/static", StaticFiles(directory=page.STATIC), name="static")
    return service


async def _sweep(storage: Storage, age: timedelta) -> None:
    while True:
        try:
            deleted = await asyncio.to_thread(storage.delete_older_than, age, removals.RESULTS)
            if deleted:
                log.info("old results deleted", files=deleted, older_than_days=age.days)
        except OSError as error:
            log.warning("old results could not be deleted", detail=str(error))
        await asyncio.sleep(SWEEP_EVERY.total_seconds())
