"""`cutout verify` against complete deployments that work, that have one fault, and that give wrong answers."""

import asyncio
import io
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from PIL import Image
from sqlalchemy import text

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger, payments
from cutout.app.billing.payments import Item
from cutout.app.cli import main
from cutout.app.config.settings import VERIFY_KEY
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs.queue import WorkerInfo
from cutout.app.verify import checklist, checks
from cutout.app.verify.checklist import Outcome, Result, Step, Target, walk
from cutout.app.verify.checks import Visit
from cutout.app.verify.client import Client
from cutout.inference.tiers import SOLD, Tier
from cutout.version import __version__
from tests.app.api_client import service_settings
from tests.app.serving import served
from tests.fakes import PATIENCE, fake_engine, wait_until
from tests.http import http
from tests.processes import is_stopped
from tests.web import answer, certificates, open_web, raw, send_on
from tests.worker.killing import Deployment, SupervisedProcess, site
from tests.worker.worker_fixtures import LEASE_SECONDS

pytestmark = pytest.mark.slow

API = "/api/background-remover"
LOCAL = ("127.0.0.1",)
REMOVALS = [f"removal, {tier}" for tier in SOLD]
NEED_QUEUE = ["workers", "batch"]
NEED_MONEY = [*REMOVALS, "batch", "ledger", "quota", "an error"]


@dataclass(frozen=True)
class Told:
    """The output of the command, step by step."""

    code: int
    lines: dict[str, dict[str, Any]]
    summary: dict[str, Any]

    def named(self, outcome: str) -> list[str]:
        return [name for name, line in self.lines.items() if line["outcome"] == outcome]

    def detail(self, name: str) -> str:
        return str(self.lines[name]["detail"])


Verify = Callable[..., Told]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Run the command, and parse its JSON output."""

    def run(*arguments: str) -> Told:
        code, out, _ = cutout(monkeypatch, capsys, "verify", *arguments, "--json")
        *lines, summary = map(json.loads, out.splitlines())
        return Told(code, {line["step"]: line for line in lines}, summary)

    return run


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never report a step as slow, since the host may be busy."""
    monkeypatch.setattr(checklist, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() / 100))


@pytest.fixture
def _soon_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time for a batch that does not end be over after some looks at it."""
    looks = itertools.count(1)

    async def sleep(seconds: float) -> None:
        if next(looks) > 5:
            raise TimeoutError
        await asyncio.sleep(seconds)

    monkeypatch.setattr(checks, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))


def cutout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["cutout", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Run a deployment; each test repairs what it breaks."""
    with site(
        tmp_path_factory.mktemp("site"), False, workers=1, milliseconds=0, lease=LEASE_SECONDS
    ) as place:
        wait_until(lambda: _health(place).get("status") == "ok", 5 * PATIENCE)
        yield place
        for worker in place.workers:
            worker.stop()


def _health(place: Deployment) -> dict[str, Any]:
    try:
        health: dict[str, Any] = http.get(f"{place.address}/api/health").json()
    except httpx2.TransportError:
        return {}
    return health


def is_well(place: Deployment) -> bool:
    health = _health(place)
    return health["status"] == "ok" and health["queue"]["answers"] and len(health["workers"]) == 1


def balance(place: Deployment) -> int:
    with place.database.begin() as session:
        assert ledger.discrepancies(session) == {}
    return int(http.get(f"{place.address}{API}/credits").json()["balance"])


def test_a_deployment_that_is_well(place: Deployment, verify: Verify) -> None:
    before = balance(place)
    told = verify(place.address)
    assert (told.code, told.summary["ok"], told.named("failed"), told.named("skipped")) == (0, True, [], [])
    assert list(told.lines) == [
        *("health", "version and schema", "queue", "workers", "prices", "price of a batch", "credits"),
        *(*REMOVALS, "batch", "ledger", "quota", "an error", "API description"),
    ]
    assert "720 credits" in told.detail("price of a batch")
    assert told.detail("credits").startswith("60 of ")
    assert "isnet-general, 26 %" in told.detail("removal, basic")
    assert "60 credits charged" in told.detail("ledger")
    assert balance(place) == before - 60
    assert [told.lines[name]["targetSeconds"] for name in (*REMOVALS, "batch")] == [5, 10, 10, 10, 15]
    assert told.lines["batch"]["seconds"] > 0
    # The fake network is served as isnet-general, which is the model of no tier.
    assert "is a substitute for rmbg-1.4" in told.detail("prices")


