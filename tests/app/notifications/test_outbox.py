"""Webhook notifications of batches: signed, retried until delivered, sent by one host at a time, with SSRF protection."""

import asyncio
import json
import re
import runpy
import shutil
import ssl
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from cutout.app import maintenance
from cutout.app.auth.signed_urls import ServiceSecret, is_signed
from cutout.app.core import log_config
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Channel, Delivery, Job, Status, User
from cutout.app.http import problem_details
from cutout.app.http.state import AppState
from cutout.app.jobs.urls import API, archive_url
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import UrlPolicy
from cutout.app.notifications import outbox as outbox_module
from cutout.app.notifications import webhook
from cutout.app.notifications.attempts import LEASE, WAITS, record_delivered, record_failed
from cutout.app.notifications.errors import CannotNotify, NotDelivered
from cutout.app.notifications.messages import MOST_LISTED
from cutout.app.notifications.outbox import Outbox, announce, deliver_due
from cutout.app.notifications.webhook import check_webhook_url, verify, webhook_secret
from cutout.inference.tiers import Tier
from tests.app.api_client import SECRET, opened_shop
from tests.app.databases import new_user, on_both
from tests.app.net.test_url_policy import MALFORMED, NOT_PUBLIC
from tests.app.observability.test_metrics import figures
from tests.fakes import PATIENCE, held_until, wait_until
from tests.web import PRIVATE, PUBLIC, Names, Page, Visit, Web, answer, certificates, open_web, raw, send_on

DOCS = Path(__file__).parents[3] / "docs/notifications.md"
KEPT = timedelta(days=7)
# In the past, so that a delivery due then is due by any clock.
START = datetime(2025, 11, 25, 10, 0, tzinfo=UTC)
# A TLS context that trusts no CA; loading the system's takes a while.
NOBODYS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(scope="module")
def opened() -> Iterator[Web]:
    with open_web() as web:
        yield web


@pytest.fixture
def web(opened: Web) -> Web:
    opened.pages.clear()
    opened.seen.clear()
    opened.bodies.clear()
    return opened


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at


def outbox_of(database: Database, **changes: Any) -> Outbox:
    """Open an outbox for which PUBLIC is the only public address, with back-off times as short as possible."""
    names = changes.pop("names", None) or Names(shop_example=[[PUBLIC]])
    tls = changes.pop("tls", NOBODYS)
    http_client = SafeHttpClient(UrlPolicy([ip_network(PUBLIC)], names), tls)
    usual: dict[str, Any] = {"clock": Clock(), "chance": lambda: 0.0}
    secret = changes.pop("secret", SECRET)
    return Outbox(database, http_client, secret, KEPT, **(usual | changes))


def deliver(outbox: Outbox) -> int:
    async def both() -> list[int]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*(deliver_due(outbox, channel) for channel in Channel))

    return sum(asyncio.run(both()))


def zip_path(batch_id: uuid.UUID) -> str:
    return f"{API}/batch/{batch_id}/download"


def held_page(over: threading.Event) -> Page:
    """Return a page that answers once `over` is set."""

    def held(visit: Visit) -> None:
        held_until(over)
        answer()(visit)

    return held


def later(outbox: Outbox, wait: timedelta) -> None:
    assert isinstance(outbox.clock, Clock)
    outbox.clock.at += wait


