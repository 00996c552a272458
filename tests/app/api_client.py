"""Test clients for a service with accounts, and the parts of a removal without one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.config import settings as app_settings
from cutout.app.config.settings import Settings
from cutout.app.db.session import Database
from cutout.app.http.state import AppState, state_of
from cutout.app.removals.executors import LocalExecutor
from cutout.app.removals.request import RemovalContext, request_of
from cutout.app.removals.service import reserve_job
from cutout.app.storage.local import LocalStorage
from cutout.inference.engine import Engine
from cutout.inference.limits import Limits
from cutout.inference.options import Options
from tests.fakes import PATIENCE, FakeRunner, fake_engine, photo_bytes

SECRET = ServiceSecret("our own secret, of thirty-two bytes or more")
PLATFORM = "the platform's secret, as long as ours is"
API = "/api/background-remover"


def bearer(subject: str, role: str = "user", **changes: Any) -> dict[str, str]:
    claims = {"sub": subject, "role": role, "exp": datetime.now(UTC) + timedelta(hours=1)} | changes
    return {"Authorization": f"Bearer {jwt.encode(claims, PLATFORM, 'HS256')}"}


ADMIN = bearer("boss", "admin")
ANNA, BEN = bearer("anna"), bearer("ben")


def state_of_client(client: TestClient) -> AppState:
    """Return the parts of the service that a client calls."""
    assert isinstance(client.app, FastAPI)
    return state_of(client.app)


@dataclass
class ApiClient:
    """A service with accounts, on a fake network."""

    client: TestClient
    database: Database
    runner: FakeRunner

    @property
    def state(self) -> AppState:
        """The parts of the service."""
        return state_of_client(self.client)

    def remove(self, who: dict[str, str], data: bytes | None = None, **fields: str) -> httpx2.Response:
        files = {"image": ("photo.png", photo_bytes() if data is None else data, "image/png")}
        answer: httpx2.Response = self.client.post(f"{API}/remove", files=files, data=fields, headers=who)
        return answer

    def get(self, path: str, who: dict[str, str]) -> httpx2.Response:
        answer: httpx2.Response = self.client.get(path, headers=who)
        return answer

    def balance(self, who: dict[str, str]) -> int:
        with self.database.begin() as session:
            assert ledger.discrepancies(session) == {}
        return int(self.get(f"{API}/credits", who).raise_for_status().json()["balance"])

    def fund(self, subject: str, amount: int) -> uuid.UUID:
        with self.database.begin() as session:
            user = accounts.get_or_create_user(session, Claims(subject))
            ledger.grant(session, user.id, amount, f"grant:{subject}:{uuid.uuid4()}")
            return user.id


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    with opened_shop(database, tmp_path) as shop:
        yield shop


@contextmanager
def opened_shop(database: Database, folder: Path, **changes: object) -> Iterator[ApiClient]:
    """Open a service with accounts; `changes` override its settings."""
    settings = settings_of(database, folder / "data", **changes)
    runner = FakeRunner()
    app = create_app(settings, make_engine=lambda _: fake_engine(runner))
    with TestClient(app, base_url="http://cutout.example", raise_server_exceptions=False) as client:
        yield ApiClient(client, database, runner)


def settings_of(database: Database, folder: Path, **others: object) -> Settings:
    """Return the settings of a service with accounts, on this database."""
    return service_settings(database.engine.url.render_as_string(hide_password=False), folder, **others)


def service_settings(database_url: str, folder: Path, **others: object) -> Settings:
    """Return the settings of a service with accounts, for a database URL."""
    return app_settings.load(
        **{
            "secret": SECRET,
            "jwt_secret": PLATFORM,
            "database_url": database_url,
            "data_dir": folder,
            "max_upload_mb": 1,
            "remove_per_minute": 0,
            "refine_per_minute": 0,
            "reads_per_minute": 0,
            **others,
        }
    )


def place_of(database: Database, folder: Path, runner: FakeRunner, lease: float = 60) -> RemovalContext:
    engine = fake_engine(runner, Limits(threads=4, waiting=1000))
    storage = LocalStorage(folder)
    # A busy host is no reason to give a repeated request up.
    patience = timedelta(seconds=PATIENCE)
    return RemovalContext(
        LocalExecutor(engine), storage, database, timedelta(seconds=lease), patience=patience
    )


def reserved(
    place: RemovalContext, user_id: uuid.UUID, photo: bytes, options: Options, key: str | None = None
) -> tuple[uuid.UUID, bool]:
    """Reserve a job as a request does; return its id, and whether it is new."""
    return reserve_job(place, request_of(user_id, photo, options, key), photo)


def engine_of(place: RemovalContext) -> Engine:
    """Return the engine of this workplace."""
    assert isinstance(place.executor, LocalExecutor)
    return place.executor.engine