def test_for_people_each_step_is_a_line(
    place: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = cutout(monkeypatch, capsys, "verify", f"{place.address}/", "--tier", "basic")
    lines = err.splitlines()
    assert (code, out, lines[0]) == (0, "", place.address)
    assert [line[0] for line in lines[1:-1]] == ["✓"] * 4 + ["!"] + ["✓"] * 8
    assert " of 2–5 s " in lines[8]
    assert lines[-1].startswith("Verified: 12 passed, 1 with warnings in ")


def test_strictly_a_substitute_fails_and_nothing_else_does(place: Deployment, verify: Verify) -> None:
    told = verify(place.address, "--tier", "basic", "--strict")
    assert (told.code, told.named("failed"), told.named("skipped")) == (1, ["prices"], [])


def test_what_is_slow_is_said_and_fails_only_strictly(
    place: Deployment, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.TARGETS, Tier.BASIC, Target(0))
    told = verify(place.address, "--tier", "basic")
    assert told.code == 0
    assert told.named("warned") == ["prices", "removal, basic"]
    assert told.detail("removal, basic").startswith("slow; ")
    assert "removal, basic" in verify(place.address, "--tier", "basic", "--strict").named("failed")


def test_no_worker(place: Deployment, verify: Verify) -> None:
    with without_workers(place):
        told = verify(place.address, "--tier", "basic")
    assert (told.code, told.named("failed"), told.named("skipped")) == (1, ["workers"], ["batch"])
    assert "cutout worker" in told.detail("workers")
    assert "needs workers" in told.detail("batch")


@contextmanager
def without_workers(place: Deployment) -> Iterator[None]:
    for worker in place.workers:
        worker.stop()
    try:
        wait_until(lambda: _health(place)["workers"] == [])
        yield
    finally:
        place.workers[:] = [SupervisedProcess(worker.start) for worker in place.workers]
        wait_until(lambda: is_well(place), 5 * PATIENCE)


def test_a_worker_of_another_version(place: Deployment, verify: Verify) -> None:
    other = WorkerInfo("gpu-7", "0.0.9", "cuda", ("interactive", "batch"), {})
    place.queue.announce(other)
    try:
        told = verify(place.address, "--tier", "basic")
    finally:
        place.queue.forget(other)
    assert told.named("failed") == ["workers"]
    assert "gpu-7 (0.0.9)" in told.detail("workers")


@pytest.mark.usefixtures("_soon_out_of_time")
def test_a_worker_that_hangs_and_the_batch_that_waits_for_it_is_cancelled(
    place: Deployment, verify: Verify
) -> None:
    before = balance(place)
    with frozen_workers(place):
        told = verify(place.address, "--tier", "basic", "--timeout", "500")
        assert told.named("failed") == ["batch"]
        assert "not done within 500 s (0 of 3 photos done" in told.detail("batch")
        assert "3 credits charged; the account was also used by other requests" in told.detail("ledger")
        (batch, *_) = http.get(f"{place.address}{API}/batch").json()["batches"]
        assert batch["counts"]["cancelled"] == 3
    wait_until(lambda: is_well(place), 5 * PATIENCE)
    wait_until(lambda: balance(place) == before - 3)


@contextmanager
def frozen_workers(place: Deployment) -> Iterator[None]:
    """Suspend the workers, none of them while it writes: it would hold SQLite's lock all the time."""
    processes = [worker.process for worker in place.workers]
    with place.database.begin() as session:
        session.connection()  # It has the lock only from here on.
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        wait_until(lambda: all(is_stopped(process.pid) for process in processes))
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def polls(place: Deployment) -> float:
    """Return how often the status of a batch was requested."""
    lines = http.get(f"{place.address}/metrics").text.splitlines()
    route = f'route="{API}/batch/{{batch_id}}"'
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("cutout_http_requests_total") and route in line
    )


