"""`/metrics`: its counts, that unknown calls add no series, and who may read it."""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.billing.ledger import MOVED
from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.app.config.settings import Settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.observability.metrics import Metrics
from cutout.app.removals import service as removals
from cutout.inference.engine import Engine
from cutout.inference.options import Options
from cutout.version import __version__
from tests.app.api_client import ANNA, API, BEN, ApiClient, engine_of, place_of
from tests.app.databases import new_user
from tests.fakes import FakeRunner, fake_engine, held_until, photo_bytes, wait_until

NOBODY: Mapping[str, str] = {}
HERE = "http://127.0.0.1:8000"


def scrape(
    shop: ApiClient, client: str = "127.0.0.1", address: str = HERE, headers: Mapping[str, str] = NOBODY
) -> httpx2.Response:
    caller = TestClient(shop.client.app, base_url=address, client=(client, 5000))
    answer: httpx2.Response = caller.get("/metrics", headers=headers)
    return answer


def figures(shop: ApiClient) -> dict[str, float]:
    """Return what a service tells."""
    return figures_in(scrape(shop).raise_for_status().text)


def figures_in(text: str) -> dict[str, float]:
    """Return the value of each sample by its name and labels, as `name{label=value}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type != "unknown", family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_happened_is_counted(shop: ApiClient) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    shop.fund("anna", 100)
    assert shop.remove(ANNA, tier="standard").status_code == 200
    assert shop.remove(ANNA | {"Idempotency-Key": "k"}).status_code == 200
    # The repeated request is the same removal.
    assert shop.remove(ANNA | {"Idempotency-Key": "k"}).status_code == 200
    assert shop.remove(ANNA, b"no picture").status_code == 415
    assert shop.remove(BEN).status_code == 402
    shop.runner.before = broken
    assert shop.remove(ANNA).status_code == 500

    seen = figures(shop)
    removals = {name: value for name, value in seen.items() if name.startswith("cutout_removals_total")}
    assert removals == {
        "cutout_removals_total{backend=fake,outcome=completed,tier=standard}": 1,
        "cutout_removals_total{backend=fake,outcome=completed,tier=basic}": 1,
        "cutout_removals_total{backend=fake,outcome=UNSUPPORTED_FORMAT,tier=basic}": 1,
        "cutout_removals_total{backend=fake,outcome=INTERNAL,tier=basic}": 1,
    }
    assert seen["cutout_removal_duration_seconds_count{tier=basic}"] == 1
    assert seen["cutout_removal_duration_seconds_sum{tier=standard}"] > 0
    assert seen["cutout_credits_charged_total"] == 11 == 100 - shop.balance(ANNA)
    route = f"method=POST,route={API}/remove"
    for status, times in (("200", 3), ("402", 1), ("415", 1), ("500", 1)):
        assert seen[f"cutout_http_requests_total{{{route},status={status}}}"] == times
    assert seen[f"cutout_http_request_duration_seconds_count{{{route}}}"] == 6
    assert seen[f"cutout_build_info{{schema_revision={migrate.head()},version={__version__}}}"] == 1
    assert seen["cutout_engine_ready"] == 1
    assert seen["cutout_device_busy_seconds_total"] > 0
    assert seen["process_resident_memory_bytes"] > 1e6
    assert seen["cutout_database_answers"] == seen["cutout_storage_answers"] == 1
    assert 0 < seen["cutout_disk_bytes{kind=free}"] <= seen["cutout_disk_bytes{kind=total}"]


def test_stages_batches_jobs_and_credits_are_counted(shop: ApiClient) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    shop.fund("anna", 100)
    assert shop.remove(ANNA, tier="standard").status_code == 200
    assert shop.remove(ANNA).status_code == 200
    shop.runner.before = broken
    assert shop.remove(ANNA).status_code == 500
    assert shop.remove(BEN).status_code == 402  # nothing was committed of it
    seen = figures(shop)
    for stage in ("turn", "decode", "wait", "network", "edges", "encode"):
        assert seen[f"cutout_stage_duration_seconds_count{{stage={stage},tier=standard}}"] == 1
        assert seen[f"cutout_stage_duration_seconds_bucket{{le=+Inf,stage={stage},tier=basic}}"] == 1
    assert seen["cutout_stage_duration_seconds_sum{stage=decode,tier=basic}"] > 0
    runs = seen["cutout_network_batch_size_count{model=isnet-general}"]
    assert runs == seen["cutout_network_batch_size_bucket{le=1.0,model=isnet-general}"] >= 2
    jobs = {name: value for name, value in seen.items() if name.startswith("cutout_jobs_total") and value}
    assert jobs == {
        "cutout_jobs_total{kind=single,outcome=completed,tier=standard}": 1,
        "cutout_jobs_total{kind=single,outcome=completed,tier=basic}": 1,
        "cutout_jobs_total{kind=single,outcome=INTERNAL,tier=basic}": 1,
    }
    # What alerts watch is there from the start, at 0.
    assert seen["cutout_jobs_total{kind=batch,outcome=STORAGE_UNAVAILABLE,tier=industry}"] == 0
    assert seen["cutout_notifications_total{channel=mail,outcome=given_up}"] == 0
    assert seen["cutout_store_deliveries_total{kind=s3,outcome=given_up}"] == 0
    moved = {what: seen[f"cutout_credits_total{{movement={what}}}"] for what in MOVED}
    assert moved["charged"] == 100 - shop.balance(ANNA)
    assert moved["held"] == moved["charged"] + moved["returned"]
    assert moved["returned"] > 0
    assert seen["cutout_tier_substitute{backend=fake,model=isnet-general,tier=industry}"] == 1
    assert seen["cutout_model_load_seconds{model=isnet-general}"] >= 0
    assert seen["cutout_out_of_memory_retries_total{what=photo}"] == 0
    assert not [name for name in seen if "huggingface" in name or "memory_bytes{" in name]


def test_what_is_rolled_back_is_not_counted(database: Database) -> None:
    user = new_user(database, "anna")

    def granted() -> int:
        return database.committed.of(ledger.CREDITS_MOVED).get(("granted",), 0)

    with suppress(ZeroDivisionError), database.begin() as session:
        ledger.grant(session, user.id, 7, "grant:lost")
        with session.begin_nested():  # the end of a savepoint commits nothing
            pass
        assert granted() == 0
        raise ZeroDivisionError
    assert granted() == 0
    with database.begin() as session:
        ledger.grant(session, user.id, 7, "grant:kept")
        ledger.grant(session, user.id, 7, "grant:kept")
        with pytest.raises(ledger.TooManyCredits):
            ledger.grant(session, user.id, ledger.LARGEST_BALANCE, "grant:more")
    assert granted() == 7


def test_who_hangs_up_is_no_error_of_ours(database: Database, tmp_path: Path) -> None:
    go_on = threading.Event()
    place = place_of(database, tmp_path, FakeRunner(before=lambda: held_until(go_on)))
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 10, "grant:anna")

    async def run() -> None:
        call = asyncio.create_task(removals.remove_one(place, user.id, photo_bytes(), Options()))
        while engine_of(place).in_work == 0:
            await asyncio.sleep(0.01)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call

    asyncio.run(run())
    go_on.set()
    engine_of(place).close()
    labels = {"tier": "basic", "outcome": "cancelled", "backend": "fake"}
    assert place.metrics.registry.get_sample_value("cutout_removals_total", labels) == 1


def test_photos_waiting_and_in_work_are_told(shop: ApiClient) -> None:
    go_on = threading.Event()
    shop.runner.before = lambda: held_until(go_on)
    shop.fund("anna", 100)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(shop.remove, ANNA) for _ in range(5)]
        engine = shop.state.get(Engine)
        wait_until(lambda: engine.waiting == 2)  # There are three threads.
        seen = figures(shop)
        go_on.set()
        assert {call.result().status_code for call in calls} == {200}
    assert (seen["cutout_photos_waiting"], seen["cutout_photos_in_work"]) == (2, 3)
    wait_until(lambda: engine.in_work == 0)
    assert figures(shop)["cutout_photos_waiting"] == 0


def test_strange_calls_do_not_make_it_grow(shop: ApiClient) -> None:
    def call(n: int) -> None:
        shop.get(f"/strange/{n}", {})
        shop.get(f"{API}/jobs/{n}", ANNA)
        shop.get(f"{API}/jobs/{n:032x}", ANNA)
        shop.get(f"/static/{n}", {})
        shop.client.request(f"METHOD{n}", f"/strange/{n}")
        shop.client.request(f"METHOD{n}", f"{API}/jobs")
        shop.client.get(f"{API}/pricing?n={n}")
        shop.client.get("/metrics", headers={"Host": f"host{n}"})

    figures(shop)  # This scrape counts itself.
    for n in range(2):
        call(n)
    first = figures(shop)
    for n in range(2, 20):
        call(n)
    assert figures(shop).keys() == first.keys()
    routes = {name.split("route=")[1].split(",")[0] for name in first if "http_requests_total" in name}
    known = {"other", f"{API}/jobs", f"{API}/jobs/{{job_id}}", f"{API}/pricing", "/metrics", "/static/{path}"}
    assert routes <= known
    assert first["cutout_http_requests_total{method=other,route=other,status=404}"] == 2


def test_refused_calls_are_counted_by_kind(shop: ApiClient) -> None:
    for _ in range(7):
        shop.client.post("/api/auth/login", json={"email": "a@b.example", "password": "wrong"})
    seen = figures(shop)
    limited = {name: value for name, value in seen.items() if name.startswith("cutout_rate_limited_total")}
    assert limited == {
        f"cutout_rate_limited_total{{kind={kind}}}": count
        for kind, count in (
            ("remove", 0),
            ("batch", 0),
            ("reads", 0),
            ("login", 2),
            *((kind, 0) for kind in ("refine", "batch_attempt", "login_address", "login_all")),
        )
    }


def test_this_machine_may_read_them_and_nobody_else(shop: ApiClient) -> None:
    assert scrape(shop).status_code == 200
    assert scrape(shop, "::1", "http://localhost:8000").status_code == 200
    for answer in (
        scrape(shop, "192.0.2.1"),
        scrape(shop, "192.0.2.1", headers=ANNA),
        # A name that a malicious page has pointed at this address.
        scrape(shop, address="http://elsewhere.example"),
        scrape(shop, headers={"X-Forwarded-For": "127.0.0.1"}),
        scrape(shop, headers={"Forwarded": "for=192.0.2.1"}),
        scrape(shop, headers={"X-Real-Ip": "192.0.2.1"}),
        scrape(shop, "192.0.2.1", headers={"Authorization": "Bearer "}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "cutout_" not in answer.text


def test_with_its_own_token_they_are_read_from_elsewhere(shop: ApiClient) -> None:
    token = "the scraper's own, of thirty-two bytes or more"

    settings = shop.state.get(Settings)
    metrics_token = app_settings.load(metrics_token=token).metrics_token
    shop.state.put(Settings, settings.model_copy(update={"metrics_token": metrics_token}))

    def ask(authorization: str) -> int:
        headers = {"Authorization": authorization, "X-Forwarded-For": "192.0.2.1"}
        return scrape(shop, "192.0.2.7", "http://cutout.example", headers).status_code

    assert ask(f"Bearer {token}") == 200
    assert ask(f"bearer {token}") == 200
    assert [ask(wrong) for wrong in (f"Bearer {token[:-1]}", f"Basic {token}", token, "Bearer", "")] == [
        401
    ] * 5
    assert scrape(shop).status_code == 200


def test_a_short_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_METRICS_TOKEN", "x" * 31)
    with pytest.raises(SettingsError, match=r"CUTOUT_METRICS_TOKEN: .*fewer than 32 bytes"):
        app_settings.load()


def test_before_the_engine_is_there_they_say_so(tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    service = create_app(settings, make_engine=lambda _: fake_engine())
    client = TestClient(service, base_url=HERE, client=("127.0.0.1", 5000))
    text = client.get("/metrics").raise_for_status().text
    assert "cutout_engine_ready 0.0" in text
    assert "cutout_photos_waiting" not in text


def test_two_services_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.answered("GET", "/", 200, 0.1)
    labels = {"method": "GET", "route": "/", "status": "200"}
    assert one.registry.get_sample_value("cutout_http_requests_total", labels) == 1
    assert two.registry.get_sample_value("cutout_http_requests_total", labels) is None


def test_a_request_costs_next_to_nothing() -> None:
    metrics = Metrics()
    start = time.thread_time()
    for _ in range(1000):
        metrics.answered("GET", "/", 200, 0.1)
    assert time.thread_time() - start < 0.2
