"""Batches from submission to end, with a worker in this process."""

import asyncio
import itertools
import threading
import zipfile
from datetime import timedelta
from io import BytesIO

import pytest
from sqlalchemy import select

from cutout.app.batches import service as batches
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Delivery, Job, LedgerEntry, Movement, Status, now
from cutout.app.jobs import leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.originals import ORIGINALS
from cutout.app.removals.refining import CannotRefine, find_original
from cutout.app.storage.base import StorageError
from cutout.app.storage.local import LocalStorage
from cutout.inference.errors import Overloaded
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.hints import Hints, parse_box
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from cutout.worker.tasks import process_claim, process_line
from tests.app.databases import on_both
from tests.fakes import FakeRunner, files_below, photo_bytes, thin_picture, wait_until
from tests.worker.worker_fixtures import context_of, small_photos, submitted, work_off

pytestmark = pytest.mark.slow

LEASE = timedelta(seconds=30)


def look(database: Database, batch: Batch) -> tuple[Batch, list[Job]]:
    """Return the current state of a batch and its photos, and check that all balances match the ledger."""
    with database.begin() as session:
        assert ledger.discrepancies(session) == {}
        return session.get_one(Batch, batch.id), list(batches.photos_of(session, batch.id))


def test_a_photo_too_thin_for_any_network_fails_at_its_first_attempt(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, [*small_photos(2), thin_picture(5_000_000, 2)])
    with context_of(database, storage) as context:
        work_off(context)
    ended, photos = look(database, batch)
    assert ended.status is Status.PARTIAL
    assert [(photo.status, photo.attempts) for photo in photos[:2]] == [(Status.COMPLETED, 1)] * 2
    assert (photos[2].error_code, photos[2].attempts) == ("IMAGE_TOO_LARGE", 1)


def movements(database: Database, batch: Batch) -> list[tuple[Movement, int]]:
    """Return the ledger entries of a batch."""
    with database.begin() as session:
        rows = session.scalars(
            select(LedgerEntry).where(LedgerEntry.key.like(f"%{batch.id}")).order_by(LedgerEntry.id)
        )
        return [(row.movement, row.credits) for row in rows]


@on_both
def test_a_batch_is_done_packed_and_charged(database: Database, storage: LocalStorage) -> None:
    batch = submitted(
        database, storage, small_photos(25), webhook_url="https://example.com/", notify_email="a@b.c"
    )
    with context_of(database, storage) as context:
        work_off(context)
    ended, photos = look(database, batch)
    assert (ended.status, ended.credits, ended.discount, ended.charged) == (Status.COMPLETED, 72, 3, 72)
    assert {photo.status for photo in photos} == {Status.COMPLETED}
    assert sum(photo.credits for photo in photos) == 72
    assert {photo.attempts for photo in photos} == {1}
    assert movements(database, batch) == [(Movement.HOLD, -72), (Movement.CHARGE, 0)]
    packed = storage.get(jobs.archive_key(batch.id))
    assert packed is not None
    assert len(packed) == ended.zip_bytes
    assert len([name for name in zipfile.ZipFile(BytesIO(packed)).namelist() if name.endswith(".png")]) == 25
    assert [file for file in (storage.root / "uploads").rglob("*") if file.is_file()] == []
    with database.begin() as session:
        assert {one.target for one in session.scalars(select(Delivery))} == {"https://example.com/", "a@b.c"}


def test_a_batchs_photos_can_be_refined(database: Database, storage: LocalStorage) -> None:
    batch = submitted(database, storage, [*small_photos(2), b"no picture"])
    with context_of(database, storage, keep_photos=True) as context:
        work_off(context)
        _, photos = look(database, batch)
        for photo in photos[:2]:
            original = asyncio.run(
                find_original(database, storage, batch.user_id, photo.id, timedelta(days=1))
            )
            made = context.engine.submit(original.photo, original.options).result()
            assert made.data == storage.get(jobs.result_key_of(photo))
        with pytest.raises(CannotRefine):
            asyncio.run(find_original(database, storage, batch.user_id, photos[2].id, timedelta(days=1)))
    assert len(files_below(storage.root / ORIGINALS)) == 2