def test_a_batch_is_cancelled_when_the_command_is(place: Deployment) -> None:
    before, polled = balance(place), polls(place)
    (worker,) = place.queue.workers()
    command = [sys.executable, "-c", "from cutout.app.cli import main; main()", "verify", place.address]

    def is_waiting() -> bool:
        # A busy host may start the command so slowly that the frozen worker counts as gone.
        place.queue.announce(worker)
        # For the removal, and for the batch that is still running, whose id the command knows once it has asked for it.
        return balance(place) == before - 12 and polls(place) > polled

    with frozen_workers(place):
        process = subprocess.Popen([*command, "--tier", "basic"], stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: process.poll() is not None or is_waiting(), 5 * PATIENCE)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert err.endswith("Stopped.\n")
        (batch, *_) = http.get(f"{place.address}{API}/batch").json()["batches"]
        assert batch["counts"]["cancelled"] == 3
    wait_until(lambda: is_well(place), 5 * PATIENCE)
    wait_until(lambda: balance(place) == before - 3)


def test_the_queue_is_gone(place: Deployment, verify: Verify) -> None:
    place.server.stop()
    try:
        told = verify(place.address, "--tier", "basic")
    finally:
        place.server = place.valkey()
        wait_until(lambda: is_well(place), 5 * PATIENCE)
    assert (told.code, told.named("failed"), told.named("skipped")) == (1, ["queue"], NEED_QUEUE)
    assert "REDIS_URL" in told.detail("queue")


def test_a_database_of_another_shape(place: Deployment, verify: Verify) -> None:
    def set_to(revision: str) -> None:
        with place.database.begin() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})

    before = balance(place)
    set_to("0002")
    try:
        told = verify(place.address)
    finally:
        set_to(migrate.head())
    assert (told.code, told.named("failed")) == (1, ["version and schema"])
    assert told.named("skipped") == ["credits", *NEED_MONEY]
    assert f"schema 0002, but version {__version__} needs {migrate.head()}" in told.detail(
        "version and schema"
    )
    assert "cutout migrate" in told.detail("version and schema")
    assert balance(place) == before


@pytest.mark.usefixtures("_soon_out_of_time")
def test_results_that_cannot_be_kept(place: Deployment, verify: Verify) -> None:
    before = balance(place)
    results = place.storage.root / "results"
    aside = results.with_name("aside")
    results.mkdir(exist_ok=True)  # it is removed with its last file
    results.rename(aside)
    results.touch()
    try:
        told = verify(place.address, "--tier", "basic", "--timeout", "500")
    finally:
        results.unlink()
        aside.rename(results)
    assert told.named("failed") == ["removal, basic", "batch"]
    assert told.named("skipped") == ["ledger"]
    assert "503 STORAGE_UNAVAILABLE" in told.detail("removal, basic")
    assert "CUTOUT_DATA_DIR" in told.detail("removal, basic")
    wait_until(lambda: balance(place) == before)


# A service that gives wrong answers: the real service answers, and one of its responses is changed.
Change = Callable[[httpx2.Response], httpx2.Response]


class Lying(httpx2.AsyncHTTPTransport):
    """Forward calls, and change the responses for one path."""

    def __init__(self, path: str, change: Change) -> None:
        super().__init__()
        self._path = path
        self._change = change

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        given = await super().handle_async_request(request)
        if not request.url.path.endswith(self._path):
            return given
        await given.aread()
        return self._change(given)


def with_body(given: httpx2.Response, body: bytes) -> httpx2.Response:
    kept = {name: value for name, value in given.headers.items() if name != "content-length"}
    return httpx2.Response(given.status_code, headers=kept, content=body)


def in_json(change: Callable[[Any], object]) -> Change:
    def changed(given: httpx2.Response) -> httpx2.Response:
        told = given.json()
        change(told)
        return with_body(given, json.dumps(told).encode())

    return changed


def in_picture(change: Callable[[Image.Image], Image.Image], file_format: str = "PNG") -> Change:
    def changed(given: httpx2.Response) -> httpx2.Response:
        if given.status_code != 200:
            return given
        out = io.BytesIO()
        change(Image.open(io.BytesIO(given.content))).save(out, file_format)
        return with_body(given, out.getvalue())

    return changed


