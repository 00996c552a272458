"""Storage that is slow, refuses, breaks off or is another folder: no file counts as missing, and all goes on afterwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from cutout.app.bootstrap import storage_from
from cutout.app.config import settings as app_settings
from cutout.app.db.session import Database
from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.storage import s3 as s3_storage
from cutout.app.storage.base import Storage, StorageError
from cutout.app.storage.local import LocalStorage
from cutout.worker.tasks import end_batches, process_claim, process_line
from tests.app.api_client import ANNA, API
from tests.app.batch_client import BatchClient, opened_studio, photos
from tests.app.http.test_api import problem
from tests.app.s3_fixtures import S3Server
from tests.fakes import PATIENCE, wait_until
from tests.faults.proxy import Fault, Proxy
from tests.worker.worker_fixtures import context_of

pytestmark = pytest.mark.slow
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
FUNDS = 100
Trouble = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A faulty network before the S3 server, and a storage that soon gives up."""
    monkeypatch.setattr(s3_storage, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(s3_storage, "RETRIES", 1)
    proxy = Proxy(int(s3.address.rpartition(":")[2]))
    yield proxy
    proxy.close()


def behind(proxy: Proxy, s3: S3Server) -> dict[str, str]:
    return s3.settings | {"s3_endpoint": proxy.address}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bucket_in_trouble_is_an_error_and_never_a_missing_or_half_file(
    proxy: Proxy, s3: S3Server, fault: Fault
) -> None:
    storage = storage_from(app_settings.load(**behind(proxy, s3)))
    data = bytes(range(256)) * 200
    storage.put("results/a", data)
    found = storage.stream("results/a")
    assert found is not None
    with proxy.failing(fault):
        calls: list[Callable[[], object]] = [
            lambda: storage.get("results/a"),
            lambda: storage.put("results/b", data),
            lambda: storage.put_stream("results/c", iter([data] * 3)),
            lambda: list(found[1]),
            lambda: storage.stream("results/a") and list(storage.stream("results/a")[1]),  # type: ignore[index]
            lambda: storage.delete("results/a"),
            lambda: storage.list_older_than(timedelta(0), "results/"),
            lambda: storage.delete_older_than(timedelta(0), "results/"),
        ]
        # Each call waits while the server says nothing; the answers to the last three are too short to be cut.
        for call in calls[: {Fault.STALL: 2, Fault.CUT: 5}.get(fault)]:
            with pytest.raises(StorageError):
                call()
        assert proxy.broken
    assert storage.get("results/a") == data
    assert storage.list_older_than(timedelta(seconds=-5), "results/") == ["results/a"]
    storage.put("results/b", data)
    assert storage.get("results/b") == data


def live_through(studio: BatchClient, storage: Storage, trouble: Trouble) -> None:
    """Take single photos and a batch through trouble at each step; nothing is lost and nothing charged twice."""
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    done = studio.remove(ANNA).raise_for_status().json()
    batch_id = studio.accepted(ANNA, photos(3))
    with trouble():
        for answer in (
            studio.remove(keyed),
            studio.client.post(f"{API}/jobs/{done['jobId']}/refine", headers=ANNA),
            studio.hand_in(keyed, photos(2)),
            studio.get(f"{API}/jobs/{done['jobId']}/image", ANNA),
        ):
            problem(answer, 503, "STORAGE_UNAVAILABLE")
        assert studio.balance(ANNA) == FUNDS - 3 - 9

    def statuses() -> set[str]:
        return {photo["status"] for photo in studio.batch(ANNA, batch_id)["photos"]}

    with context_of(studio.database, storage, lease=0.2, keep_photos=True) as context:
        with trouble(), pytest.raises(StorageError):
            process_line(context, Line.BATCH)
        assert statuses() == {"pending"}
        while statuses() != {"completed"}:
            claim = studio.database.run_in_transaction(leases.claim, Line.BATCH, 3, context.lease)
            if claim is not None:
                process_claim(context, claim)
        with trouble():  # before the photos are packed
            end_batches(context)
            context.packing.submit(lambda: None).result(PATIENCE)
            assert studio.batch(ANNA, batch_id)["status"] == "processing"

        def has_ended() -> bool:
            process_line(context, Line.BATCH)
            return bool(studio.batch(ANNA, batch_id)["status"] == "completed")

        wait_until(has_ended)
    zip_url = studio.batch(ANNA, batch_id)["zipUrl"]
    assert studio.client.get(zip_url).raise_for_status().content[:2] == b"PK"
    wait_until(lambda: studio.get("/api/health", {}).status_code == 200)
    studio.remove(keyed).raise_for_status()
    assert studio.balance(ANNA) == FUNDS - 3 - 9 - 3


def test_a_bucket_that_refuses_loses_nothing(
    database: Database, s3: S3Server, proxy: Proxy, tmp_path: Path, redis_url: str
) -> None:
    settings = behind(proxy, s3)
    with opened_studio(database, tmp_path, redis_url, storage_check_seconds=0.05, **settings) as studio:
        studio.fund("anna", FUNDS)
        live_through(
            studio, storage_from(app_settings.load(**settings)), lambda: proxy.failing(Fault.SLOW_DOWN)
        )


def test_a_folder_that_is_unmounted_loses_nothing(database: Database, tmp_path: Path, redis_url: str) -> None:
    """An unmounted disk leaves an empty folder, in which no photo is."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"

    @contextmanager
    def unmounted() -> Iterator[None]:
        folder.rename(elsewhere)
        folder.mkdir()
        try:
            yield
        finally:
            assert list(folder.iterdir()) == []
            folder.rmdir()
            elsewhere.rename(folder)

    with opened_studio(database, tmp_path, redis_url, storage_check_seconds=0.05) as studio:
        studio.fund("anna", FUNDS)
        storage = LocalStorage(folder)
        storage.mark()
        live_through(studio, storage, unmounted)
