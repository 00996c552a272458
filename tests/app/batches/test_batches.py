"""The batch endpoints: submit, watch, cancel, download."""

import asyncio
import io
import json
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rq import Queue as RqQueue
from sqlalchemy import event, select
from starlette.requests import Request
from starlette.types import Message
from structlog.contextvars import get_contextvars

from cutout.app.batches.form import Fields, Funds, read_batch
from cutout.app.batches.schemas import ProgressInfo
from cutout.app.batches.service import Progress
from cutout.app.batches.upload import BatchUpload
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.core.errors import InvalidInputError
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, LedgerEntry, Movement, Status, User, now
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.notifications.outbox import Outbox
from cutout.app.notifications.webhook import webhook_secret
from cutout.app.ratelimit.limits import Kind, RateLimits
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.limits import DEFAULT_SIZES
from cutout.inference.presets import Presets
from tests.app.api_client import ANNA, API, BEN, SECRET, bearer
from tests.app.batch_client import BATCH, BatchClient, at_work, opened_studio, photos, studio
from tests.app.databases import valkey_at
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, FakeRunner, held_until, wait_until

pytestmark = pytest.mark.slow

__all__ = ["studio"]

MB = 1_000_000
BROKEN = ("broken.png", b"no picture")


@pytest.fixture
def rich(studio: BatchClient) -> BatchClient:
    """Return a service in which Anna has credits."""
    studio.fund("anna", 10_000)
    return studio


def nothing_is_left(studio: BatchClient, balance: int = 10_000) -> None:
    """Check that a refused batch left nothing behind."""
    assert studio.kept() == []
    assert studio.balance(ANNA) == balance
    assert studio.get(BATCH, ANNA).json() == {"batches": []}
    with studio.database.begin() as session:
        assert session.scalars(select(Job)).all() == []