def in_zip(change: Callable[[dict[str, bytes]], object]) -> Change:
    def changed(given: httpx2.Response) -> httpx2.Response:
        with zipfile.ZipFile(io.BytesIO(given.content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        change(files)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return with_body(given, out.getvalue())

    return changed


def opaque(picture: Image.Image) -> Image.Image:
    picture.putalpha(255)
    return picture


def clear(picture: Image.Image) -> Image.Image:
    picture.putalpha(0)
    return picture


def without_headers(given: httpx2.Response) -> httpx2.Response:
    kept = {name: value for name, value in given.headers.items() if not name.startswith("x-cutout")}
    return httpx2.Response(given.status_code, headers=kept, content=given.content)


def mixed_up(files: dict[str, bytes]) -> None:
    files["verify-2.png"] = files["verify-1.png"]


def charged_more(told: Any) -> None:
    for entry in told["entries"]:
        if entry["movement"] == "charge":
            entry["credits"] -= 1


def never_charged(told: Any) -> None:
    told["entries"] = [entry for entry in told["entries"] if entry["movement"] != "charge"]


def never_given_back(told: Any) -> None:
    told["entries"] = [entry for entry in told["entries"] if entry["movement"] != "release"]


def balance_apart(told: Any) -> None:
    told["balance"] -= max(entry["id"] for entry in told["entries"])


LIES: dict[str, tuple[str, Change, str, str]] = {
    "the database is away": (
        "/health",
        in_json(lambda told: told.update(status="degraded", schemaRevision=None)),
        "health",
        "The database does not answer",
    ),
    "results cannot be kept": (
        "/health",
        in_json(
            lambda told: told.update(
                status="degraded", problems=[{"code": "STORAGE_UNAVAILABLE", "detail": "The disk is full."}]
            )
        ),
        "health",
        "status degraded. The disk is full.",
    ),
    "no worker for batches": (
        "/health",
        in_json(lambda told: [worker.update(queues=["interactive"]) for worker in told["workers"]]),
        "workers",
        "--queues interactive,batch",
    ),
    "a tier less": ("/pricing", in_json(lambda told: told["tiers"].pop("industry")), "prices", "industry"),
    "no backend": (
        "/pricing",
        in_json(lambda told: told["tiers"]["basic"].update(backend="")),
        "prices",
        "not named",
    ),
    "another price": (
        "/pricing",
        in_json(lambda told: told["tiers"]["basic"].update(credits=4)),
        "prices",
        "basic costs 4 credits there, but 3",
    ),
    "no discount": (
        "/calculate",
        in_json(lambda told: told.update(finalCredits=800)),
        "price of a batch",
        "800 credits, not 720",
    ),
    "no transparency": (
        "/remove",
        in_picture(lambda it: it.convert("RGB")),
        "removal, basic",
        "no transparency",
    ),
    "the background": ("/remove", in_picture(opaque), "removal, basic", "background is still there"),
    "no subject": ("/remove", in_picture(clear), "removal, basic", "No subject was found"),
    "another size": ("/remove", in_picture(lambda it: it.resize((64, 48))), "removal, basic", "64×48"),
    "half a picture": (
        "/remove",
        lambda given: with_body(given, given.content[:2000]),
        "removal, basic",
        "not a PNG that can be read",
    ),
    "no picture": (
        "/remove",
        lambda given: httpx2.Response(200, json={}) if given.status_code == 200 else given,
        "removal, basic",
        "application/json",
    ),
    "headers taken away": ("/remove", without_headers, "removal, basic", "X-Cutout-Model"),
    "pictures mixed up": (
        "/download",
        in_zip(mixed_up),
        "batch",
        "The SHA-256 of verify-2.png in the ZIP differs",
    ),
    "a picture less": (
        "/download",
        in_zip(lambda files: files.pop("verify-3.png")),
        "batch",
        "not verify-1.png",
    ),
    "no manifest": (
        "/download",
        in_zip(lambda files: files.pop("manifest.json")),
        "batch",
        "no manifest.json",
    ),
    "half a ZIP": (
        "/download",
        lambda given: with_body(given, given.content[:900]),
        "batch",
        "cannot be opened",
    ),
    "charged twice": ("/credits", in_json(charged_more), "ledger", " credits, but its ledger entries are: "),
    "never charged": ("/credits", in_json(never_charged), "ledger", " credits, but its ledger entries are: "),
    "a balance of its own": ("/credits", in_json(balance_apart), "ledger", "but the balance went from"),
    "paid for nothing": ("/credits", in_json(never_given_back), "an error", "3 credits were charged"),
    "a plan without quota": (
        "/subscription",
        in_json(lambda told: told.update(plan="pro", status="active", plans=None)),
        "quota",
        "its quota is missing",
    ),
    "taken for a photo": (
        "/remove",
        lambda given: given if given.status_code == 200 else httpx2.Response(200, json={}),
        "an error",
        "accepted as one",
    ),
    "another description": (
        "/openapi.json",
        in_json(lambda told: told["info"].update(version="0.0.9")),
        "API description",
        "has version 0.0.9",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_what_is_not_as_it_has_to_be_is_found(place: Deployment, name: str) -> None:
    path, change, step, words = LIES[name]
    # A batch takes most of the time, and nothing needs it.
    without = () if step in ("batch", "ledger") else ("batch",)
    results = asyncio.run(walked(place, Lying(path, change), without))
    failed = {result.step.name: result.detail for result in results if result.outcome is Outcome.FAILED}
    assert set(failed) == {step}
    assert words in failed[step]


def test_a_service_of_another_version(place: Deployment) -> None:
    older = Lying("/health", in_json(lambda told: told.update(version="0.0.9")))
    told = {result.step.name: result for result in asyncio.run(walked(place, older))}
    detail = told["version and schema"].detail
    assert f"version 0.0.9 (schema {migrate.head()}), but this command is version {__version__}" in detail
    # Nothing is charged there.
    assert told["removal, basic"].outcome is Outcome.SKIPPED


class ShorterVisit(Visit):
    """A visit without some of its steps."""

    without: Sequence[str] = ()

    def steps(self) -> list[Step]:
        return [step for step in super().steps() if step.name not in self.without]


async def walked(
    place: Deployment, transport: httpx2.AsyncBaseTransport, without: Sequence[str] = ()
) -> list[Result]:
    async with (
        Client(place.address, None, transport) as client,
        ShorterVisit(client, [Tier.BASIC]) as visit,
    ):
        visit.without = without
        return [result async for result in walk(visit, seconds=PATIENCE)]


# A service with accounts, and without a queue.


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database]]:
    folder = tmp_path_factory.mktemp("shop")
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    settings = service_settings(f"sqlite:///{folder / 'cutout.db'}", folder)
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        yield address, database
    database.close()


def key_of(database: Database, subject: str, funds: int) -> str:
    """Create a user with credits; return an API key of theirs."""
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims(subject))
        if funds:
            ledger.grant(session, user.id, funds, f"grant:{subject}")
        key, _ = accounts.create_key(session, user, "verify")
    return key


def test_without_a_queue_all_but_batches_is_tried(
    shop: tuple[str, Database], verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, database = shop
    monkeypatch.setenv(VERIFY_KEY, key_of(database, "anna", 60))
    told = verify(address)
    assert (told.code, told.named("failed"), told.named("skipped")) == (1, ["queue"], NEED_QUEUE)
    assert "Set REDIS_URL" in told.detail("queue")
    assert "51 credits charged, 9 left" in told.detail("ledger")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ([], "This service requires authentication. Set a key with --key"),
        (["--key", "ck_wrong"], "The service rejected this key."),
    ],
)
def test_a_key_is_wanted(shop: tuple[str, Database], verify: Verify, key: list[str], words: str) -> None:
    told = verify(shop[0], *key)
    assert told.named("failed") == ["queue", "price of a batch"]
    assert told.named("skipped") == ["workers", "credits", *NEED_MONEY]
    assert words in told.detail("price of a batch")
    assert "401 UNAUTHENTICATED" in told.detail("price of a batch")