def end_batch(
    database: Database,
    user: User,
    webhook_url: str | None = None,
    notify_email: str | None = None,
    completed: int = 2,
    failed: tuple[str, ...] = (),
    cancelled: int = 0,
    zip_bytes: int | None = 1000,
) -> Batch:
    """Write a finished batch of three credits per photo, and queue its notification."""
    images = completed + len(failed) + cancelled
    batch = Batch(
        id=uuid.uuid4(),
        user_id=user.id,
        status=Status.PARTIAL if failed else Status.COMPLETED,
        tier=Tier.BASIC,
        images=images,
        credits=3 * images,
        discount=0,
        discount_percent=0,
        charged=3 * completed,
        webhook_url=webhook_url,
        notify_email=notify_email,
        zip_bytes=zip_bytes,
        created_at=START - timedelta(seconds=9),
        finished_at=START,
    )
    ends = [Status.COMPLETED] * completed + [Status.FAILED] * len(failed) + [Status.CANCELLED] * cancelled
    names = [f"{position}.jpg" for position in range(completed)] + list(failed) + ["c.jpg"] * cancelled
    with database.begin() as session:
        session.add(batch)
        session.flush()
        for position, (end, name) in enumerate(zip(ends, names, strict=True)):
            why = {"error_code": "INVALID_IMAGE", "error_detail": "The photo is damaged."}
            job = Job(
                user_id=user.id,
                batch_id=batch.id,
                position=position,
                name=name,
                status=end,
                tier=Tier.BASIC,
                credits=3,
                format="png",
                **(why if end is Status.FAILED else {}),
            )
            session.add(job)
        announce(session, batch)
        session.flush()
        for delivery in session.scalars(select(Delivery).where(Delivery.batch_id == batch.id)):
            delivery.due_at = START
    return batch


def deliveries(database: Database) -> list[Delivery]:
    with database.read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.created_at)))


def only(database: Database) -> Delivery:
    [delivery] = deliveries(database)
    return delivery


def hook(web: Web, path: str = "/hook", host: str = "shop.example") -> str:
    return f"http://{host}:{web.port}{path}"


def sent_ids(web: Web) -> list[str]:
    return [headers["X-Cutout-Delivery"] for _, _, headers in web.seen]


@on_both
def test_a_webhook_tells_what_became_of_a_batch_and_is_signed(database: Database, web: Web) -> None:
    user = new_user(database)
    batch = end_batch(database, user, hook(web, "/hook?token=abc"), failed=("bad ü.jpg",), cancelled=1)
    web.pages["/hook?token=abc"] = answer(b"thanks", 202)
    outbox = outbox_of(
        database, secret=ServiceSecret(SECRET, "/base"), public_origin="https://cutout.example"
    )
    assert deliver(outbox) == 1
    assert deliver(outbox) == 0
    [(address, _, headers)] = web.seen
    [body] = web.bodies
    told = json.loads(body)
    zip_url = told.pop("zipUrl")
    delivery = only(database)
    assert told == {
        "event": "batch.finished",
        "deliveryId": str(delivery.id),
        "batchId": str(batch.id),
        "status": "partial",
        "counts": {"images": 4, "completed": 2, "failed": 1, "cancelled": 1},
        "creditsCharged": 6,
        "creditsReturned": 6,
        "createdAt": "2025-11-25T09:59:51Z",
        "finishedAt": "2025-11-25T10:00:00Z",
        "failed": [{"name": "bad ü.jpg", "code": "INVALID_IMAGE", "detail": "The photo is damaged."}],
        "failedNotListed": 0,
    }
    assert address == PUBLIC
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Cutout-Event"] == "batch.finished"
    assert headers["X-Cutout-Delivery"] == str(delivery.id)
    assert headers["X-Cutout-Timestamp"] == str(int(START.timestamp()))
    secret = webhook_secret(SECRET, user.id)
    at = START.timestamp()
    assert verify(secret, headers["X-Cutout-Timestamp"], body, headers["X-Cutout-Signature"], at)
    assert (delivery.attempts, delivery.status, delivery.error) == (1, 202, None)
    assert (delivery.due_at, delivery.delivered_at) == (None, START)

    link = httpx2.URL(zip_url)
    assert zip_url.startswith("https://cutout.example/base" + zip_path(batch.id))
    expires = int(link.params["expires"])
    assert is_signed(SECRET, zip_path(batch.id), expires, link.params["signature"])
    assert expires == pytest.approx(datetime.now(UTC).timestamp() + KEPT.total_seconds(), abs=60)


