"""`storeUrl` with `s3://…`: only to buckets and prefixes that the operator has assigned to the user, with their keys."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from cutout.app import maintenance
from cutout.app.config.base import SettingsError
from cutout.app.config.stores import read_stores
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.notifications.attempts import WAITS
from cutout.app.notifications.errors import NotDelivered
from cutout.app.stores.buckets import Buckets
from tests.app.api_client import ANNA, API, BEN, ApiClient, bearer, opened_shop
from tests.app.s3_fixtures import BUCKET, S3Server
from tests.app.stores.store_fixtures import (
    STORE_KEY,
    STORE_SECRET,
    deliver,
    job_of,
    keys_of,
    later,
    make_buckets,
    object_of,
    remove,
    stores_file,
)
from tests.web import PUBLIC, answer, open_web


@pytest.fixture
def shop(
    database: Database, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiClient]:
    """Open a service whose own results are in a bucket, and that assigns others to Anna and Ben."""
    monkeypatch.setattr(maintenance, "DELIVER_EVERY", timedelta(hours=1))
    make_buckets(s3)
    with opened_shop(database, tmp_path, stores=stores_file(tmp_path, s3.address), **s3.settings) as shop:
        shop.fund("anna", 50)
        shop.fund("ben", 50)
        yield shop


def test_a_result_goes_to_the_users_own_bucket(
    shop: ApiClient, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    job = remove(shop, "s3://shop-a/cutouts/summer/Kleid (rot).png").raise_for_status().json()
    assert job["store"] == {
        "status": "stored",
        "url": "s3://shop-a/cutouts/summer/Kleid (rot).png",
        "detail": None,
    }
    picture = shop.client.get(job["resultUrl"]).raise_for_status().content
    assert object_of(s3, "shop-a", "cutouts/summer/Kleid (rot).png") == (picture, "image/png")
    named = remove(shop, "s3://shop-b/", BEN, format="webp").raise_for_status().json()
    assert named["store"]["url"] == f"s3://shop-b/{named['jobId']}.webp"
    assert object_of(s3, "shop-b", f"{named['jobId']}.webp")[1] == "image/webp"
    assert STORE_SECRET not in caplog.text
    assert STORE_KEY not in caplog.text


def test_no_other_place_is_written_to(shop: ApiClient, s3: S3Server) -> None:
    for url in (
        "s3://shop-b/stolen.png",
        "s3://shop-a/elsewhere.png",
        "s3://shop-a/cutouts",
        "s3://shop-a/cutouts-of-others/x.png",
        "s3://shop-a/cutouts/../elsewhere.png",
        "s3://shop-a/cutouts/./x.png",
        "s3://shop-a/cutouts//x.png",
        "s3://shop-a/cutouts/%2e%2e/x.png",
        "s3://shop-a/cutouts/..\\x.png",
        "s3://shop-a/cutouts/x.png?versionId=1",
        "s3://shop-a/{name}/x.png",
        "s3://SHOP-A/cutouts/x.png",
        "s3://shop-a:9000/cutouts/x.png",
        "s3://key:secret@shop-a/cutouts/x.png",
        "s3://{jobId}/cutouts/x.png",
        "S3://shop-a/cutouts/x.png",
        f"s3://{BUCKET}/results/x.png",
        f"s3://{BUCKET}/",
        "s3://",
        "s3://shop-a",
    ):
        answered = remove(shop, url)
        assert answered.status_code == 400, url
        assert "storeUrl" in answered.json()["detail"], url
    carol = bearer("carol")
    shop.fund("carol", 50)
    assert remove(shop, "s3://shop-a/cutouts/x.png", carol).status_code == 400
    assert shop.balance(ANNA) == 50
    assert shop.get(f"{API}/jobs", ANNA).json()["jobs"] == []
    for bucket in ("shop-a", "shop-b", BUCKET):
        assert keys_of(s3, bucket) == []


def test_without_the_setting_a_user_is_told_what_to_do(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path) as shop:
        shop.fund("anna", 50)
        answered = remove(shop, "s3://shop-a/cutouts/x.png")
        assert answered.status_code == 400
        assert "CUTOUT_STORES" in answered.json()["detail"]
        assert shop.balance(ANNA) == 50


def test_a_refusing_bucket_gets_the_result_once_the_operator_has_mended_it(
    shop: ApiClient, s3: S3Server
) -> None:
    s3.empty()  # without the buckets of users
    job = remove(shop, "s3://shop-a/cutouts/x.png").raise_for_status().json()
    assert job["store"]["status"] == "pending"
    assert "the bucket does not exist" in job["store"]["detail"]
    make_buckets(s3)
    assert deliver(later(shop, WAITS[0] * 1.3)) == 1
    assert job_of(shop, job["jobId"])["store"]["status"] == "stored"
    assert keys_of(s3, "shop-a") == ["cutouts/x.png"]


def test_a_delivery_asks_again_whose_bucket_it_is_and_whether_the_account_is_enabled(
    shop: ApiClient, s3: S3Server, tmp_path: Path
) -> None:
    s3.empty()
    job = remove(shop, "s3://shop-a/cutouts/x.png").raise_for_status().json()
    make_buckets(s3)
    with shop.database.begin() as session:
        session.execute(update(User).where(User.subject == "anna").values(disabled_at=User.created_at))
    assert deliver(later(shop, WAITS[0] * 1.3)) == 1
    with shop.database.begin() as session:
        session.execute(update(User).values(disabled_at=None))
    assert job_of(shop, job["jobId"])["store"]["detail"] == "The account is disabled."
    others = Buckets(read_stores(stores_file(tmp_path, s3.address))[1:])
    assert deliver(later(shop, timedelta(hours=1), buckets=others)) == 1
    told = job_of(shop, job["jobId"])["store"]
    assert told["status"] == "failed"
    assert "assigned to you" in told["detail"]
    assert keys_of(s3, "shop-a") == []


def test_only_the_stores_own_key_signs_whatever_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "the-hosts",
        "AWS_SECRET_ACCESS_KEY": "the-hosts-secret",
        "AWS_SESSION_TOKEN": "the-hosts-token",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with open_web() as web:
        web.pages["/shop-a/cutouts/x.png"] = answer(ETag='"x"')
        buckets = Buckets(read_stores(stores_file(tmp_path, f"http://{PUBLIC}:{web.port}")))
        asyncio.run(buckets.put(User(subject="anna"), "s3://shop-a/cutouts/x.png", b"1", "image/png", 10))
        [(_, _, headers)] = web.seen
    headers = {name.lower(): value for name, value in headers.items()}
    assert f"Credential={STORE_KEY}/" in headers["authorization"]
    assert "the-hosts" not in str(headers)


def test_a_bucket_that_hangs_is_left_after_its_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        buckets = Buckets(read_stores(stores_file(tmp_path, endpoint)))
        with pytest.raises(NotDelivered, match=r"within 0\.2 s"):
            asyncio.run(
                buckets.put(User(subject="anna"), "s3://shop-a/cutouts/x.png", b"1", "image/png", 0.2)
            )


def test_users_are_named_by_id_subject_or_address_and_the_longest_prefix_wins(tmp_path: Path) -> None:
    keys = 'access_key_id = "k"\nsecret_access_key = "s"\n'
    path = tmp_path / "stores.toml"
    path.write_text(
        f'[[store]]\nurl = "s3://all/"\nusers = ["anna@shop.example", "ben"]\n{keys}'
        f'[[store]]\nurl = "s3://all/deep/"\nusers = ["anna"]\n{keys}'
    )
    buckets = Buckets(read_stores(path))
    anna = User(subject="anna", email="anna@shop.example")
    found = [buckets.find(anna, f"s3://all/{key}") for key in ("x", "deep/x", "deeper")]
    assert [store and store.url for store in found] == ["s3://all/", "s3://all/deep/", "s3://all/"]
    ben = buckets.find(User(subject="ben"), "s3://all/deep/x")
    assert ben is not None
    assert ben.url == "s3://all/"
    assert buckets.find(User(subject="carol", email=None), "s3://all/x") is None


GOOD = {
    "url": '"s3://shop-a/x/"',
    "users": '["anna"]',
    "access_key_id": '"the-key"',
    "secret_access_key": '"not-to-be-told"',
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": '"s3://shop-a/x"'}, "store 1: url: end the prefix with /"),
        ({"url": '"s3://shop-a/../"'}, "must not have . or .."),
        ({"url": '"https://shop-a/"'}, r"url: write s3://bucket/prefix/"),
        ({"users": "[]"}, "users"),
        ({"users": '"anna"'}, "users: Input should be a valid list"),
        ({"access_key_id": '""'}, "access_key_id"),
        ({"secret_access_key": "7"}, "secret_access_key"),
        ({"endpoint": '"minio:9000"'}, "endpoint: this is not a web address"),
        ({"endpoint": '"https://key:not-to-be-told@minio"'}, "must contain no user or password"),
        ({"region": '"Not a region"'}, "region"),
        ({"bucket": '"x"'}, "bucket: Extra inputs are not permitted"),
        ({"url": '"s3://own/x/"', "endpoint": '"https://minio:9000/"'}, "the service's own bucket"),
        ({"access_key_id": '"own-key"'}, "the service's own"),
        ({"users": '["anna", "anna"]'}, "assigned to anna twice"),
        ({"url": '"s3://shop-a/x/'}, "is not TOML"),
    ],
)
def test_a_wrong_file_stops_the_start_with_the_reason(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    path = tmp_path / "stores.toml"
    lines = "".join(f"{name} = {value}\n" for name, value in (GOOD | changes).items())
    path.write_text(f"[[store]]\n{lines}")
    with pytest.raises(SettingsError) as refused:
        read_stores(path, "own", "https://minio:9000", "own-key")
    assert reason in str(refused.value)
    assert str(refused.value).startswith("CUTOUT_STORES: ")
    assert "not-to-be-told" not in str(refused.value)


def test_a_file_that_is_missing_or_has_other_tables_stops_the_start(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "stores.toml"
    with pytest.raises(SettingsError, match="No such file"), opened_shop(database, tmp_path, stores=path):
        pass
    for text in ("", 'store = "x"', "[store]\n", "[[store]]\n[[shop]]\n"):
        path.write_text(text)
        with pytest.raises(SettingsError, match=r"CUTOUT_STORES"):
            read_stores(path)


def test_no_key_is_shown(tmp_path: Path, s3: S3Server) -> None:
    [anna, _] = read_stores(stores_file(tmp_path, s3.address))
    assert STORE_SECRET not in repr(anna)
    assert STORE_KEY not in repr(anna)