def test_too_few_credits_are_said_before_any_is_taken(shop: tuple[str, Database], verify: Verify) -> None:
    address, database = shop
    key = key_of(database, "ben", 20)
    told = verify(address, "--key", key)
    assert told.named("failed") == ["queue", "credits"]
    assert told.named("skipped") == ["workers", *NEED_MONEY]
    detail = told.detail("credits")
    assert "takes 60 credits" in detail
    assert "25 for the removal (industry)" in detail
    assert "the user has 20" in detail
    assert "cutout credits grant USER 40" in detail
    with database.begin() as session:
        user = accounts.by_key(session, key)
        assert [entry.credits for entry in ledger.ledger(session, user.id)] == [20]
    assert verify(address, "--key", key, "--tier", "basic").named("failed") == ["queue"]


def test_what_a_plan_pays_needs_no_credits(shop: tuple[str, Database], verify: Verify) -> None:
    address, database = shop
    key = key_of(database, "carla", 34)
    with database.read() as session:
        carla = accounts.by_key(session, key)
    database.run_in_transaction(payments.buy, carla, Item(plan="pro"), "invoice-1", settled=True, at=now())
    told = verify(address, "--key", key)
    assert told.named("failed") == ["queue"]
    assert told.detail("credits") == "34 of 34 needed"
    assert told.detail("ledger") == "25 credits charged, 9 left"
    assert told.detail("quota") == "pro, 197 of 200 left today"