@on_both
def test_the_zip_is_named_while_there_is_one(database: Database, web: Web) -> None:
    user = new_user(database)
    web.pages["/hook"] = answer()
    without = end_batch(database, user, hook(web), zip_bytes=None)
    kept = end_batch(database, user, hook(web))
    outbox = outbox_of(database)
    deliver(outbox)
    urls = {told["batchId"]: told["zipUrl"] for told in map(json.loads, web.bodies)}
    assert urls[str(without.id)] is None
    assert urls[str(kept.id)].startswith(f"{zip_path(kept.id)}?expires=")
    end_batch(database, user, hook(web))
    later(outbox, KEPT)
    deliver(outbox)
    assert json.loads(web.bodies[-1])["zipUrl"] is None


@on_both
def test_of_many_that_failed_some_are_listed_and_all_counted(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer()
    names = tuple(f"{number}.jpg" for number in range(MOST_LISTED + 3))
    end_batch(database, new_user(database), hook(web), failed=names)
    deliver(outbox_of(database))
    told = json.loads(web.bodies[0])
    assert [photo["name"] for photo in told["failed"]] == list(names[:MOST_LISTED])
    assert (told["counts"]["failed"], told["failedNotListed"]) == (MOST_LISTED + 3, 3)


@on_both
def test_nothing_is_told_that_was_not_asked_for_or_did_not_happen(database: Database) -> None:
    batch = end_batch(database, new_user(database))
    assert deliveries(database) == []
    batch.webhook_url = "https://shop.example/"

    def end_in_vain(session: Session) -> None:
        announce(session, batch)
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run_in_transaction(end_in_vain)
    assert deliveries(database) == []
    assert deliver(outbox_of(database)) == 0


@on_both
def test_it_is_tried_again_with_growing_waits_and_given_up(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer(b"broken", 500)
    end_batch(database, new_user(database), hook(web))
    outbox = outbox_of(database)
    for attempt, wait in enumerate(WAITS, 1):
        assert deliver(outbox) == 1
        delivery = only(database)
        assert (delivery.attempts, delivery.status, delivery.delivered_at) == (attempt, 500, None)
        assert delivery.error == "The server answers 500 instead of 2xx."
        later(outbox, wait - timedelta(seconds=1))
        assert deliver(outbox) == 0
        later(outbox, timedelta(seconds=1))
    assert deliver(outbox) == 1
    assert (only(database).due_at, only(database).delivered_at) == (None, None)
    later(outbox, timedelta(days=30))
    assert deliver(outbox) == 0
    assert len(set(sent_ids(web))) == 1
    assert len(web.seen) == len(WAITS) + 1 == 9
    assert list(WAITS) == sorted(WAITS)


@on_both
def test_what_failed_together_is_not_tried_again_together(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer(status=503)
    end_batch(database, new_user(database), hook(web))
    deliver(outbox_of(database, chance=lambda: 1.0))
    assert only(database).due_at == START + WAITS[0] * 1.2


@pytest.mark.parametrize(
    ("page", "status", "again"),
    [
        (answer(), 200, False),
        (answer(status=204), 204, False),
        (answer(Content_Length="1000000"), 200, False),  # The rest never arrives.
        (send_on("/elsewhere", 307), 307, True),
        (answer(status=400), 400, True),
        (answer(status=404), 404, True),
        (answer(status=429), 429, True),
        (answer(status=410), 410, None),
        (raw(b""), None, True),
        (raw(b"SSH-2.0-secret\r\n"), None, True),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000), None, True),
    ],
)
def test_what_an_answer_means(
    database: Database, web: Web, page: Callable[[Visit], None], status: int | None, again: bool | None
) -> None:
    web.pages |= {"/hook": page, "/elsewhere": answer()}
    end_batch(database, new_user(database), hook(web))
    deliver(outbox_of(database))
    delivery = only(database)
    assert delivery.status == status
    assert (delivery.delivered_at is not None) == (again is False)
    assert (delivery.due_at is not None) == (again is True)
    assert (delivery.error is None) == (again is False)
    assert "secret" not in (delivery.error or "")
    assert [path for _, path in web.asked] == ["/hook"]


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("120", 120),
        ("5", 10),
        (format_datetime(START + timedelta(minutes=3), usegmt=True), 180),
        (format_datetime(START - timedelta(days=3), usegmt=True), 10),
        ("9999999", 86400),
        ("9" * 20, 10),  # Too long a wait to be taken literally.
        ("9" * 5000, 10),
        ("soon", 10),
        ("-1", 10),
    ],
)
def test_who_asks_to_be_left_alone_is_within_bounds(
    database: Database, web: Web, retry_after: str, seconds: int
) -> None:
    web.pages["/hook"] = answer(status=429, Retry_After=retry_after)
    end_batch(database, new_user(database), hook(web))
    deliver(outbox_of(database))
    assert only(database).due_at == START + timedelta(seconds=seconds)


