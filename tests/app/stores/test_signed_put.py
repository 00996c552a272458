"""`storeUrl` with a signed address: delivered at once, repeated until it arrives, and never to a private network."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from cutout.app import maintenance
from cutout.app.db.session import Database
from cutout.app.db.tables import User, now
from cutout.app.jobs.completion import FIRST_DELIVERY
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import UrlPolicy
from cutout.app.notifications.attempts import WAITS
from cutout.app.notifications.errors import NotDelivered
from cutout.app.storage.local import LocalStorage
from cutout.app.stores import service, signed_put
from cutout.app.stores.addresses import CannotStore
from cutout.app.stores.service import ResultStores
from tests.app.api_client import ANNA, API, BEN, ApiClient, opened_shop
from tests.app.databases import on_both
from tests.app.net.test_url_policy import MALFORMED, NOT_PUBLIC
from tests.app.observability.test_metrics import figures
from tests.app.s3_fixtures import BUCKET, S3Server
from tests.app.stores.store_fixtures import (
    SIGNATURE,
    address,
    deliver,
    hang_up,
    job_of,
    later,
    pages,
    path_of,
    puts,
    remove,
    rows,
)
from tests.fakes import held_until, photo_bytes
from tests.web import PRIVATE, PUBLIC, Names, Web, answer, open_web, send_on


@pytest.fixture(scope="module")
def opened() -> Iterator[Web]:
    with open_web() as web:
        yield web


@pytest.fixture
def web(opened: Web) -> Web:
    for kept in (opened.pages, opened.seen, opened.bodies):
        kept.clear()
    return opened


@pytest.fixture
def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiClient]:
    """Open a service that delivers only when a test says so, and may call one of this machine's addresses."""
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(hours=1))
    with opened_shop(database, tmp_path, fetch_allow_networks=f"{PUBLIC}/32") as shop:
        shop.fund("anna", 50)
        shop.fund("ben", 50)
        yield shop