@on_both
def test_what_fails_is_named_and_its_share_comes_back(database: Database, storage: LocalStorage) -> None:
    good = small_photos(53)
    broken = [b"", b"no picture", good[0][:60], good[1][:-30], b"GIF89a", b"\xff\xd8\xff\xe0", b"<svg/>"]
    sent = good[:30] + broken + good[30:]
    batch = submitted(database, storage, sent, Options(tier=Tier.STANDARD))
    with context_of(database, storage) as context:
        work_off(context)
    ended, photos = look(database, batch)
    failed = [photo for photo in photos if photo.status is Status.FAILED]
    assert [photo.position for photo in failed] == list(range(30, 37))
    assert all(photo.error_code in ("INVALID_IMAGE", "UNSUPPORTED_FORMAT") for photo in failed)
    assert all(photo.error_detail for photo in failed)
    returned = sum(photo.credits for photo in failed)
    assert ended.status is Status.PARTIAL
    assert (ended.credits, ended.charged) == (60 * 8 * 90 // 100, 60 * 8 * 90 // 100 - returned)
    assert movements(database, batch)[1:] == [(Movement.CHARGE, 0), (Movement.RELEASE, returned)]


def test_photos_with_hints_of_their_own_are_in_work_at_once(
    database: Database, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network begins when all have been read, so none waits for another's result."""
    behind, get, read = Picture.of(photo_bytes(9, 7)), storage.get, list[str]()
    hints = Hints(largest_only=True), None, Hints(box=parse_box("0% 0% 50% 100%"))
    sent = [photo_bytes(seed=seed) for seed in range(3)]
    batch = submitted(database, storage, sent, Options(background=behind), hints=hints)
    storage.put(jobs.picture_key(batch.id, behind.sha256), behind.data)

    def note(key: str) -> bytes | None:
        data = get(key)
        read.append(key)
        return data

    monkeypatch.setattr(storage, "get", note)
    runner = FakeRunner(before=lambda: wait_until(lambda: len(read) >= 4, 5))
    with context_of(database, storage, runner=runner) as context:
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE, now())
        assert claim is not None
        assert [photo.options.hints for photo in claim.photos] == [hints[0], Hints(), hints[2]]
        process_claim(context, claim)
        assert len(read) == 4  # the picture behind them once
        _, photos = look(database, batch)
        for photo, data, own in zip(photos, sent, hints, strict=True):
            options = Options(background=behind, hints=own or Hints())
            made = get(jobs.result_key(photo.id, Format.PNG, 1))
            assert made == context.engine.remove(data, options).data
    assert {photo.status for photo in photos} == {Status.COMPLETED}


def test_where_all_fail_everything_comes_back_and_there_is_no_zip(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, [b"one", b"two"], notify_email="a@b.c")
    with context_of(database, storage) as context:
        work_off(context)
    ended, _ = look(database, batch)
    assert (ended.status, ended.charged, ended.zip_bytes) == (Status.FAILED, 0, None)
    assert movements(database, batch) == [(Movement.HOLD, -6), (Movement.RELEASE, 6)]
    assert storage.get(jobs.archive_key(batch.id)) is None


@on_both
def test_a_lost_workers_photos_are_freed_and_its_late_answers_dropped(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(3))
    with context_of(database, storage) as frozen, context_of(database, storage) as other:
        lost = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE, now())
        assert lost is not None
        assert database.run_in_transaction(leases.release_expired, now()) == 0
        assert database.run_in_transaction(leases.release_expired, now() + 2 * LEASE) == 3
        work_off(other)
        results = {file: file.read_bytes() for file in (storage.root / "results").iterdir()}
        process_claim(frozen, lost)  # The frozen worker resumes, and finds that its claim is lost.
        assert {file: file.read_bytes() for file in (storage.root / "results").iterdir()} == results
    ended, photos = look(database, batch)
    assert ended.status is Status.COMPLETED
    assert [photo.attempts for photo in photos] == [2, 2, 2]