def send(studio: BatchClient, body: bytes, **headers: str) -> httpx2.Response:
    """Submit a body that may not be a form at all."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"} | headers
    answer: httpx2.Response = studio.client.post(BATCH, content=body, headers=ANNA | headers)
    return answer


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parse server-sent events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_batch_from_hand_in_to_its_zip(studio: BatchClient) -> None:
    user_id = studio.fund("anna", 100)
    answer = studio.hand_in(ANNA, photos(25), tier="basic", imageCount="25", format="webp")
    assert answer.status_code == 202
    accepted = answer.json()
    batch_id = accepted["batchId"]
    price = {
        "tier": "basic",
        "imageCount": 25,
        "frames": 1,
        "creditsPerImage": 3,
        "totalCredits": 75,
        "discountPercent": 5,
        "discountCredits": 3,
        "finalCredits": 72,
        "finalRupiah": 7200,
    }
    assert accepted == {
        "batchId": batch_id,
        "status": "pending",
        "price": price,
        "estimatedSeconds": None,
        "statusUrl": f"{BATCH}/{batch_id}",
        "eventsUrl": f"{BATCH}/{batch_id}/events",
        "webhookSecret": None,
    }
    assert studio.balance(ANNA) == 28
    held = studio.get(f"{API}/credits", ANNA).json()["entries"][0]
    assert (held["movement"], held["credits"], held["key"]) == ("hold", -72, f"hold:batch:{batch_id}")
    assert held["note"] == "25 basic images, 75 credits less 5 % = 3"
    shown = studio.get(accepted["statusUrl"], ANNA).json()
    assert (shown["status"], shown["percent"], shown["secondsLeft"]) == ("pending", 0, None)
    assert shown["counts"] == {"completed": 0, "failed": 0, "cancelled": 0, "processing": 0, "pending": 25}
    assert [photo["name"] for photo in shown["photos"]] == [name for name, _ in photos(25)]
    assert shown["zipUrl"] is shown["creditsCharged"] is shown["photos"][0]["resultUrl"] is None

    studio.work_off()
    shown = studio.batch(ANNA, batch_id)
    assert (shown["status"], shown["percent"], shown["secondsLeft"]) == ("completed", 100, 0)
    assert (shown["counts"]["completed"], shown["price"], shown["creditsCharged"]) == (25, price, 72)
    assert shown["createdAt"] < shown["startedAt"] < shown["finishedAt"]
    assert studio.balance(ANNA) == 28
    assert shown["photos"][7]["thumbnailUrl"].startswith(
        f"{API}/jobs/{shown['photos'][7]['jobId']}/thumbnail?"
    )
    picture = studio.get(shown["photos"][7]["resultUrl"], {})
    assert picture.headers["content-type"] == "image/webp"
    for address, who in ((f"{BATCH}/{batch_id}/download", ANNA), (shown["zipUrl"], {})):
        download = studio.get(address, who)
        assert download.headers["content-type"] == "application/zip"
        assert download.headers["content-disposition"] == f'attachment; filename="cutout-{batch_id[:8]}.zip"'
        assert int(download.headers["content-length"]) == len(download.content)
        with zipfile.ZipFile(io.BytesIO(download.content)) as archive:
            assert archive.read("photo-7.webp") == picture.content
            assert len(json.loads(archive.read("manifest.json"))["images"]) == 25

    found = studio.get(f"{API}/jobs?batchId={batch_id}&limit=200", ANNA).json()["jobs"]
    assert [(job["position"], job["name"]) for job in found] == [
        (photo["position"], photo["name"]) for photo in shown["photos"]
    ]
    assert sum(job["credits"] for job in found) == 72
    counted = studio.get(f"{API}/stats", ANNA).json()
    assert (counted["removals"], counted["batches"], counted["creditsSpent"]) == (25, 1, 72)
    assert counted["tiers"]["basic"]["batches"] == 1
    assert counted["tiers"]["standard"]["batches"] == 0
    assert isinstance(studio.hand_in(ANNA, photos(2)).json()["estimatedSeconds"], int)
    with studio.database.begin() as session:
        movements = select(LedgerEntry.movement).where(LedgerEntry.user_id == user_id)
        assert sorted(session.scalars(movements)) == sorted(
            [Movement.GRANT, Movement.HOLD, Movement.CHARGE, Movement.HOLD]
        )


@pytest.mark.parametrize("count", [0, 1, 501])
def test_a_batch_of_another_size_is_refused(rich: BatchClient, count: int) -> None:
    answer = rich.hand_in(ANNA, [("same.png", b"x")] * count, tier="basic")
    assert f"2 to 500 photos, not {count}" in problem(answer, 400, "BATCH_SIZE")["detail"]
    nothing_is_left(rich)


def test_the_largest_batch_is_taken_in_and_told_with_few_questions(rich: BatchClient) -> None:
    batch_id = rich.accepted(ANNA, [("same.png", b"x")] * 500, imageCount="500")
    assert len(rich.kept()) == 500
    assert rich.balance(ANNA) == 10_000 - 1200
    asked: list[str] = []

    @event.listens_for(rich.state.get(Database).engine, "before_cursor_execute")
    def listen(*args: Any) -> None:
        # Maintenance asks its own questions meanwhile.
        if "request" in get_contextvars():
            asked.append(args[2])

    assert len(rich.batch(ANNA, batch_id)["photos"]) == 500
    # The caller, the batch, its photos, its deliveries.
    assert len([question for question in asked if question.startswith("SELECT")]) == 4


def test_the_number_of_photos_is_as_announced(rich: BatchClient) -> None:
    detail = problem(rich.hand_in(ANNA, photos(3), imageCount="4"), 400, "BATCH_SIZE")["detail"]
    assert "imageCount is 4, but 3 photos were received" in detail
    nothing_is_left(rich)


def test_a_file_field_without_a_file_is_no_photo(rich: BatchClient) -> None:
    problem(rich.hand_in(ANNA, [("", b""), *photos(1)]), 400, "BATCH_SIZE")
    assert [
        photo["name"]
        for photo in rich.batch(ANNA, rich.accepted(ANNA, [("", b"x"), ("a.png", b"")]))["photos"]
    ] == ["", "a.png"]


def test_a_photo_that_is_too_large_is_named(rich: BatchClient) -> None:
    answer = rich.hand_in(ANNA, [*photos(2), ("huge one.png", b"x" * (MB + 1)), *photos(1)])
    detail = problem(answer, 413, "IMAGE_TOO_LARGE")["detail"]
    assert detail == "'huge one.png' is larger than 1 MB. Send a smaller file."
    answer = rich.hand_in(ANNA, [*photos(2), ("", b"x" * (MB + 1))])
    assert problem(answer, 413, "IMAGE_TOO_LARGE")["detail"].startswith("Photo 3 is larger")
    nothing_is_left(rich)


def test_a_batch_that_is_too_large_is_refused(database: Database, tmp_path: Path, redis_url: str) -> None:
    with opened_studio(database, tmp_path, redis_url, max_batch_mb=2) as studio:
        studio.fund("anna", 10_000)
        announced = send(studio, b"x", **{"Content-Length": str(3 * MB)})
        assert "2 MB" in problem(announced, 413, "BODY_TOO_LARGE")["detail"]
        part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + b"x" * 800_000

        def unannounced() -> Iterator[bytes]:
            for _ in range(4):
                yield part + b"\r\n"

        answer = studio.client.post(
            BATCH,
            content=unannounced(),
            headers=ANNA | {"Content-Type": "multipart/form-data; boundary=b"},
        )
        problem(answer, 413, "BODY_TOO_LARGE")
        nothing_is_left(studio)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tier": "best"}, "tier: Input should be"),
        ({"tier": "preview"}, "tier: preview is for single photos: send each to /api/"),
        ({"animation": "all"}, "animation: a batch takes the first frame"),
        ({"format": "psd"}, "format: Input should be"),
        ({"quality": "101"}, "quality: Input should be less"),
        ({"maskOnly": "perhaps"}, "maskOnly: Input should be"),
        ({"imageCount": "many"}, "imageCount: Input should be"),
        ({"background": "no colour"}, "background: 'no colour' is not a colour"),
        ({"teir": "basic"}, "teir: there is no such field"),
        ({"mask_only": "true"}, "mask_only: there is no such field"),
        ({"webhookUrl": "ftp://shop.example/told"}, "webhookUrl: "),
        ({"notifyEmail": "anna@shop.example"}, "notifyEmail: This service does not send mail"),
        ({"tier": "b" * 10_001}, "tier: send at most 10 kB"),
    ],
)
def test_a_wrong_field_is_named(rich: BatchClient, fields: dict[str, str], said: str) -> None:
    assert problem(rich.hand_in(ANNA, photos(2), **fields), 400, "INVALID_INPUT")["detail"].startswith(said)
    nothing_is_left(rich)


def part(head: str, data: str) -> bytes:
    return f"--b\r\nContent-Disposition: form-data; name={head}\r\n\r\n{data}\r\n".encode()


def test_fields_come_in_any_order_once(rich: BatchClient) -> None:
    image = part('"images"; filename="a.png"', "x")
    tier, end = part('"tier"', "standard"), b"--b--\r\n"
    for body in (tier + image + image + end, image + tier + image + end, image + image + tier + end):
        answer = send(rich, body + b"what follows is no part of it")
        assert (answer.status_code, answer.json()["price"]["finalCredits"]) == (202, 16)
    empty = part('"format"', "") + part('"imageCount"', "")
    assert send(rich, image + image + empty + end).status_code == 202
    kept, balance = len(rich.kept()), rich.balance(ANNA)
    for body, said in (
        (tier + image + image + tier + end, "tier: send this field only once"),
        (tier + empty + image + empty + end, "format: send this field only once"),
        (image + image + tier, "it ends too early. Send a form"),
        (image + image + part('"tier"', "\x00") + end, "tier: Input should"),
        (image + tier.replace(b"standard", b"\xff") + end, "tier: send text in UTF-8"),
        (b"no form", "cannot be read"),
        (b"", "ends too early"),
    ):
        assert said in problem(send(rich, body), 400, "INVALID_INPUT")["detail"]
    problem(send(rich, image + image + end, **{"Content-Type": "text/plain"}), 400, "INVALID_INPUT")
    assert (len(rich.kept()), rich.balance(ANNA)) == (kept, balance)


def test_parts_without_a_files_name_are_photos(rich: BatchClient) -> None:
    answer = send(
        rich, part('"images"', "x") + part('"images"\r\nContent-Type: image/jpeg', "y") + b"--b--\r\n"
    )
    assert answer.status_code == 202
    assert rich.batch(ANNA, answer.json()["batchId"])["counts"]["pending"] == 2


@pytest.mark.parametrize("colour", ["#ff00008", "rgb(999,0,0)"])
def test_a_batchs_colour_is_in_range(rich: BatchClient, colour: str) -> None:
    answer = rich.hand_in(ANNA, photos(2), background=colour)
    assert colour in problem(answer, 400, "INVALID_INPUT")["detail"]
    nothing_is_left(rich)


def test_a_batch_that_cannot_be_paid_leaves_nothing(studio: BatchClient) -> None:
    studio.fund("anna", 15)
    refused = problem(studio.hand_in(ANNA, photos(2), tier="standard"), 402, "INSUFFICIENT_CREDITS")
    assert (refused["required"], refused["available"]) == (16, 15)
    nothing_is_left(studio, balance=15)


def test_without_a_queue_no_batch_is_read(database: Database, tmp_path: Path) -> None:
    with opened_studio(database, tmp_path, None, batch_per_hour=1) as studio:
        studio.fund("anna", 10_000)
        for _ in range(3):  # It does not count as a batch.
            answer = send(studio, b"x", **{"Content-Length": "2000000000"})
            assert "one by one" in problem(answer, 503, "QUEUE_UNAVAILABLE")["detail"]
            assert int(answer.headers["retry-after"]) > 0
            # Closed with unread bytes of the body, the connection would be reset, and the answer lost.
            assert "connection" not in answer.headers
        anonymous = studio.client.post(BATCH, content=b"x", headers={"Content-Length": "2000000000"})
        problem(anonymous, 401, "UNAUTHENTICATED")
        nothing_is_left(studio)


def test_a_queue_that_is_away_takes_nothing_in(database: Database, tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    server = valkey_at(tmp_path / "valkey")
    server.start()
    with opened_studio(database, tmp_path, f"unix://{server.unix_socket_path}") as studio:
        studio.fund("anna", 10_000)
        put = Puts(studio)
        # The server stops while the photos arrive.
        put.then(server.stop)
        problem(studio.hand_in(ANNA, photos(3)), 503, "QUEUE_UNAVAILABLE")
        assert put.count == 3
        nothing_is_left(studio)
        answer = studio.hand_in(ANNA, photos(3))
        problem(answer, 503, "QUEUE_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) > 0
        assert put.count == 3
        nothing_is_left(studio)


def test_a_photo_that_cannot_be_stored_leaves_nothing(rich: BatchClient) -> None:
    def full() -> None:
        raise StorageError("The file cannot be written (No space left on device).")

    puts = Puts(rich)
    puts.then(full)
    problem(rich.hand_in(ANNA, photos(3)), 503, "STORAGE_UNAVAILABLE")
    assert puts.count == 1
    nothing_is_left(rich)


def test_the_bell_rings_for_what_is_handed_in_and_what_is_cancelled(rich: BatchClient) -> None:
    wake_ups = RqQueue(Line.BATCH.value, connection=rich.state.get(Queue).connection)
    wake_ups.connection.delete(wake_ups.key)
    batch_id = rich.accepted(ANNA, photos(2))
    assert wake_ups.count == 1
    wake_ups.connection.delete(wake_ups.key)
    rich.client.delete(f"{BATCH}/{batch_id}", headers=ANNA).raise_for_status()
    assert wake_ups.count == 1


class Puts:
    """Watches what a service stores."""

    def __init__(self, studio: BatchClient) -> None:
        self.count = 0
        self._then: Callable[[], None] = lambda: None
        self._put: Callable[[str, bytes], None] = studio.state.get(Storage).put
        studio.state.get(Storage).put = self.put  # type: ignore[method-assign]

    def then(self, do: Callable[[], None]) -> None:
        """Call `do` after the next photo."""
        self._then = do

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)
        if not key.startswith(jobs.UPLOADS):  # The service probes whether results can be stored.
            return
        self.count += 1
        do, self._then = self._then, lambda: None
        do()


def test_the_same_key_is_the_same_batch(rich: BatchClient) -> None:
    keyed = {"Idempotency-Key": "order-1"}
    first, second = (rich.hand_in(ANNA | keyed, photos(3)) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert len(rich.kept()) == 3
    assert rich.balance(ANNA) == 10_000 - 9
    for other in (
        rich.hand_in(ANNA | keyed, photos(4)),
        rich.hand_in(ANNA | keyed, photos(3), tier="standard"),
    ):
        problem(other, 409, "CONFLICT")
    single = {"Idempotency-Key": "single"}
    rich.remove(ANNA | single).raise_for_status()
    problem(rich.hand_in(ANNA | single, photos(3)), 409, "CONFLICT")
    problem(rich.remove(ANNA | keyed), 409, "CONFLICT")
    assert len(rich.kept()) == 3
    rich.fund("ben", 9)
    assert rich.hand_in(BEN | keyed, photos(3)).json()["batchId"] != first.json()["batchId"]


def test_the_same_key_at_once_is_one_batch(rich: BatchClient) -> None:
    answers: list[httpx2.Response] = []
    keyed = {"Idempotency-Key": "order-1"}
    calls = [
        threading.Thread(target=lambda: answers.append(rich.hand_in(ANNA | keyed, photos(4))))
        for _ in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(PATIENCE)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["batchId"] for answer in answers}) == 1
    assert len(rich.kept()) == 4
    assert rich.balance(ANNA) == 10_000 - 12


def test_names_are_kept_as_they_were_sent(rich: BatchClient) -> None:
    names = [
        "../../etc/passwd",
        r"C:\con.png",
        "日本語.png",
        "ñ" * 150,
        "\u202egnp.exe",
        "a" * 1000,
        "same",
        "same",
    ]
    sent = b"".join(
        part(f'"images"; filename="{name}"', "x") for name in [*names, "b\x01ell\n\x7f", "nu\0l", "l" * 1200]
    )
    answer = send(rich, sent + b"--b--\r\n")
    shown = rich.batch(ANNA, answer.json()["batchId"])
    assert [photo["name"] for photo in shown["photos"]] == [*names, "b\x01ell\n\x7f", "nu\ufffdl", "l" * 1000]
    assert {path.parent.parent for path in rich.kept()} == {rich.storage.root / "uploads"}


def test_a_batch_is_watched_while_it_is_worked_on(rich: BatchClient) -> None:
    go_on = threading.Event()
    runner = FakeRunner(before=lambda: held_until(go_on))
    runner.before, hold = (lambda: None), runner.before  # The engine warms up.
    batch_id = rich.accepted(ANNA, [*photos(5), BROKEN], tier="basic")
    seen: list[tuple[str, dict[str, Any]]] = []
    watching = threading.Thread(
        target=lambda: seen.extend(events_of(rich.get(f"{BATCH}/{batch_id}/events", ANNA).text))
    )
    runner.before = hold
    with at_work(rich.database, rich.storage, runner):
        watching.start()
        wait_until(lambda: rich.batch(ANNA, batch_id)["status"] == "processing")
        assert rich.batch(ANNA, batch_id)["counts"]["processing"] > 0
        go_on.set()
        watching.join(PATIENCE)
    assert not watching.is_alive()
    assert [event for event, _ in seen[-2:]] == ["progress", "end"]
    assert seen[-1][1] == seen[-2][1] == {
        "status": "partial",
        "images": 6,
        "counts": {"completed": 5, "failed": 1, "cancelled": 0, "processing": 0, "pending": 0},
        "percent": 100,
        "secondsLeft": 0,
    }  # fmt: skip
    assert len(seen) > 2
    percents = [told["percent"] for event, told in seen if event != "photos"]
    assert percents == sorted(percents)
    assert percents[0] < 100

    shown = rich.batch(ANNA, batch_id)
    *done, failed = shown["photos"]
    assert {photo["status"] for photo in done} == {"completed"}
    assert (failed["status"], failed["resultUrl"], failed["error"]["code"]) == (
        "failed",
        None,
        "UNSUPPORTED_FORMAT",
    )
    assert failed["error"]["detail"].startswith("This file is not a picture")
    assert (shown["price"]["finalCredits"], shown["creditsCharged"]) == (18, 15)
    assert rich.balance(ANNA) == 10_000 - 15


def test_a_batch_is_cancelled_before_and_after_its_beginning(rich: BatchClient) -> None:
    early = rich.accepted(ANNA, photos(3))
    shown = rich.client.delete(f"{BATCH}/{early}", headers=ANNA).raise_for_status().json()
    assert (shown["status"], shown["counts"]["cancelled"], shown["creditsCharged"]) == ("cancelled", 3, 0)
    assert {(photo["status"], photo["error"]) for photo in shown["photos"]} == {("cancelled", None)}
    assert rich.balance(ANNA) == 10_000
    # It has not finished; a second call changes nothing.
    assert rich.client.delete(f"{BATCH}/{early}", headers=ANNA).json()["status"] == "cancelled"
    rich.work_off()
    problem(rich.client.delete(f"{BATCH}/{early}", headers=ANNA), 409, "CONFLICT")
    cancelled = rich.get(f"{API}/jobs?status=cancelled", ANNA).json()["jobs"]
    assert {(job["batchId"], job["credits"], job["error"]) for job in cancelled} == {(early, 0, None)}

    late = rich.accepted(ANNA, photos(4))
    with at_work(rich.database, rich.storage, (runner := FakeRunner())):
        first, go_on = threading.Event(), threading.Event()

        def hold_the_second() -> None:
            if rich.batch(ANNA, late)["counts"]["completed"]:
                first.set()
                held_until(go_on)

        runner.before = hold_the_second
        held_until(first)
        shown = rich.client.delete(f"{BATCH}/{late}", headers=ANNA).raise_for_status().json()
        go_on.set()
        assert shown["status"] == "cancelled"
        done = shown["counts"]["completed"]
        assert 1 <= done < 4
        assert shown["creditsCharged"] == 3 * done
        wait_until(lambda: rich.batch(ANNA, late)["finishedAt"] is not None)
    assert rich.balance(ANNA) == 10_000 - 3 * done
    shown = rich.batch(ANNA, late)
    assert (shown["status"], shown["counts"]["completed"]) == ("cancelled", done)
    with zipfile.ZipFile(io.BytesIO(rich.get(shown["zipUrl"], {}).content)) as archive:
        assert len(archive.namelist()) == done + 1


def test_where_there_is_no_zip_it_is_said_why(rich: BatchClient) -> None:
    batch_id = rich.accepted(ANNA, photos(2))
    download = f"{BATCH}/{batch_id}/download"
    assert "has not finished" in problem(rich.get(download, ANNA), 404, "NOT_FOUND")["detail"]
    rich.work_off()
    zip_url = rich.batch(ANNA, batch_id)["zipUrl"]
    (rich.storage.root / jobs.archive_key(batch_id)).unlink()  # type: ignore[arg-type]
    for address, who in ((download, ANNA), (zip_url, {})):
        assert "kept for a limited time" in problem(rich.get(address, who), 404, "NOT_FOUND")["detail"]
    with rich.database.begin() as session:
        batch = session.scalars(select(Batch)).one()
        batch.finished_at = now() - timedelta(days=8)
    assert rich.batch(ANNA, batch_id)["zipUrl"] is None

    failed = rich.accepted(ANNA, [BROKEN, BROKEN])
    rich.work_off()
    assert (rich.batch(ANNA, failed)["status"], rich.batch(ANNA, failed)["zipUrl"]) == ("failed", None)
    assert (
        "No photo in this batch succeeded"
        in problem(rich.get(f"{BATCH}/{failed}/download", ANNA), 404, "NOT_FOUND")["detail"]
    )


def test_a_download_that_broke_off_goes_on(rich: BatchClient) -> None:
    batch_id = rich.accepted(ANNA, photos(2))
    rich.work_off()
    address = f"{BATCH}/{batch_id}/download"
    whole = rich.get(address, ANNA)
    tag, size = whole.headers["etag"], len(whole.content)
    for wanted in ("bytes=100-", f"bytes=100-{size - 1}", f"bytes=100-{size + 5}"):
        rest = rich.get(address, ANNA | {"Range": wanted, "If-Range": tag})
        assert (rest.status_code, rest.content) == (206, whole.content[100:])
        assert rest.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
        assert int(rest.headers["content-length"]) == size - 100
    for wanted in (
        "bytes=0-",
        f"bytes={size}-",
        "bytes=-5",
        "bytes=5-9",
        "bytes=1-,3-",
        "lines=3-",
        "bytes=x-",
    ):
        again = rich.get(address, ANNA | {"Range": wanted})
        assert (again.status_code, again.content) == (200, whole.content)
    assert rich.get(address, ANNA | {"Range": "bytes=100-", "If-Range": '"another"'}).status_code == 200


def test_batches_are_listed_in_pages(rich: BatchClient) -> None:
    first, second, third = (rich.accepted(ANNA, photos(2)) for _ in range(3))
    rich.fund("ben", 6)
    rich.accepted(BEN, photos(2))
    listed = rich.get(BATCH, ANNA).json()["batches"]
    assert [batch["batchId"] for batch in listed] == [third, second, first]
    assert "photos" not in listed[0]
    assert listed[0]["counts"]["pending"] == 2
    page = rich.get(f"{BATCH}?limit=1&offset=1", ANNA).json()["batches"]
    assert [batch["batchId"] for batch in page] == [second]
    problem(rich.get(f"{BATCH}?limit=201", ANNA), 400, "INVALID_INPUT")


def test_who_is_to_be_told_is_told_with_his_secret(
    database: Database, tmp_path: Path, redis_url: str
) -> None:
    with opened_studio(
        database, tmp_path, redis_url, smtp_url="smtp://127.0.0.1:9", mail_from="cutout@shop.example"
    ) as studio:
        user_id = studio.fund("anna", 100)
        with database.begin() as session:
            session.get_one(User, user_id).email = "Anna@Shop.example"
        told = {"webhookUrl": "https://shop.example/told", "notifyEmail": " anna@shop.example"}
        accepted = studio.hand_in(ANNA, photos(2), **told).json()
        assert accepted["webhookSecret"] == webhook_secret(SECRET, user_id)
        assert studio.hand_in(ANNA, photos(2), webhookUrl="").json()["webhookSecret"] is None
        with database.begin() as session:
            batch = session.scalars(select(Batch).where(Batch.webhook_url.is_not(None))).one()
            assert (batch.webhook_url, batch.notify_email) == (told["webhookUrl"], "anna@shop.example")
        studio.work_off()
        shown = studio.batch(ANNA, accepted["batchId"])["deliveries"]
        assert [delivery["channel"] for delivery in shown] == ["mail", "webhook"]
        assert {delivery["deliveredAt"] for delivery in shown} == {None}


def test_batches_are_counted_by_the_hour(database: Database, tmp_path: Path, redis_url: str) -> None:
    with opened_studio(database, tmp_path, redis_url, batch_per_hour=2) as studio:
        studio.fund("carl", 100)
        who = {"Authorization": f"{ANNA['Authorization']}"}
        studio.fund("anna", 100)
        for _ in range(2):
            studio.accepted(who, photos(2))
        answer = send(studio, b"x", **{"Content-Length": "1000000"})
        assert "batches" in problem(answer, 429, "RATE_LIMITED")["detail"]
        assert 0 < int(answer.headers["retry-after"]) <= 3600


def test_only_accepted_batches_count_however_they_come(
    database: Database, tmp_path: Path, redis_url: str
) -> None:
    def full() -> None:
        raise StorageError("The file cannot be written (No space left on device).")

    with opened_studio(database, tmp_path, redis_url, batch_per_hour=2) as studio:
        studio.fund("anna", 1000)
        puts = Puts(studio)
        for _ in range(3):
            puts.then(full)
            problem(studio.hand_in(ANNA, photos(2)), 503, "STORAGE_UNAVAILABLE")
        keyed = ANNA | {"Idempotency-Key": "order-1"}
        first = studio.accepted(keyed, photos(2))
        with ThreadPoolExecutor(6) as callers:
            answers = list(callers.map(lambda _: studio.hand_in(ANNA, photos(3)).status_code, range(6)))
        assert sorted(answers) == [202, 429, 429, 429, 429, 429]
        assert studio.balance(ANNA) == 1000 - 6 - 9
        # A repeated request is not another batch, and a cancelled batch still counts.
        assert studio.accepted(keyed, photos(2)) == first
        assert studio.client.delete(f"{BATCH}/{first}", headers=ANNA).status_code == 200
        problem(studio.hand_in(ANNA, photos(2)), 429, "RATE_LIMITED")
        assert studio.state.get(RateLimits).refused[Kind.BATCH] == 6
        with database.begin() as session:
            session.get_one(Batch, uuid.UUID(first)).created_at -= timedelta(hours=1)
        studio.accepted(ANNA, photos(2))


def test_attempts_are_counted_more_loosely(database: Database, tmp_path: Path, redis_url: str) -> None:
    with opened_studio(database, tmp_path, redis_url, batch_attempts_per_hour=3) as studio:
        studio.fund("anna", 100)
        for _ in range(3):
            problem(studio.hand_in(ANNA, photos(1)), 400, "BATCH_SIZE")
        refused = problem(studio.hand_in(ANNA, photos(2)), 429, "RATE_LIMITED")
        assert "attempts to submit a batch: 3 an hour" in refused["detail"]


def test_who_cannot_pay_hears_it_before_anything_is_read(studio: BatchClient) -> None:
    studio.fund("anna", 5)
    refused = problem(
        send(studio, b"no form", **{"Content-Length": "2000000000"}), 402, "INSUFFICIENT_CREDITS"
    )
    assert (refused["required"], refused["available"]) == (6, 5)
    assert "at least 6" in refused["detail"]
    studio.fund("anna", 1)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    first = studio.accepted(keyed, photos(2))
    assert studio.balance(ANNA) == 0
    # A batch that was accepted is not charged again.
    assert studio.accepted(keyed, photos(2)) == first


def read_in_pieces(studio: BatchClient, user_id: uuid.UUID, pieces: list[bytes], balance: int) -> BatchUpload:
    """Read a form that arrives in these pieces and then breaks off; return what was stored of it."""
    scope = {"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    upload = BatchUpload(studio.storage)
    funds = Funds(studio.database, user_id, balance)
    fields = Fields(studio.state.get(Outbox), None, studio.state.get(Presets))
    with suppress(InvalidInputError):
        asyncio.run(read_batch(Request(scope, receive), upload, fields, funds, MB, DEFAULT_SIZES))
    return upload


def test_what_cannot_be_paid_is_refused_as_soon_as_that_is_known(studio: BatchClient) -> None:
    user_id = studio.fund("anna", 50)
    image, tier = part('"images"; filename="a.png"', "x"), part('"tier"', "industry")
    # The end of a part is known when the next one begins.
    for pieces, required in (
        ([tier, image, image, image, image], 75),
        ([image, image, tier, image, image], 75),
        ([part('"imageCount"', "18"), image, image], 54),
        ([image] * 20, 51),
    ):
        with pytest.raises(InsufficientCredits) as refused:
            read_in_pieces(studio, user_id, pieces, 50)
        assert refused.value.required == required
    # Credits bought in the meantime count.
    assert len(read_in_pieces(studio, user_id, [tier, image, image], 6).photos) == 1


def test_only_ones_own_address_is_told(database: Database, tmp_path: Path, redis_url: str) -> None:
    mail = {"smtp_url": "smtp://127.0.0.1:9", "mail_from": "cutout@shop.example"}
    anna = bearer("anna", email="anna@shop.example")
    with opened_studio(database, tmp_path, redis_url, **mail) as studio:
        for subject in ("anna", "ben"):
            studio.fund(subject, 100)
        assert studio.hand_in(anna, photos(2), notifyEmail="ANNA@shop.example").status_code == 202
        for who, says in ((anna, "which is anna@shop.example"), (BEN, "knows no address of yours")):
            refused = problem(
                studio.hand_in(who, photos(2), notifyEmail="eve@shop.example"), 400, "INVALID_INPUT"
            )
            assert says in refused["detail"]
            assert "CUTOUT_NOTIFY_ANY_EMAIL=1" in refused["detail"]
    with opened_studio(database, tmp_path, redis_url, notify_any_email=True, **mail) as studio:
        assert studio.hand_in(BEN, photos(2), notifyEmail="eve@shop.example").status_code == 202


def test_the_time_left_goes_by_what_is_done() -> None:
    at = now()

    def left(done: int, waiting: int, seconds: float | None) -> int | None:
        progress = Progress({Status.COMPLETED: done, Status.PENDING: waiting})
        started = None if seconds is None else at - timedelta(seconds=seconds)
        return ProgressInfo.told(Status.PROCESSING, progress, started, at).seconds_left

    assert left(0, 4, None) is None
    assert left(0, 4, 10) is None
    assert left(1, 3, 10) == 30
    assert left(3, 1, 10) == 4
    assert left(4, 0, 10) == 0