# Servers that are not Cutout, or do not answer.


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            answer(b"<h1>It works!</h1>", Content_Type="text/html"),
            "200 with text/html, which is not a response of Cutout",
        ),
        (answer(b"<h1>Bad Gateway</h1>", 502, Content_Type="text/html"), "502 with text/html"),
        (answer(b"[1, 2", Content_Type="application/json"), "does not respond as this version does"),
        (answer(b'{"status": "UP"}', Content_Type="application/json"), "version: Field required"),
        (
            send_on("https://elsewhere.example/api/health"),
            "redirects to https://elsewhere.example/api/health",
        ),
        (raw(b"220 mail.example ESMTP\r\n"), "does not speak HTTP"),
        (raw(b""), "closed the connection"),
    ],
)
def test_what_is_no_cutout(page: Any, words: str, verify: Verify) -> None:
    with open_web(addresses=LOCAL) as web:
        web.pages["/api/health"] = page
        told = verify(f"http://127.0.0.1:{web.port}")
    assert (told.code, told.named("failed")) == (1, ["health"])
    assert len(told.named("skipped")) == len(told.lines) - 1
    assert words in told.detail("health")


def test_models_that_are_not_there_yet(verify: Verify) -> None:
    problem = {"code": "MODEL_UNAVAILABLE", "detail": "The models are still loading.", "status": 503}
    with open_web(addresses=LOCAL) as web:
        web.pages["/api/health"] = answer(
            json.dumps(problem).encode(), 503, Content_Type="application/problem+json"
        )
        told = verify(f"http://127.0.0.1:{web.port}")
    assert told.detail("health").startswith("The models are still loading.")


def test_a_certificate_that_nobody_vouches_for(
    tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = certificates(tmp_path, "localhost")
    with open_web(server, LOCAL) as web:
        told = verify(f"https://localhost:{web.port}")
    assert told.named("failed") == ["health"]
    assert "cannot be trusted" in told.detail("health")
    assert "certificate verify failed" in told.detail("health")


def test_tls_where_none_is_spoken(verify: Verify) -> None:
    with open_web(addresses=LOCAL) as web:
        told = verify(f"https://127.0.0.1:{web.port}")
    assert "cannot be trusted" in told.detail("health")


def test_nobody_is_there(verify: Verify) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    told = verify(f"http://127.0.0.1:{port}")
    assert (told.code, told.named("failed")) == (1, ["health"])
    assert f"Nothing answers at http://127.0.0.1:{port} (" in told.detail("health")


def test_a_host_that_never_answers_is_given_up(verify: Verify) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = verify(f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1")
    assert "not done within 1 s" in told.detail("health")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["127.0.0.1:8000"], "not an HTTP URL"),
        (["ftp://cutout.example"], "not an HTTP URL"),
        (["http://"], "not an HTTP URL"),
        (["http://cutout.example:port"], "not a URL"),
        (["http://127.0.0.1:9", "--key", "schlüssel"], "invalid characters"),
    ],
)
def test_no_address_or_key(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = cutout(monkeypatch, capsys, "verify", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert words in err


def test_a_password_in_the_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = cutout(monkeypatch, capsys, "verify", "http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in err
    assert err.startswith("http://127.0.0.1:9\n")
