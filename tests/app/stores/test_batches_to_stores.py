"""`storeUrl` of batches: each photo has its own name in the store, and JSON and manifest say which are there."""

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cutout.app import maintenance, user_deletion
from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs.leases import Line
from cutout.worker import tasks
from tests.app.api_client import ANNA
from tests.app.batch_client import BatchClient, opened_studio, photos
from tests.app.databases import on_both
from tests.app.s3_fixtures import S3Server
from tests.app.stores.store_fixtures import (
    SIGNATURE,
    deliver,
    later,
    make_buckets,
    object_of,
    path_of,
    puts,
    rows,
    stores_file,
)
from tests.fakes import photo_bytes, wait_until
from tests.web import PUBLIC, Web, answer, open_web
from tests.worker.worker_fixtures import context_of, work_off


@pytest.fixture
def web() -> Iterator[Web]:
    with open_web() as web:
        yield web


@pytest.fixture
def studio(
    database: Database, tmp_path: Path, redis_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BatchClient]:
    """Open a service whose users have stores, and that delivers only when a test says so."""
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(hours=1))
    make_buckets(s3)
    changes = {"stores": stores_file(tmp_path, s3.address), "fetch_allow_networks": f"{PUBLIC}/32"}
    with opened_studio(database, tmp_path, redis_url, **changes) as studio:
        studio.fund("anna", 100)
        yield studio


@on_both
def test_a_batch_goes_to_a_bucket_under_the_names_of_its_zip(studio: BatchClient, s3: S3Server) -> None:
    names = ["Kleid.jpg", "broken.jpg", "broken.png", "a/Kleid.png", "{format}.jpg", "..%2fother#1.jpg"]
    files = [(name, photo_bytes(8, 6, seed=seed)) for seed, name in enumerate(names)]
    files[1] = ("broken.jpg", b"no picture")
    batch_id = studio.accepted(ANNA, files, storeUrl="s3://shop-a/cutouts/summer/", format="webp")
    before = studio.batch(ANNA, batch_id)["photos"]
    assert [photo["store"] for photo in before] == [{"status": "pending", "url": None, "detail": None}] * 6
    assert deliver(later(studio, timedelta(minutes=10))) == 0
    studio.work_off()
    assert deliver(later(studio, timedelta(seconds=1))) == 5
    shown = studio.batch(ANNA, batch_id)
    with zipfile.ZipFile(io.BytesIO(studio.client.get(shown["zipUrl"]).raise_for_status().content)) as opened:
        manifest = json.loads(opened.read("manifest.json"))
        in_zip = {name: opened.read(name) for name in opened.namelist() if name != "manifest.json"}
    assert list(in_zip) == [
        "Kleid.webp",
        "broken (2).webp",
        "Kleid (2).webp",
        "{format}.webp",
        "%2fother#1.webp",
    ]
    prefix = "s3://shop-a/cutouts/summer/"
    # A server behind another one may decode or cut a key that has these.
    keys = [name.replace("%", "_").replace("#", "_") for name in in_zip]
    stored = [photo["store"] for photo in shown["photos"]]
    assert stored.pop(1) is None
    assert stored == [{"status": "stored", "url": prefix + key, "detail": None} for key in keys]
    for key, data in zip(keys, in_zip.values(), strict=True):
        assert object_of(s3, "shop-a", f"cutouts/summer/{key}") == (data, "image/webp")
    # The ZIP was made before the deliveries.
    told = [image["store"] for image in manifest["images"]]
    assert told.pop(1) is None
    assert told == [{"status": "pending", "url": prefix + key, "detail": None} for key in keys]
    assert studio.balance(ANNA) == 100 - 5 * 3
    assert deliver(later(studio, timedelta(days=1))) == 0


def test_a_batch_whose_deliveries_are_done_says_so_in_its_manifest(studio: BatchClient) -> None:
    batch_id = studio.accepted(ANNA, photos(2), storeUrl="s3://shop-a/cutouts/")
    with context_of(studio.database, studio.storage) as context:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tasks, "end_batches", lambda _: None)
            for _ in range(2):
                tasks.process_line(context, Line.BATCH)
        assert deliver(later(studio, timedelta(seconds=1))) == 2
        work_off(context)
    zipped = studio.client.get(studio.batch(ANNA, batch_id)["zipUrl"]).raise_for_status().content
    with zipfile.ZipFile(io.BytesIO(zipped)) as opened:
        manifest = json.loads(opened.read("manifest.json"))
    assert [image["store"]["status"] for image in manifest["images"]] == ["stored", "stored"]


def test_a_template_and_a_list_of_addresses(studio: BatchClient, web: Web) -> None:
    host = f"http://{PUBLIC}:{web.port}"
    files = [("Müller & Co.jpg", photos(1)[0][1]), photos(2)[1]]
    for path in ("/M%C3%BCller%20%26%20Co.png/0", "/photo-1.png/1", "/first", "/second"):
        web.pages[path_of(path)] = answer()
    studio.accepted(ANNA, files, storeUrl=f"{host}/{{name}}/{{position}}?{SIGNATURE}")
    studio.work_off()
    assert deliver(later(studio, timedelta(seconds=1))) == 2
    assert sorted(puts(web)) == [path_of("/M%C3%BCller%20%26%20Co.png/0"), path_of("/photo-1.png/1")]
    web.seen.clear()
    web.bodies.clear()
    sent = [("images", (name, data, "image/png")) for name, data in photos(2)]
    listed = [("storeUrl", (None, f"{host}/{path}?{SIGNATURE}")) for path in ("first", "second")]
    accepted = studio.client.post("/api/background-remover/batch", files=[*listed, *sent], headers=ANNA)
    assert accepted.status_code == 202, accepted.text
    studio.work_off()
    assert deliver(later(studio, timedelta(seconds=1))) == 2
    by_path = dict(zip(puts(web), web.bodies, strict=True))
    shown = studio.batch(ANNA, accepted.json()["batchId"])["photos"]
    for path, photo in zip(("/first", "/second"), shown, strict=True):
        assert by_path[path_of(path)] == studio.client.get(photo["resultUrl"]).content
        assert photo["store"]["url"] == host + path


