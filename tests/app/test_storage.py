"""Files of results, on disk and in S3: kept whole, deleted in time and nothing else with them, and failures explained."""

import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import settings as app_settings
from app.db.session import Database
from app.main import create_app
from app.startup import storage_from
from app.storage import Storage, StorageError, StorageUnusable, require_usable
from app.storage.local import LocalStorage
from app.storage.s3 import S3Storage
from tests.app.shop import ANNA, opened_shop
from tests.app.stores import BUCKET, SECRET_KEY, S3Server
from tests.fakes import fake_engine, open_picture

# Older than a moment to come: S3 tells times in whole seconds.
NOW = timedelta(seconds=-2)


@pytest.fixture(params=["disk", "s3", "s3 under a prefix"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return LocalStorage(tmp_path)
    prefix = {"s3_prefix": "cutout/"} if "prefix" in request.param else {}
    return storage_from(app_settings.load(**request.getfixturevalue("s3").settings, **prefix))


def test_what_is_put_is_got_until_it_is_deleted(storage: Storage) -> None:
    require_usable(storage)
    assert storage.get("results/a.png") is None
    storage.put("results/a.png", b"first")
    storage.put("results/a.png", b"second" * 100_000)
    assert storage.get("results/a.png") == b"second" * 100_000
    storage.put("results/empty.png", b"")
    assert storage.get("results/empty.png") == b""
    storage.delete("results/a.png")
    storage.delete("results/a.png")
    assert storage.get("results/a.png") is None


def test_deletion_keeps_to_its_folder_and_to_the_age(storage: Storage) -> None:
    for key in ("results/a.png", "results/b.png", "others/c.png"):
        storage.put(key, b"x")
    assert storage.delete_older_than(timedelta(days=7), "results/") == 0
    assert storage.delete_older_than(NOW, "results/") == 2
    assert [storage.get(key) for key in ("results/a.png", "others/c.png")] == [None, b"x"]


def test_old_files_on_disk_are_deleted_and_a_database_beside_them_is_not(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("results/old.png", b"old")
    storage.put("results/new.png", b"new")
    (tmp_path / "cutout.db").write_bytes(b"not a result")
    past = (datetime.now(UTC) - timedelta(days=8)).timestamp()
    for name in ("results/old.png", "cutout.db"):
        os.utime(tmp_path / name, (past, past))
    assert storage.delete_older_than(timedelta(days=7), "results/") == 1
    assert storage.get("results/old.png") is None
    assert storage.get("results/new.png") == b"new"
    assert (tmp_path / "cutout.db").exists()


def test_more_files_than_a_list_of_s3_has_at_once_are_deleted(s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings))
    for number in range(60):
        storage.put(f"results/{number}.png", b"x")
    assert storage.delete_older_than(NOW, "results/") == 60
    assert storage.get("results/59.png") is None


def test_a_bucket_that_is_not_there_is_no_missing_file(s3: S3Server) -> None:
    storage = S3Storage("another", endpoint=s3.address, access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageError):
        storage.put("results/a.png", b"x")
    with pytest.raises(
        StorageUnusable, match=r"s3://another/.*NoSuchBucket.*Check CUTOUT_DATA_DIR, or the S3_"
    ):
        require_usable(storage)
    with pytest.raises(StorageError):
        storage.get("results/a.png")
    with pytest.raises(StorageError):
        storage.delete_older_than(NOW, "results/")


def test_a_key_without_the_right_is_refused(s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings))
    s3.trust(0)
    try:
        with pytest.raises(StorageUnusable, match="AccessKeyId") as caught:
            require_usable(storage)
    finally:
        s3.trust(math.inf)
    assert SECRET_KEY not in str(caught.value)


def test_half_a_key_of_the_hosts_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "half")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(StorageUnusable, match=r"s3://pictures/: .*SecretAccessKey.*Check the S3_"):
        S3Storage("pictures")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnusable, match="Not a directory"):
        require_usable(LocalStorage(tmp_path / "file"))


def test_a_service_that_could_keep_nothing_does_not_start(s3: S3Server, tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path, **s3.settings | {"s3_bucket": "another"})
    service = create_app(settings, lambda _: fake_engine())
    with pytest.raises(StorageUnusable, match="NoSuchBucket"), TestClient(service):
        pass


def test_a_removal_is_kept_in_the_bucket_and_costs_nothing_while_that_is_away(
    database: Database, s3: S3Server, tmp_path: Path
) -> None:
    with opened_shop(database, tmp_path, **s3.settings) as shop:
        client = shop.client
        shop.fund("anna", 6)
        job = shop.remove(ANNA).raise_for_status().json()
        assert not list(tmp_path.rglob("*.png"))
        picture = client.get(job["resultUrl"]).raise_for_status().content
        assert open_picture(picture).mode == "RGBA"
        assert storage_from(app_settings.load(**s3.settings)).get(f"results/{job['jobId']}.png") == picture

        s3.stop()
        answer = shop.remove(ANNA)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert BUCKET not in answer.text
        assert s3.address not in answer.text
        assert client.get(job["resultUrl"]).status_code == 503
        assert shop.balance(ANNA) == 3

        s3.start()
        shop.remove(ANNA).raise_for_status()
        assert shop.balance(ANNA) == 0