@on_both
def test_a_server_that_was_away_is_told_when_it_is_back(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer()
    end_batch(database, new_user(database), hook(web))
    # The first address refuses connections; then the name does not exist; then it leads to the server.
    names = Names(shop_example=[["127.0.0.3"], [], [PUBLIC]])
    http_client = SafeHttpClient(UrlPolicy([ip_network("127.0.0.2/31")], names), NOBODYS)
    outbox = Outbox(database, http_client, SECRET, KEPT, clock=Clock(), chance=lambda: 0.0)
    for says in ("does not answer", "cannot be found"):
        assert deliver(outbox) == 1
        assert says in str(only(database).error)
        later(outbox, timedelta(hours=1))
    assert deliver(outbox) == 1
    assert (only(database).attempts, only(database).status, only(database).error) == (3, 200, None)


@on_both
def test_two_hosts_at_once_send_once(database: Database, web: Web) -> None:
    over = threading.Event()

    def slow(visit: Visit) -> None:
        held_until(over)
        answer()(visit)

    web.pages["/hook"] = slow
    end_batch(database, new_user(database), hook(web))
    with ThreadPoolExecutor(1) as other:
        first = other.submit(deliver, outbox_of(database))
        wait_until(lambda: bool(web.seen))
        assert deliver(outbox_of(database)) == 0
        over.set()
        assert first.result(PATIENCE) == 1
    assert len(web.seen) == 1
    assert only(database).attempts == 1


@on_both
def test_many_hosts_share_many_deliveries(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer()
    user = new_user(database)
    for _ in range(30):
        end_batch(database, user, hook(web), completed=1)
    hosts = 4
    together = threading.Barrier(hosts)

    def one_host(_: int) -> int:
        together.wait(PATIENCE)
        return deliver(outbox_of(database))

    with ThreadPoolExecutor(hosts) as pool:
        assert sum(pool.map(one_host, range(hosts))) == 30
    assert len(web.seen) == len(set(sent_ids(web))) == 30
    assert all(delivery.delivered_at == START for delivery in deliveries(database))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_another_is_claiming_is_not_waited_for(database: Database) -> None:
    user = new_user(database)
    for _ in range(2):
        end_batch(database, user, "https://shop.example/")
    with ThreadPoolExecutor(1) as other, database.begin() as session:
        first = session.scalars(select(Delivery).limit(1).with_for_update()).one()
        claim = other.submit(
            database.run_in_transaction, outbox_module.claim, Channel.WEBHOOK, lambda: START, 8
        )
        [claimed] = claim.result(PATIENCE)
        assert claimed.id != first.id


@on_both
def test_only_so_many_at_once(database: Database, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "EVERY", timedelta(milliseconds=20))
    looked: list[int] = []
    claim = outbox_module.claim

    def counted(
        session: Session, channel: Channel, clock: Callable[[], datetime], most: int
    ) -> list[Delivery]:
        claimed = claim(session, channel, clock, most)
        if channel is Channel.WEBHOOK:
            looked.append(len(claimed))
        return claimed

    monkeypatch.setattr(outbox_module, "claim", counted)
    over = threading.Event()

    def slow(visit: Visit) -> None:
        held_until(over)
        answer()(visit)

    web.pages["/hook"] = slow
    user = new_user(database)
    for _ in range(17):
        end_batch(database, user, hook(web), completed=1)
    with ThreadPoolExecutor(1) as pool:
        all_of_them = pool.submit(deliver, outbox_of(database))
        wait_until(lambda: len(looked) >= 3 and len(web.seen) == 8)
        assert sum(looked) == outbox_module.MOST_AT_ONCE == 8
        over.set()
        assert all_of_them.result(PATIENCE) == 17


@on_both
def test_the_next_one_is_sent_as_soon_as_one_is_done(
    database: Database, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "EVERY", timedelta(hours=1))
    over = threading.Event()

    web.pages |= {"/slow": held_page(over), "/hook": answer()}
    user = new_user(database)
    end_batch(database, user, hook(web, "/slow"), completed=1)
    with database.begin() as session:
        session.scalars(select(Delivery)).one().due_at = START - timedelta(seconds=1)
    for _ in range(16):
        end_batch(database, user, hook(web), completed=1)
    with ThreadPoolExecutor(1) as pool:
        all_of_them = pool.submit(deliver, outbox_of(database))
        wait_until(lambda: len(web.seen) == 17)
        # The slow delivery is still in progress.
        assert not any(delivery.error for delivery in deliveries(database))
        over.set()
        assert all_of_them.result(PATIENCE) == 17


@on_both
def test_what_is_due_later_is_not_kept_waiting_by_one_that_is_slow(
    database: Database, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "EVERY", timedelta(milliseconds=20))
    over = threading.Event()

    web.pages |= {"/slow": held_page(over), "/hook": answer()}
    user = new_user(database)
    end_batch(database, user, hook(web, "/slow"), completed=1)
    with ThreadPoolExecutor(1) as pool:
        all_of_them = pool.submit(deliver, outbox_of(database))
        wait_until(lambda: web.asked == [(PUBLIC, "/slow")])
        for _ in range(2 * outbox_module.MOST_AT_ONCE - 1):
            end_batch(database, user, hook(web), completed=1)
            wait_until(lambda: len(web.seen) == len(deliveries(database)))
        over.set()
        assert all_of_them.result(PATIENCE) == 2 * outbox_module.MOST_AT_ONCE


@on_both
def test_a_crash_before_the_record_only_delays(
    database: Database, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/hook"] = answer()
    end_batch(database, new_user(database), hook(web))
    outbox = outbox_of(database)

    def crash(*_: object) -> None:
        raise RuntimeError("out of power")

    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "record_delivered", crash)
        assert deliver(outbox) == 1
    assert only(database).delivered_at is None
    later(outbox, LEASE - timedelta(seconds=1))
    assert deliver(outbox) == 0
    later(outbox, timedelta(seconds=1))
    assert deliver(outbox) == 1
    assert (len(web.seen), len(set(sent_ids(web)))) == (2, 1)
    assert [json.loads(body)["deliveryId"] for body in web.bodies] == sent_ids(web)
    assert (only(database).attempts, only(database).status) == (2, 200)


@on_both
def test_who_comes_late_changes_nothing(database: Database) -> None:
    end_batch(database, new_user(database), "https://shop.example/")
    [slow] = database.run_in_transaction(outbox_module.claim, Channel.WEBHOOK, lambda: START, 8)
    [fast] = database.run_in_transaction(outbox_module.claim, Channel.WEBHOOK, lambda: START + LEASE, 8)
    failure = NotDelivered("too slow")
    database.run_in_transaction(record_failed, slow, failure, None)
    assert only(database).due_at == START + 2 * LEASE  # The other claim is still valid.
    database.run_in_transaction(record_delivered, slow, 200, START)
    database.run_in_transaction(record_failed, fast, failure, START)
    delivery = only(database)
    assert (delivery.status, delivery.error, delivery.due_at, delivery.delivered_at) == (
        200,
        None,
        None,
        START,
    )


@on_both
def test_a_fault_of_our_own_is_recorded_and_holds_up_nothing_else(
    database: Database, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_config.configure("console")
    web.pages |= {"/bad": answer(), "/hook": answer()}
    user = new_user(database)
    bad = end_batch(database, user, hook(web, "/bad"))
    end_batch(database, user, hook(web))

    def broken(batch: Batch, *rest: Any) -> str | None:
        if batch.id == bad.id:
            raise ValueError("surprise")
        return archive_url(batch, *rest)

    monkeypatch.setattr(outbox_module, "archive_url", broken)
    assert deliver(outbox_of(database)) == 2
    found = {delivery.batch_id == bad.id: delivery for delivery in deliveries(database)}
    assert (found[True].error, found[True].due_at) == (outbox_module.OUR_FAULT, START + WAITS[0])
    assert found[False].delivered_at == START
    assert "surprise" in capsys.readouterr().err


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", f"[::ffff:{PUBLIC}]", "inside.example"]
)
def test_a_webhook_leads_nowhere_private(database: Database, web: Web, host: str) -> None:
    url = f"http://{host}:{web.port}/hook"
    assert check_webhook_url(url, UrlPolicy()) == url  # The URL's addresses are checked only at the call.
    web.pages["/hook"] = answer()
    end_batch(database, new_user(database), url)
    names = Names(inside_example=[[PUBLIC, PRIVATE]], localhost=[[PRIVATE]])
    deliver(outbox_of(database, names=names))
    assert "is not on the public internet" in str(only(database).error)
    assert (only(database).status, only(database).delivered_at) == (None, None)
    assert web.seen == []


def test_a_redirect_is_not_followed(database: Database, web: Web) -> None:
    web.pages |= {"/inside": answer(), "/hook": send_on(f"http://{PRIVATE}:{web.port}/inside", 308)}
    end_batch(database, new_user(database), hook(web))
    deliver(outbox_of(database))
    assert (only(database).status, only(database).error) == (308, "The server answers 308 instead of 2xx.")
    assert web.asked == [(PUBLIC, "/hook")]


def test_an_address_that_the_rules_no_longer_take_is_given_up(database: Database) -> None:
    end_batch(database, new_user(database), "ftp://shop.example/")
    deliver(outbox_of(database))
    assert (only(database).due_at, only(database).delivered_at) == (None, None)
    assert "begin with http" in str(only(database).error)


def test_time_is_bounded_however_it_is_spent(
    database: Database, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.25)
    over = threading.Event()

    def silent(_: Visit) -> None:
        over.wait(PATIENCE)

    def drip(visit: Visit, *, after: bytes) -> None:
        visit.wfile.write(after)
        while not over.wait(0.02):
            visit.wfile.write(b"x")

    web.pages |= {
        "/silent": silent,
        "/head": partial(drip, after=b"HTTP/1.1 200 OK\r\nX-Long: "),
        "/body": partial(drip, after=b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
    }
    user = new_user(database)
    for path in web.pages:
        end_batch(database, user, hook(web, path))
    try:
        deliver(outbox_of(database))  # The servers are still sending.
    finally:
        over.set()
    found = {httpx2.URL(delivery.target).path: delivery for delivery in deliveries(database)}
    for path in ("/silent", "/head"):
        assert found[path].error == "The server did not answer within 0.25 s."
    assert (found["/body"].status, found["/body"].error) == (200, None)


def test_a_receiver_that_answers_without_end_is_left(database: Database, web: Web) -> None:
    hung_up = threading.Event()

    def endless(visit: Visit) -> None:
        try:
            while True:
                visit.wfile.write(1000 * b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError:
            hung_up.set()

    web.pages["/hook"] = endless
    end_batch(database, new_user(database), hook(web, "/hook"))
    deliver(outbox_of(database))
    assert only(database).error == "The server does not answer, or closed the connection."
    assert hung_up.wait(60)


class ClosesBadly(SafeHttpClient):
    """Client that fails once the head of the response has arrived."""

    @asynccontextmanager
    async def call(self, *args: Any) -> AsyncIterator[httpcore2.Response]:
        async with super().call(*args) as found:
            yield found
        raise httpcore2.ReadError


def test_what_goes_wrong_after_the_answer_is_nothing_to_us(database: Database, web: Web) -> None:
    web.pages |= {"/hook": answer(), "/gone": answer(status=410)}
    user = new_user(database)
    for path in web.pages:
        end_batch(database, user, hook(web, path))
    http_client = ClosesBadly(outbox_of(database).http_client.destinations, NOBODYS)
    deliver(Outbox(database, http_client, SECRET, KEPT, clock=Clock()))
    assert {delivery.status for delivery in deliveries(database)} == {200, 410}
    assert all(delivery.due_at is None for delivery in deliveries(database))


def test_tls_is_with_the_host_by_its_name(database: Database, tmp_path: Path) -> None:
    server, trusting = certificates(tmp_path, "shop.example")
    names = Names(shop_example=[[PUBLIC]], other_example=[[PUBLIC]])
    user = new_user(database)
    with open_web(server) as web:
        web.pages["/"] = answer()
        for host in ("shop.example", "other.example"):
            end_batch(database, user, f"https://{host}:{web.port}/")
        deliver(outbox_of(database, names=names, tls=trusting))
    found = {httpx2.URL(delivery.target).host: delivery.error for delivery in deliveries(database)}
    assert found["shop.example"] is None
    assert "certificate cannot be verified" in str(found["other.example"])


def test_the_log_says_who_and_where_and_no_more(
    database: Database, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    log_config.configure("json")
    web.pages["/hook/secret?token=secret"] = answer(b"secret", 500)
    user = new_user(database)
    batch = end_batch(database, user, hook(web, "/hook/secret?token=secret"))
    deliver(outbox_of(database))
    told = capsys.readouterr().err
    assert "secret" not in told
    [line] = map(json.loads, told.splitlines())
    assert line["event"] == "notification not delivered"
    assert (line["delivery"], line["batch"], line["user"]) == tuple(
        str(one) for one in (only(database).id, batch.id, user.id)
    )
    assert (line["channel"], line["host"], line["attempt"], line["status"]) == (
        "webhook",
        "shop.example",
        1,
        500,
    )
    assert line["next_attempt"] == "2025-11-25T10:00:10+00:00"


def test_an_address_is_read_when_a_batch_is_sent_in() -> None:
    for url in ("https://shop.example/hook?token=abc", "http://shop.example:8080", "https://hööks.example/"):
        assert check_webhook_url(url, UrlPolicy()) == url
    for url in [*MALFORMED, "javascript:alert(1)", "https://user:password@shop.example/"]:
        with pytest.raises(CannotNotify, match=r"^webhookUrl: "):
            check_webhook_url(url, UrlPolicy())
    with pytest.raises(CannotNotify, match="longer than 2048"):
        check_webhook_url("https://shop.example/" + "x" * 2048, UrlPolicy())
    assert NOT_PUBLIC  # Such URLs are refused when they are called, as tested above.


def test_each_user_has_a_secret_of_his_own() -> None:
    anna, ben = uuid.uuid4(), uuid.uuid4()
    secret = webhook_secret(SECRET, anna)
    assert re.fullmatch(r"whsec_[A-Za-z0-9_-]{43}", secret)
    assert secret == webhook_secret(SECRET, anna)
    assert len({secret, webhook_secret(SECRET, ben), webhook_secret(SECRET + "x", anna)}) == 3


def test_a_receiver_is_not_fooled() -> None:
    secret, body, now = "whsec_abc", b'{"a": 1}', 1_000_000.0
    right = webhook.sign(secret, "1000000", body)
    assert verify(secret, "1000000", body, right, now)
    assert verify(secret, "1000000", body, right, now + 300)
    assert not verify(secret, "1000000", body, right, now + 301)
    assert not verify(secret, "1000000", body, right, now - 301)
    assert not verify("whsec_abd", "1000000", body, right, now)
    assert not verify(secret, "1000001", body, right, now)
    assert not verify(secret, "1000000", body + b" ", right, now)
    assert not verify(secret, "1000000", body, right.removeprefix("v1="), now)
    for odd in ("", "soon", "-1", "1000000.0", "\N{SUPERSCRIPT TWO}"):
        assert not verify(secret, odd, body, webhook.sign(secret, odd, body), now)


def snippet(language: str, having: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    [wanted] = [text for text in found if having in text]
    return str(wanted)


def test_receivers_that_do_as_documented_find_the_signature_right(tmp_path: Path) -> None:
    body, at = b'{"batchId": "\\u00fc"}', str(int(datetime.now(UTC).timestamp()))
    signature = webhook.sign("whsec_abc", at, body)
    (tmp_path / "receiver.py").write_text(snippet("python", "is_from_cutout"))
    documented = runpy.run_path(str(tmp_path / "receiver.py"))
    headers = {"X-Cutout-Timestamp": at, "X-Cutout-Signature": signature}
    assert documented["is_from_cutout"]("whsec_abc", headers, body)
    assert not documented["is_from_cutout"]("whsec_abd", headers, body)
    assert not documented["is_from_cutout"]("whsec_abc", headers, body + b" ")
    if shutil.which("openssl") is not None:
        (tmp_path / "body.json").write_bytes(body)
        variables = {"TIMESTAMP": at, "WEBHOOK_SECRET": "whsec_abc"}
        command = ["sh", "-ec", snippet("sh", "openssl")]
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        printed = subprocess.run(
            command,
            cwd=tmp_path,
            env=path | variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        assert f"v1={printed.stdout.split()[-1]}" == signature


@on_both
def test_the_documented_payload_is_the_one_that_is_sent(database: Database, web: Web) -> None:
    web.pages["/hook"] = answer()
    end_batch(database, new_user(database), hook(web), failed=("bad.jpg",))
    deliver(outbox_of(database))

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shape(part) for name, part in value.items()}
        return [shape(part) for part in value] if isinstance(value, list) else type(value)

    assert shape(json.loads(web.bodies[0])) == shape(json.loads(snippet("json", "deliveryId")))


def test_the_documented_waits_are_the_ones_that_are_waited() -> None:
    units = {"s": "seconds", "min": "minutes", "h": "hours"}
    [listed] = re.findall(r"The waits between attempts are (.*?), each extended", DOCS.read_text(), re.DOTALL)
    found = re.findall(r"(\d+) (s|min|h)\b", listed)
    assert tuple(timedelta(**{units[unit]: int(number)}) for number, unit in found) == WAITS


@on_both
def test_the_service_delivers_by_itself_and_counts(
    database: Database, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(milliseconds=20))
    web.pages |= {"/hook": answer(), "/gone": answer(status=410), "/broken": answer(status=500)}
    with opened_shop(database, tmp_path, fetch_allow_networks=PUBLIC) as shop:
        user = new_user(database)
        for path in web.pages:
            end_batch(database, user, hook(web, path, PUBLIC))
        wait_until(lambda: all(delivery.status is not None for delivery in deliveries(database)))

        def counted() -> dict[str, float]:
            seen = figures(shop)
            return {
                name: value
                for name, value in seen.items()
                if name.startswith("cutout_notifications_total") and value
            }

        wait_until(lambda: sum(counted().values()) >= 3)
        assert counted() == {
            f"cutout_notifications_total{{channel=webhook,outcome={outcome}}}": 1
            for outcome in ("delivered", "failed", "given_up")
        }


def test_a_bad_address_is_a_problem_of_the_caller() -> None:
    service = FastAPI()
    service.state.parts = AppState()
    problem_details.install(service)

    @service.get("/")
    async def refuse() -> None:
        check_webhook_url("ftp://shop.example/", UrlPolicy())

    told = TestClient(service).get("/")
    assert (told.status_code, told.json()["code"]) == (400, "INVALID_INPUT")
    assert told.json()["detail"].startswith("webhookUrl: ")