def test_what_a_worker_holds_is_renewed_and_nothing_else(database: Database, storage: LocalStorage) -> None:
    submitted(database, storage, small_photos(4))
    long_ago = now() - 3 * LEASE
    with context_of(database, storage, lease=LEASE.total_seconds()) as context:
        held = database.run_in_transaction(leases.claim, Line.BATCH, 2, LEASE, long_ago)
        assert held is not None
        assert database.run_in_transaction(leases.claim, Line.BATCH, 2, LEASE, long_ago) is not None
        with context.held.holding(held.token):
            context.renew()
        assert database.run_in_transaction(leases.release_expired, now()) == 2
        assert all(database.run_read_only(leases.holds, photo.job_id, held.token) for photo in held.photos)


def test_a_picture_made_too_late_leaves_no_file(database: Database, storage: LocalStorage) -> None:
    """The worker counts as lost between reading the photo and storing the result."""
    batch = submitted(database, storage, small_photos(2))
    lost_now = threading.Event()

    def lose() -> None:
        if not lost_now.is_set():
            lost_now.set()
            database.run_in_transaction(leases.release_expired, now() + 2 * LEASE)

    with context_of(database, storage, runner=FakeRunner(before=lose)) as context:
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 2, LEASE, now())
        assert claim is not None
        process_claim(context, claim)
        assert [photo.status for photo in look(database, batch)[1]] == [Status.PENDING] * 2
        assert list((storage.root / "results").glob("*")) == []
        work_off(context)
    assert look(database, batch)[0].status is Status.COMPLETED


def test_a_photo_that_loses_its_worker_three_times_fails_alone(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(5))
    killer = look(database, batch)[1][2].id
    at, deaths = now(), 0
    while (claim := database.run_in_transaction(leases.claim, Line.BATCH, 5, LEASE, at)) is not None:
        taken = [photo.job_id for photo in claim.photos]
        if killer in taken:
            assert taken == [killer] or deaths == 0
            deaths += 1
        else:
            assert len(taken) == 1
            with context_of(database, storage) as context:
                process_claim(context, claim)
        at += 2 * LEASE
        database.run_in_transaction(leases.release_expired, at)
    with context_of(database, storage) as context:
        work_off(context)
    ended, photos = look(database, batch)
    assert deaths == 3
    assert ended.status is Status.PARTIAL
    assert [photo.id for photo in photos if photo.status is Status.FAILED] == [killer]
    assert "3 times" in (photos[2].error_detail or "")


def test_batches_take_turns(database: Database, storage: LocalStorage) -> None:
    first, second = (submitted(database, storage, small_photos(4)) for _ in range(2))
    at, order = now(), []
    while (claim := database.run_in_transaction(leases.claim, Line.BATCH, 1, LEASE, at)) is not None:
        order.append(claim.photos[0].batch_id)
        at += timedelta(seconds=1)
    assert order == [first.id, second.id] * 4


@on_both
def test_a_cancelled_batch_stops_gives_back_and_keeps_what_is_done(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(20))
    numbers, begun = itertools.count(1), []

    def cancel_after_three() -> None:
        number = next(numbers)
        begun.append(number)
        if number == 4:
            with database.begin() as session:
                assert batches.cancel(session, session.get_one(Batch, batch.id), now())

    runner = FakeRunner(before=cancel_after_three)
    with context_of(database, storage, runner=runner) as context:
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 20, LEASE, now())
        assert claim is not None
        process_claim(context, claim)
        cancelled, photos = look(database, batch)
        made = [photo for photo in photos if photo.status is Status.COMPLETED]
        # Photos in the engine's threads at that moment, and none after them.
        assert len(begun) <= 4 + 5
        assert cancelled.status is Status.CANCELLED
        assert cancelled.charged == sum(photo.credits for photo in made)
        assert {photo.status for photo in photos} <= {Status.COMPLETED, Status.CANCELLED}
        work_off(context)
        with database.begin() as session:
            assert not batches.cancel(session, session.get_one(Batch, batch.id), now())
    ended, _ = look(database, batch)
    assert (ended.status, ended.finished_at is None) == (Status.CANCELLED, False)
    assert (storage.get(jobs.archive_key(batch.id)) is not None) == bool(made)
    assert len([row for row in movements(database, batch) if row[0] is Movement.HOLD]) == 1