def test_addresses_that_cannot_hold_a_batch_are_refused(studio: BatchClient, web: Web) -> None:
    host = f"http://{PUBLIC}:{web.port}"
    for urls, reason in (
        ([f"{host}/one?{SIGNATURE}"], "One address cannot hold 2 photos"),
        (["s3://shop-a/cutouts/one.png"], "One address cannot hold 2 photos"),
        ([f"{host}/{{format}}"], "One address cannot hold 2 photos"),
        ([f"{host}/a", f"{host}/a"], "the same address"),
        ([f"{host}/a", f"{host}/b", f"{host}/c"], "3 addresses were received for 2 photos"),
        (["s3://shop-b/"], "assigned to you"),
        (["http://10.0.0.1/{name}"], "not on the public internet"),
        ([f"{host}/{{nmae}}"], "placeholders"),
        ([f"{host}/{{name}}"] * 501, "at most 500 addresses"),
    ):
        sent = [("images", (name, data, "image/png")) for name, data in photos(2)]
        listed = [("storeUrl", (None, url)) for url in urls]
        answered = studio.client.post("/api/background-remover/batch", files=[*sent, *listed], headers=ANNA)
        assert answered.status_code == 400, reason
        assert reason in answered.json()["detail"]
        assert "storeUrl" in answered.json()["detail"]
        assert SIGNATURE not in answered.text
    assert studio.kept() == []
    assert studio.balance(ANNA) == 100


def test_a_batch_that_is_sent_again_is_delivered_once(studio: BatchClient, s3: S3Server) -> None:
    with_key = ANNA | {"Idempotency-Key": "once"}
    ids = {studio.accepted(with_key, photos(2), storeUrl="s3://shop-a/cutouts/") for _ in range(2)}
    assert len(ids) == 1
    assert studio.hand_in(with_key, photos(2), storeUrl="s3://shop-a/cutouts/other/").status_code == 409
    assert studio.hand_in(with_key, photos(2)).status_code == 409
    assert len(rows(studio.database)) == 2
    studio.work_off()
    assert deliver(later(studio, timedelta(seconds=1))) == 2
    assert studio.balance(ANNA) == 94


@on_both
def test_two_services_deliver_each_photo_once(studio: BatchClient, web: Web) -> None:
    host = f"http://{PUBLIC}:{web.port}"
    for position in range(6):
        web.pages[path_of(f"/{position}")] = answer()
    studio.accepted(ANNA, photos(6), storeUrl=f"{host}/{{position}}?{SIGNATURE}")
    studio.work_off()
    stores = later(studio, timedelta(seconds=1))

    async def both() -> tuple[int, int]:
        return await asyncio.gather(stores.deliver_due(), stores.deliver_due())

    assert sum(asyncio.run(both())) == 6
    assert sorted(puts(web)) == [path_of(f"/{position}") for position in range(6)]


def test_cancelled_photos_and_deleted_users_have_nothing_delivered(studio: BatchClient, web: Web) -> None:
    host = f"http://{PUBLIC}:{web.port}"
    cancelled = studio.accepted(ANNA, photos(2), storeUrl=f"{host}/{{name}}?{SIGNATURE}")
    studio.client.delete(f"/api/background-remover/batch/{cancelled}", headers=ANNA).raise_for_status()
    assert rows(studio.database) == []
    assert [photo["store"] for photo in studio.batch(ANNA, cancelled)["photos"]] == [None, None]
    studio.accepted(ANNA, photos(2), storeUrl=f"{host}/{{name}}?{SIGNATURE}")
    studio.work_off()
    assert deliver(later(studio, timedelta(seconds=1))) == 2  # the pages are missing: refused
    studio.accepted(ANNA, photos(2), storeUrl="s3://shop-a/cutouts/")
    studio.work_off()
    [user] = {row.user_id for row in rows(studio.database)}
    user_deletion.delete_user(studio.database, studio.storage, user, now())
    assert rows(studio.database) == []
    assert deliver(later(studio, timedelta(days=1))) == 0


def test_the_service_itself_delivers_what_its_workers_complete(
    database: Database, tmp_path: Path, redis_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(milliseconds=20))
    make_buckets(s3)
    with opened_studio(database, tmp_path, redis_url, stores=stores_file(tmp_path, s3.address)) as studio:
        studio.fund("anna", 100)
        batch_id = studio.accepted(ANNA, photos(2), storeUrl="s3://shop-a/cutouts/")
        studio.work_off()
        wait_until(
            lambda: (
                {photo["store"]["status"] for photo in studio.batch(ANNA, batch_id)["photos"]} == {"stored"}
            )
        )
