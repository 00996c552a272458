"""What routes are handed: the engine, the storage, the settings."""

from typing import Annotated

from fastapi import Depends, Request

from app.settings import Settings
from app.storage import Storage
from inference.engine import Engine
from inference.errors import DeviceLost, ModelUnavailable


def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def get_storage(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


def get_engine(request: Request) -> Engine:
    engine: Engine | None = request.app.state.engine
    if engine is None:
        raise ModelUnavailable("The models are still loading. Try again in a moment.")
    if engine.lost is not None:
        raise DeviceLost(str(engine.lost))
    return engine


SettingsDep = Annotated[Settings, Depends(get_settings)]
StorageDep = Annotated[Storage, Depends(get_storage)]
EngineDep = Annotated[Engine, Depends(get_engine)]
