"""No log, traceback or `repr` contains uploads, results or secrets."""

import base64
import dataclasses
import importlib
import io
import logging
import pkgutil
import sqlite3
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import stamina.instrumentation
import structlog
import tifffile
import torch
from sqlalchemy import event, insert
from sqlalchemy.exc import DBAPIError

from cutout import app, inference, worker
from cutout.app.auth import accounts
from cutout.app.batches.service import BatchRequest
from cutout.app.compat_check import answers, calls
from cutout.app.core import log_config
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.http.multipart import Head, Part
from cutout.app.removals.remote import RemotePhoto
from cutout.app.storage.base import Storage, StorageError
from cutout.app.storage.local import LocalStorage
from cutout.inference.cutout import Cutout
from cutout.inference.imaging.decode import Photo
from cutout.inference.imaging.encode import Format
from cutout.inference.matting.pipeline import Matte
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.api_client import ANNA, API, PLATFORM, SECRET, opened_shop
from tests.fakes import FakeRunner, photo_bytes
from tests.remote import engine_on, wait_shortly
from tests.stub_huggingface import GARBAGE, TOKEN, Fault, running, status
from tests.worker.worker_fixtures import context_of, small_photos, submitted, work_off

pytestmark = pytest.mark.slow

PASSWORD, MAIL = "correct horse battery staple", "anna.private@shop.example"
SIGNED = "https://photos.example/a.png?signature=0123456789abcdef"
# The first bytes of PNG and JPEG, in every form in which they may be printed.
PICTURES = [
    form
    for head in (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0")
    for form in (
        head.decode("latin-1"),
        head.decode("utf-8", "replace"),
        repr(head)[2:-1],
        repr(repr(head))[3:-2],
        base64.b64encode(head).decode()[:5],
        head.hex(),
        str(list(head))[1:-1],
    )
]
PAYLOADS = (bytes, bytearray, memoryview, np.ndarray, torch.Tensor)
SECRETS = ("secret", "password", "token", "webhook_url", "notify_email")


def modules_of(*packages: ModuleType) -> Iterator[ModuleType]:
    for package in packages:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(("__main__", ".env")) and ".versions." not in found.name:
                yield importlib.import_module(found.name)


def dataclasses_here() -> set[type]:
    return {
        kind
        for module in modules_of(app, inference, worker)
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    }


def may_hold_a_payload(kind: object) -> bool:
    """Return whether a type contains bytes or an array anywhere, or may contain anything, such as a generic's item."""
    if isinstance(kind, typing.TypeVar):
        return True
    if isinstance(kind, list):  # The arguments of a function.
        return any(map(may_hold_a_payload, kind))
    origin = typing.get_origin(kind)
    if origin is not None and may_hold_a_payload(origin):
        return True
    if isinstance(kind, type) and issubclass(kind, PAYLOADS):
        return True
    return any(map(may_hold_a_payload, typing.get_args(kind)))


def test_every_repr_leaves_payloads_and_secrets_out() -> None:
    shown, hidden = [], 0
    for kind in dataclasses_here():
        # The page class of a TIFF, and the calls of a check, come from modules that are imported for type checking only.
        names = (
            {"TiffPage": tifffile.TiffPage}
            | vars(answers)
            | vars(calls)
            | vars(importlib.import_module(kind.__module__))
        )
        hints = typing.get_type_hints(kind, names)
        for field in dataclasses.fields(kind):
            is_text = str in (hints[field.name], *typing.get_args(hints[field.name]))
            if may_hold_a_payload(hints[field.name]) or (is_text and field.name in SECRETS):
                hidden += 1
                if field.repr:
                    shown.append(f"{kind.__module__}.{kind.__qualname__}.{field.name}")
    assert shown == []
    assert hidden > 10


def test_what_holds_a_payload_is_shown_without_it() -> None:
    pixels = np.full((2, 2, 3), 173, np.uint8)

    async def fetch(url: str) -> bytes:
        return url.encode()

    things = [
        Cutout(photo_bytes(), Format.PNG, 40, 30, False, Tier.BASIC, "isnet-general", True, "fake"),
        Photo(pixels, pixels[..., 0]),
        Matte(torch.from_numpy(pixels), torch.from_numpy(pixels[..., 0]), False),
        Part(Head("image", "photo.png"), photo_bytes()),
        BatchRequest(Options(), SIGNED, MAIL),
        RemotePhoto(SIGNED, fetch),
    ]
    told = repr(things)
    clean(told)
    assert "173" not in told


def clean(told: str, *secrets: str) -> None:
    """Check that a text contains no image data and no secret."""
    for form in (*PICTURES, "\\x89PNG", SECRET, PLATFORM, TOKEN, PASSWORD, MAIL, SIGNED, "$argon2", *secrets):
        assert form not in told, told[max(0, told.index(form) - 300) : told.index(form) + 100]


@contextmanager
def logged(log_format: Literal["console", "json"]) -> Iterator[io.StringIO]:
    """Collect log output, with logging configured as in a service."""
    out = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        log_config.configure(log_format)
        redirect(out)
        yield out
    finally:
        root.handlers = before
        root.setLevel(level)
        structlog.contextvars.clear_contextvars()


def redirect(out: io.StringIO) -> None:
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(out)


@contextmanager
def failing(database: Database, statement: str, times: int) -> Iterator[None]:
    """Make the next `times` database statements with these words fail, as if the database were away."""
    left = times

    def execute(cursor: Any, told: str, parameters: Any, context: Any) -> None:
        nonlocal left
        if left and statement in told:
            left -= 1
            raise sqlite3.OperationalError("the server closed the connection")

    event.listen(database.engine, "do_execute", execute)
    try:
        yield
    finally:
        event.remove(database.engine, "do_execute", execute)
    assert left < times


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_worker_in_trouble_logs_no_payload(
    database: Database,
    storage: LocalStorage,
    log_format: Literal["console", "json"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_shortly(monkeypatch)
    hand_in = partial(submitted, database, storage, webhook_url=SIGNED, notify_email=MAIL)
    with logged(log_format) as out:
        # The database is away when a result is ready.
        hand_in(small_photos(2))
        with (
            context_of(database, storage) as context,
            failing(database, "stage_milliseconds=", 2),
        ):
            work_off(context)
        # The engine raises an unexpected error.
        hand_in(small_photos(2))
        with context_of(database, storage, runner=FakeRunner(before=stumble)) as context:
            work_off(context)
        # Results cannot be stored.
        hand_in(small_photos(2))
        with context_of(database, storage) as context, monkeypatch.context() as full:
            full.setattr(storage, "put", no_room)
            with pytest.raises(StorageError) as error:
                work_off(context)
            logging.getLogger("rq.worker").error("[Job 1]: exception raised", exc_info=error.value)
        # Hugging Face gives every kind of wrong answer.
        with (
            running() as stub,
            engine_on(stub) as engine,
            context_of(database, storage, engine=engine) as context,
        ):
            stub.scripts = iter([[fault] * 9 for fault in (*GARBAGE, status(500), status(402), Fault("cut"))])
            hand_in(small_photos(12))
            work_off(context)
    told = out.getvalue()
    assert told.count("retrying") == 2
    assert "surprise" in told or "photo failed" in told
    assert "StorageError" in told
    clean(told)


def stumble() -> None:
    raise ValueError("surprise")


def no_room(key: str, data: bytes) -> None:
    raise StorageError("The disk is full.")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_service_in_trouble_logs_no_payload(
    database: Database,
    tmp_path: Path,
    log_format: Literal["console", "json"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with logged(log_format) as out, opened_shop(database, tmp_path, log_format=log_format) as shop:
        redirect(out)
        shop.fund("anna", 100)
        with database.begin() as session:
            accounts.create_local(session, MAIL, PASSWORD)
        key = shop.client.post("/api/auth/keys", json={"name": "laptop"}, headers=ANNA).json()["key"]
        away = shop.state.get(Database)
        login = shop.client.post("/api/auth/login", json={"email": MAIL, "password": PASSWORD}).json()
        with failing(away, "UPDATE", 5):
            assert shop.remove(ANNA).status_code == 503
        with failing(away, "SELECT", 1000):  # Two would do, but the service itself may ask in between.
            by_key = shop.client.get(f"{API}/credits", headers={"X-Api-Key": key})
            by_mail = shop.client.post("/api/auth/login", json={"email": MAIL, "password": PASSWORD})
            assert (by_key.status_code, by_mail.status_code) == (503, 503)
        shop.runner.before = stumble
        assert shop.remove(ANNA).status_code == 500
        shop.runner.before = lambda: None
        with monkeypatch.context() as full:
            full.setattr(shop.state.get(Storage), "put", no_room)
            assert shop.remove(ANNA).status_code == 503
        # An unhandled error, whose message contains the row that the database refused.
        with monkeypatch.context() as broken:
            broken.setattr(accounts, "keys", insert_twice)
            answer = shop.client.get("/api/auth/keys", headers=ANNA)
            assert answer.status_code == 500
            clean(answer.text)
        for body in (photo_bytes(), b'{"imageUrl": "' + photo_bytes(), base64.b64encode(photo_bytes())):
            headers = ANNA | {"Content-Type": "application/json"}
            answer = shop.client.post(f"{API}/remove", content=body, headers=headers)
            assert answer.status_code == 400
            clean(answer.text)
        for field in ("tier", "format", "quality", "background", "maskOnly"):
            text = base64.b64encode(photo_bytes(200, 200)).decode()[:9000]
            clean(shop.remove(ANNA, None, **{field: text}).text)
            clean(shop.client.post(f"{API}/remove", json={field: text}, headers=ANNA).text)
        for call, name in (("subscription", "plan"), ("credits", "credits"), ("pricing/calculate", "tier")):
            clean(shop.client.post(f"{API}/{call}", json={name: text}, headers=ANNA).text)
    told = out.getvalue()
    assert "surprise" in told
    assert "IntegrityError" in told
    clean(told, key, key[4:], login["accessToken"], ANNA["Authorization"].removeprefix("Bearer "))


def insert_twice(session: Any, user: User) -> None:
    for _ in range(2):
        session.execute(insert(User).values(id=user.id, subject=MAIL, email=MAIL, balance=0))


def test_the_row_that_postgresql_refuses_is_not_logged(postgresql: Database) -> None:
    for log_format in ("console", "json"):
        with logged(log_format) as out:
            for _ in range(2):
                try:
                    with postgresql.begin() as session:
                        again = insert(User).values(subject=MAIL, email=MAIL, balance=0)
                        session.execute(again)
                        session.execute(again)
                except DBAPIError as error:
                    log_config.log.error("refused", exc_info=error, detail=str(error))
        told = out.getvalue()
        assert told.count("UniqueViolation") >= 2
        assert "SQL parameters hidden" in told
        clean(told)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_bytes_that_are_logged_all_the_same_are_counted(log_format: Literal["console", "json"]) -> None:
    data = photo_bytes()
    with logged(log_format) as out:
        log_config.log.warning(
            "odd", data=data, many=[data, {"one": bytearray(data)}], error=ValueError(data)
        )
        details = stamina.instrumentation.RetryDetails(
            "f", (data,), {"data": data}, 1, 0.1, 0.0, OSError(data)
        )
        for hook in stamina.instrumentation.get_on_retry_hooks():
            hook(details)
    told = out.getvalue()
    assert f"<{len(data)} bytes>" in told
    assert "OSError" in told
    clean(told)


def test_the_console_is_not_controlled_by_what_is_logged() -> None:
    with logged("console") as out:
        log_config.log.warning(
            "a\x1b[2Jb\nc", name="\x1b]0;owned\x07", other="photo\u202egnp.exe", line="x\ny"
        )
        logging.getLogger("some.library").warning("%s", "\x1b[31mred\r\n2026 forged line")
        try:
            raise ValueError("\x1b[2Jgone\n2026 forged line")
        except ValueError:
            log_config.log.exception("failed")
    told = out.getvalue()
    assert "\x1b[2J" not in told
    assert "\x1b]" not in told
    assert "\u202e" not in told
    assert "\r" not in told
    assert "\n2026 forged line" not in told
    assert r"\x1b[2Jgone" in told
    assert "Traceback (most recent call last):\n      File" in told