def test_a_result_is_put_at_once_and_stays_here_too(
    shop: ApiClient, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    web.pages[path_of()] = answer(status=201)
    job = remove(shop, address(web)).raise_for_status().json()
    url = f"http://{PUBLIC}:{web.port}/put/picture.png"
    assert job["store"] == {"status": "stored", "url": url, "detail": None}
    [(_, _, headers)] = web.seen
    picture = shop.client.get(job["resultUrl"]).raise_for_status().content
    assert web.bodies == [picture]
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Length"] == str(len(picture))
    assert not {"Transfer-Encoding", "Cookie", "Authorization", "x-ms-blob-type"} & set(headers)
    assert job_of(shop, job["jobId"])["store"] == job["store"]
    [listed] = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert listed["store"] == job["store"]
    assert shop.balance(ANNA) == 47
    # The signature is forgotten, and was told to nobody.
    assert rows(shop.database)[0].target == url
    assert "result stored" in caplog.text
    assert SIGNATURE not in caplog.text
    assert figures(shop)["cutout_store_deliveries_total{kind=put,outcome=stored}"] == 1


def test_a_caller_who_asks_for_the_picture_gets_a_header(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = answer()
    answered = remove(shop, address(web), ANNA | {"Accept": "image/webp"}).raise_for_status()
    assert answered.headers["X-Cutout-Store"] == "stored"
    assert web.bodies == [answered.content]
    assert web.seen[0][2]["Content-Type"] == "image/webp"
    plain = shop.remove(ANNA | {"Accept": "image/*"}).raise_for_status()
    assert "X-Cutout-Store" not in plain.headers
    assert job_of(shop, plain.headers["X-Cutout-Job"])["store"] is None


def test_a_repeated_request_is_neither_charged_nor_delivered_twice(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = answer()
    with_key = ANNA | {"Idempotency-Key": "once"}
    first = remove(shop, address(web), with_key).raise_for_status().json()
    again = remove(shop, address(web), with_key).raise_for_status().json()
    assert (again["jobId"], again["store"]) == (first["jobId"], first["store"])
    assert len(web.seen) == 1
    assert shop.balance(ANNA) == 47
    # The address is part of the request.
    assert remove(shop, address(web, "/put/other.png"), with_key).status_code == 409
    assert shop.remove(with_key, photo_bytes()).status_code == 409
    assert len(web.seen) == 1


def test_a_repeated_request_does_not_hurry_a_delivery_that_waits(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = answer(status=503)
    with_key = ANNA | {"Idempotency-Key": "once"}
    told = [remove(shop, address(web), with_key).raise_for_status().json()["store"] for _ in range(2)]
    assert told[0] == told[1]
    assert told[1]["status"] == "pending"
    assert len(web.seen) == 1


def test_names_are_filled_in(shop: ApiClient, web: Web) -> None:
    job = remove(shop, address(web, "/put/{jobId}.{format}"), format="webp").raise_for_status().json()
    assert puts(web) == [path_of(f"/put/{job['jobId']}.webp")]


def test_azure_is_told_the_kind_of_the_object(web: Web) -> None:
    host = "shop.blob.core.windows.net"
    policy = UrlPolicy([ip_network(PUBLIC)], Names(**{host.replace(".", "_"): [[PUBLIC]]}))
    web.pages[path_of("/container/a.png")] = answer(status=201)
    url = f"http://{host}:{web.port}/container/a.png?{SIGNATURE}"
    assert asyncio.run(signed_put.put(SafeHttpClient(policy), url, b"picture", "image/png", 10)) == 201
    assert web.seen[0][2]["x-ms-blob-type"] == "BlockBlob"


def test_a_really_signed_address_of_s3_is_used(s3: S3Server) -> None:
    bucket = S3Store(
        BUCKET,
        endpoint=s3.address,
        region="us-east-1",
        access_key_id="anna's",
        secret_access_key="secret",
        client_options={"allow_http": True},
    )
    key = "out/Müller (1).png"
    url = obstore.sign(bucket, "PUT", key, timedelta(minutes=1))
    assert "X-Amz-Signature=" in url
    http_client = SafeHttpClient(UrlPolicy([ip_network("127.0.0.1")]))
    assert asyncio.run(signed_put.put(http_client, url, b"picture", "image/png", 10)) == 200
    stored = obstore.get(bucket, key)
    assert bytes(stored.bytes()) == b"picture"
    assert stored.attributes["Content-Type"] == "image/png"


HOSTILE = [
    *(
        f"http://{f'[{one}]' if ':' in one else one}/x"
        for one in NOT_PUBLIC
        if one not in (PUBLIC, "127.8.8.8")
    ),
    *(url for url in MALFORMED if url),
    "http://{name}.evil.example/x",
    "http://{jobId}.evil.example/x",
    "https://store.example/{secret}",
    "https://store.example/{",
    "s3://pictures/x.png",
    "s3://",
    "https://store.example/" + "x" * 4090,
]


def test_an_address_that_leads_elsewhere_is_refused_before_anything_costs(
    shop: ApiClient, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    for url in HOSTILE:
        sent = json.dumps({"imageUrl": address(web), "storeUrl": url})
        answered = shop.client.post(
            f"{API}/remove", content=sent, headers=ANNA | {"Content-Type": "application/json"}
        )
        assert answered.status_code == 400, (url, answered.text)
        assert "storeUrl" in answered.text or "\ud800" in url
    assert shop.balance(ANNA) == 50
    assert shop.get(f"{API}/jobs", ANNA).json()["jobs"] == []
    assert web.seen == []
    assert "secret@" not in caplog.text


def test_a_name_that_leads_to_a_private_network_is_not_called_even_if_it_did_not_before(
    database: Database, tmp_path: Path, web: Web
) -> None:
    names = Names(shop_example=[[PUBLIC], [PRIVATE]], mixed_example=[[PUBLIC, PRIVATE]])
    http_client = SafeHttpClient(UrlPolicy([ip_network(PUBLIC)], names))
    stores = ResultStores(database, LocalStorage(tmp_path), http_client)
    anna = User(subject="anna")
    url = stores.check(f"http://shop.example:{web.port}/put/picture.png?{SIGNATURE}", anna)
    asyncio.run(stores.require_public([url]))
    with pytest.raises(NotDelivered, match="not on the public internet"):
        asyncio.run(signed_put.put(http_client, url, b"picture", "image/png", 10))
    for host in ("mixed.example", "unknown.example", PRIVATE):
        with pytest.raises(CannotStore, match="not on the public internet") as refused:
            asyncio.run(stores.require_public([f"http://{host}:{web.port}/x?{SIGNATURE}"]))
        assert SIGNATURE not in str(refused.value)
    many = [f"http://{number}.example/" for number in range(11)]
    with pytest.raises(CannotStore, match="at most 10 hosts"):
        asyncio.run(stores.require_public(many))
    assert web.seen == []


def test_a_redirect_is_not_followed(shop: ApiClient, web: Web) -> None:
    for status in (301, 302, 303, 307, 308):
        web.pages[path_of()] = send_on(f"http://{PRIVATE}:{web.port}/inside", status)
        job = remove(shop, address(web)).raise_for_status().json()
        assert job["store"]["status"] == "failed"
        assert "redirect" in job["store"]["detail"]
    assert puts(web) == [path_of()] * 5


def test_a_refusal_ends_the_delivery_and_not_the_job(
    shop: ApiClient, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = {400: "expired", 403: "expired", 404: "no such bucket"}
    for status, reason in refusals.items():
        web.pages[path_of()] = answer(b"<Secret>their words</Secret>", status)
        job = remove(shop, address(web)).raise_for_status().json()
        assert (job["status"], job["store"]["status"]) == ("completed", "failed")
        assert reason in job["store"]["detail"]
        assert shop.client.get(job["resultUrl"]).status_code == 200
    assert shop.balance(ANNA) == 50 - 3 * len(refusals)
    assert deliver(later(shop, timedelta(days=3))) == 0
    for row, status in zip(rows(shop.database), refusals, strict=True):
        assert (row.status, row.due_at, row.attempts) == (status, None, 1)
        assert SIGNATURE not in row.target
    assert SIGNATURE not in caplog.text
    assert "their words" not in caplog.text


@on_both
def test_a_dead_store_gets_the_result_when_it_is_back(shop: ApiClient, web: Web) -> None:
    waits = [WAITS[0] * 1.3, sum(WAITS[:2], timedelta()) * 1.3]
    with pages(web, path_of(), hang_up, answer(status=503), answer()):
        job = remove(shop, address(web)).raise_for_status().json()
        assert job["store"]["status"] == "pending"
        assert job["store"]["detail"] == "The server does not answer, or closed the connection."
        assert rows(shop.database)[0].target == address(web)
        assert deliver(later(shop, timedelta(seconds=5))) == 0
        assert deliver(later(shop, waits[0])) == 1
        assert job_of(shop, job["jobId"])["store"]["detail"] == "The store answers 503 instead of 2xx."
        assert deliver(later(shop, waits[1])) == 1
    assert job_of(shop, job["jobId"])["store"]["status"] == "stored"
    assert deliver(later(shop, timedelta(days=3))) == 0
    assert web.bodies == [shop.client.get(job["resultUrl"]).content] * 3
    assert shop.balance(ANNA) == 47


def test_a_store_that_never_answers_is_given_up(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = answer(status=500)
    remove(shop, address(web)).raise_for_status()
    wait, tried = timedelta(0), 1
    for step in WAITS:
        wait += step * 1.3
        tried += deliver(later(shop, wait))
    assert tried == len(WAITS) + 1 == len(web.seen)
    [row] = rows(shop.database)
    assert (row.due_at, row.delivered_at) == (None, None)
    assert figures(shop)["cutout_store_deliveries_total{kind=put,outcome=given_up}"] == 1


def test_a_store_that_hangs_delays_the_answer_by_its_limit_only(
    shop: ApiClient, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AT_ONCE_SECONDS", 0.2)
    over = threading.Event()
    with pages(web, path_of(), lambda _: held_until(over), answer()):
        job = remove(shop, address(web)).raise_for_status().json()
        assert job["store"]["status"] == "pending"
        assert job["store"]["detail"] == "The server did not answer within 0.2 s."
        over.set()
        assert deliver(later(shop, WAITS[0] * 1.3)) == 1
    assert job_of(shop, job["jobId"])["store"]["status"] == "stored"


def test_a_delivery_survives_the_death_of_the_service_after_the_job(
    shop: ApiClient, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages[path_of()] = answer()

    async def dies(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(ResultStores, "deliver_now", dies)
        assert remove(shop, address(web)).status_code == 500
    assert web.seen == []
    # Its caller's own attempt has a head start.
    assert deliver(later(shop, FIRST_DELIVERY - timedelta(seconds=30))) == 0
    assert deliver(later(shop, FIRST_DELIVERY + timedelta(seconds=1))) == 1
    assert len(web.bodies) == 1
    assert deliver(later(shop, timedelta(days=3))) == 0
    assert shop.balance(ANNA) == 47


def test_a_failed_photo_leaves_nothing_to_deliver(shop: ApiClient, web: Web) -> None:
    assert shop.remove(ANNA, b"no picture", storeUrl=address(web)).status_code == 415
    assert rows(shop.database) == []
    assert web.seen == []
    [job] = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert (job["status"], job["store"]) == ("failed", None)


def test_a_result_that_is_no_longer_kept_ends_its_delivery(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = answer(status=503)
    jobs = [remove(shop, address(web)).raise_for_status().json() for _ in range(2)]
    stores = later(shop, timedelta(days=1))
    assert stores.end_expired(timedelta(days=2)) == 0
    stores.storage.delete_older_than(timedelta(0), "results/")
    assert deliver(later(shop, timedelta(minutes=1))) == 2
    assert job_of(shop, jobs[0]["jobId"])["store"]["status"] == "failed"
    remove(shop, address(web)).raise_for_status()
    assert stores.end_expired(timedelta(hours=23)) == 1
    assert {row.due_at for row in rows(shop.database)} == {None}
    assert SIGNATURE not in "".join(row.target for row in rows(shop.database))
    assert len(web.seen) == 3


@on_both
def test_a_users_hanging_store_leaves_room_for_the_others(shop: ApiClient, web: Web) -> None:
    web.pages[path_of()] = web.pages[path_of("/ben")] = answer(status=503)
    for _ in range(6):
        remove(shop, address(web)).raise_for_status()
    remove(shop, address(web, "/ben"), BEN).raise_for_status()
    claimed = shop.database.run_in_transaction(service.claim, lambda: now() + timedelta(minutes=1), 16, {})
    by_user = [row.user_id for row in claimed]
    assert sorted(by_user.count(user) for user in set(by_user)) == [1, service.MOST_OF_ONE_USER]
    anna = max(by_user, key=by_user.count)
    more = shop.database.run_in_transaction(
        service.claim, lambda: now() + timedelta(minutes=1), 16, {anna: service.MOST_OF_ONE_USER}
    )
    assert more == []