def test_a_store_that_is_away_costs_no_attempt(
    database: Database, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(database, storage, small_photos(3))

    def away(key: str, data: bytes) -> None:
        raise StorageError("The disk is full.")

    with context_of(database, storage) as context:
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE, now())
        assert claim is not None
        with monkeypatch.context() as full:
            full.setattr(storage, "put", away)
            with pytest.raises(StorageError):
                process_claim(context, claim)
        assert {(photo.status, photo.attempts) for photo in look(database, batch)[1]} == {(Status.PENDING, 0)}
        assert not database.run_read_only(leases.has_waiting_work, Line.BATCH, now())
        later = now() + context.lease
        assert database.run_read_only(leases.has_waiting_work, Line.BATCH, later)
        again = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE, later)
        assert again is not None
        process_claim(context, again)
        work_off(context)
    assert look(database, batch)[0].status is Status.COMPLETED


def test_what_wants_a_pause_gets_it_and_fails_with_its_own_reason_at_last(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(2))
    calls = 0

    def too_much() -> None:
        nonlocal calls
        calls += 1
        if calls != 2:  # The first attempt at the second photo.
            raise Overloaded("Too many requests just now.", 20)

    at, rounds = now(), 0
    with context_of(database, storage, runner=FakeRunner(before=too_much)) as context:
        while (claim := database.run_in_transaction(leases.claim, Line.BATCH, 2, LEASE, at)) is not None:
            rounds += 1
            process_claim(context, claim)
            assert not database.run_read_only(leases.has_waiting_work, Line.BATCH, now()) or rounds == 3
            at += LEASE
        work_off(context)
    ended, photos = look(database, batch)
    assert rounds == 3
    assert sorted(photo.status for photo in photos) == [Status.COMPLETED, Status.FAILED]
    failed = next(photo for photo in photos if photo.status is Status.FAILED)
    assert (failed.error_code, failed.error_detail) == ("OVERLOADED", "Too many requests just now.")
    assert (failed.attempts, ended.charged) == (3, 3)


def test_a_worker_that_stops_lets_go_of_what_it_has_not_begun(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(20))
    with context_of(database, storage) as context:
        context.engine.remove(photo_bytes())
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 20, LEASE, now())
        assert claim is not None
        context.stopping.set()
        process_claim(context, claim)
    assert {(photo.status, photo.attempts) for photo in look(database, batch)[1]} == {(Status.PENDING, 0)}


@on_both
def test_a_picture_that_was_lost_before_packing_is_not_charged(
    database: Database, storage: LocalStorage
) -> None:
    batch = submitted(database, storage, small_photos(3))
    with context_of(database, storage) as context:
        claim = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE, now())
        assert claim is not None
        process_claim(context, claim)
        gone = look(database, batch)[1][1]
        storage.delete(jobs.result_key(gone.id, Options().format, gone.attempts))
        work_off(context)
    ended, photos = look(database, batch)
    assert ended.status is Status.PARTIAL
    assert [photo.status for photo in photos] == [Status.COMPLETED, Status.FAILED, Status.COMPLETED]
    assert ended.charged == 6


def test_a_bell_that_could_not_be_rung_is_rung_after_the_photos_in_hand(
    database: Database, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue hung for a moment; without a service that sends signals by the clock, nothing else wakes a worker."""
    batch = submitted(database, storage, small_photos(20))
    done: list[int] = []

    def notify_workers(line: Line) -> bool:
        done.append(sum(photo.status is Status.COMPLETED for photo in look(database, batch)[1]))
        return len(done) > 1

    with context_of(database, storage) as context:
        monkeypatch.setattr(context.queue, "notify_workers", notify_workers)
        process_line(context, Line.BATCH)
        assert done[0] == 0 < done[1]
        process_line(context, Line.BATCH)
        assert len(done) == 3, "one that was rung is not rung again"
