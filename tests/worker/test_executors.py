"""One photo that a worker processes while its caller waits: same job, bill and errors as with a local engine."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from cutout.app.billing import ledger
from cutout.app.core.errors import JobFailedError
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, User, now
from cutout.app.jobs import leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.model_status import Served, served_by
from cutout.app.jobs.originals import ORIGINALS
from cutout.app.jobs.queue import Queue, QueueUnavailable, WorkerInfo
from cutout.app.removals import service as removals
from cutout.app.removals.executors import QueueExecutor
from cutout.app.removals.idempotency import KeyUsed
from cutout.app.removals.refining import find_original
from cutout.app.removals.request import RemovalContext
from cutout.app.storage.local import LocalStorage
from cutout.inference.errors import DeadlineExceeded, ModelUnavailable, Overloaded
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_points
from cutout.inference.limits import Limits
from cutout.inference.options import Options
from cutout.inference.tiers import Recipe, Tier
from cutout.worker import tasks as worker_jobs
from cutout.worker.context import WorkerContext
from tests.animations import RedRunner, animation_of, moving_disc
from tests.app.api_client import reserved
from tests.app.databases import new_user, on_both
from tests.fakes import (
    PATIENCE,
    FakeRunner,
    fake_engine,
    files_below,
    held_until,
    open_picture,
    photo_bytes,
    stroke_mask,
    wait_until,
)
from tests.worker.worker_fixtures import context_of

pytestmark = pytest.mark.slow

ALL = dict.fromkeys(Tier, Served("isnet-general", "fake", Recipe.MASK, "isnet-general", substitute=False))


@contextmanager
def working(context: WorkerContext) -> Iterator[None]:
    """Run a worker that processes waiting photos and announces itself."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.005):
            worker_jobs.process_line(context, Line.INTERACTIVE)

    context.queue.announce(WorkerInfo("here", "1", "cpu", ("interactive",), served_by(context.engine)))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def place_of(
    database: Database, storage: LocalStorage, queue: Queue, deadline: float = PATIENCE, most: int = 9
) -> RemovalContext:
    executor = QueueExecutor(queue, storage, database, most, timedelta(seconds=deadline))
    return RemovalContext(executor, storage, database, timedelta(seconds=60))


def funded(database: Database, amount: int = 100) -> User:
    user = new_user(database)
    with database.begin() as session:
        ledger.grant(session, user.id, amount, "grant")
    return user


def balance(database: Database, user: User) -> int:
    with database.begin() as session:
        assert ledger.discrepancies(session) == {}
        return ledger.balance(session, user.id)


def uploads(storage: LocalStorage) -> list[Path]:
    return files_below(storage.root / jobs.UPLOADS)


@on_both
def test_a_worker_makes_it_and_its_caller_gets_it(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue)
    options = Options(Tier.STANDARD, Format.WEBP, quality=70)
    with context_of(database, storage, redis_url) as context, working(context):
        job, picture = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), options, "order-1"))
        again, same = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), options, "order-1"))
        with pytest.raises(KeyUsed):
            asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1"))
    assert (again.id, same) == (job.id, picture)
    assert open_picture(picture).format == "WEBP"
    assert (job.status, job.model, job.backend, job.attempts) == (
        Status.COMPLETED,
        "isnet-general",
        "fake",
        1,
    )
    assert balance(database, user) == 92
    assert uploads(storage) == []


@on_both
def test_a_worker_lays_the_picture_out_as_asked(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    """Options go through the job's row; their pictures go through the storage and are deleted there."""
    user, place = funded(database), place_of(database, storage, queue)
    behind = photo_bytes(30, 60, seed=5)
    options = Options(
        format=Format.AUTO,
        background=Picture.of(behind),
        layout=Layout(canvas=(90, 70), margin=parse_margin("10% 5px"), region=parse_region("10% 0 90% 100%")),
        shadow=0.4,
        quality=100,
        hints=Hints(
            box=parse_region("1px 0 100% 100%"),
            keep=parse_points("50% 50%"),
            drop=parse_points("0 0, 1% 2"),
            keep_mask=Picture.of(stroke_mask(40, 40, 60, 60)),
            drop_mask=Picture.of(stroke_mask(50, 65, 60, 75)),
            fill_holes=True,
        ),
    )
    with context_of(database, storage, redis_url) as context, working(context):
        job, picture = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), options))
        here = context.engine.remove(photo_bytes(), options)
        without = context.engine.remove(photo_bytes(), replace(options, hints=Hints()))
        with pytest.raises(JobFailedError, match="picture for the background") as damaged:
            asyncio.run(
                removals.remove_one(
                    place, user.id, photo_bytes(), Options(background=Picture.of(behind[:-400]))
                )
            )
    assert picture == here.data != without.data
    assert (job.format, job.width, job.height) == ("jpg", 90, 70)
    assert here.subject is not None
    assert job.subject == asdict(here.subject)
    assert damaged.value.code == "INVALID_BACKGROUND"
    assert balance(database, user) == 97
    assert uploads(storage) == []


@on_both
def test_a_worker_refines_a_result_without_its_network(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place, runs = funded(database), place_of(database, storage, queue), []
    runner = FakeRunner(before=lambda: runs.append(1))
    tier, drop = Options(Tier.PROFESSIONAL), Hints(drop=parse_points("50% 50%"))
    working_here = context_of(database, storage, redis_url, runner, keep_photos=True)
    with working_here as context, working(context):
        first, made = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), tier))
        original = asyncio.run(find_original(database, storage, user.id, first.id, timedelta(days=1)))
        again, same = asyncio.run(removals.remove_one(place, user.id, original, original.options))
        assert len(runs) == 1
        dropping = replace(tier, hints=drop)
        job, picture = asyncio.run(removals.remove_one(place, user.id, original, dropping))
        assert len(runs) == 1
        assert picture == context.engine.remove(photo_bytes(), dropping).data
    assert (same, again.refined_from, again.backend) == (made, first.id, "fake")
    assert job.no_foreground
    assert balance(database, user) == 85
    assert uploads(storage) == []
    # Refinements keep nothing of their own.
    assert [file.name for file in files_below(storage.root / ORIGINALS)] == [str(first.id)]


@on_both
def test_a_caller_who_hangs_up_takes_no_others_background_away(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    """Two calls have the same options and background, and a worker takes both photos at once."""
    place = place_of(database, storage, queue)
    options = Options(background=Picture.of(photo_bytes(30, 60, seed=5)))
    queue.announce(WorkerInfo("here", "1", "cpu", ("interactive",), ALL))
    user = funded(database)
    first, second = (reserved(place, user.id, photo_bytes(), options)[0] for _ in range(2))
    removals.abandon_job(place, first, asyncio.CancelledError())
    with context_of(database, storage, redis_url) as context:
        claim = database.run_in_transaction(leases.claim, Line.INTERACTIVE, 10, timedelta(seconds=60), now())
        assert claim is not None
        gone = replace(claim.photos[0], job_id=first)
        worker_jobs.process_claim(context, replace(claim, photos=(gone, *claim.photos)))
    with database.read() as session:
        assert session.get_one(Job, second).status is Status.COMPLETED
    assert balance(database, user) == 97


@on_both
def test_many_at_once_are_each_done_once(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue, most=100)

    async def all_at_once() -> list[tuple[Job, bytes]]:
        calls = (removals.remove_one(place, user.id, photo_bytes(seed=seed), Options()) for seed in range(20))
        return list(await asyncio.gather(*calls))

    with context_of(database, storage, redis_url) as context, working(context):
        done = asyncio.run(all_at_once())
    assert len({job.id for job, _ in done}) == len({picture for _, picture in done}) == 20
    assert balance(database, user) == 40


@on_both
def test_what_is_no_photo_is_told_as_such_and_costs_nothing(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue)
    with (
        context_of(database, storage, redis_url) as context,
        working(context),
        pytest.raises(JobFailedError, match="JPEG") as told,
    ):
        asyncio.run(removals.remove_one(place, user.id, b"no photo", Options()))
    assert told.value.code == "UNSUPPORTED_FORMAT"
    assert balance(database, user) == 100
    assert uploads(storage) == []


@on_both
def test_who_waits_too_long_or_hangs_up_pays_nothing_and_the_worker_comes_too_late(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue, deadline=0.3)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    async def hang_up() -> None:
        patient = place_of(database, storage, queue)
        call = asyncio.create_task(removals.remove_one(patient, user.id, photo_bytes(), Options()))
        assert isinstance(patient.executor, QueueExecutor)
        while not patient.executor._waiting:  # Wait until it has handed over the photo.
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with context_of(database, storage, redis_url, FakeRunner(before=hold)) as context, working(context):
        with pytest.raises(DeadlineExceeded):
            asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options()))
        asyncio.run(hang_up())
        assert balance(database, user) == 100
        assert begun.is_set()
        go_on.set()
        wait_until(lambda: context.held.tokens() == [])
    assert balance(database, user) == 100
    assert not files_below(storage.root / jobs.RESULTS)
    assert uploads(storage) == []


@on_both
def test_without_a_worker_or_a_queue_nothing_is_taken(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue)
    with pytest.raises(ModelUnavailable, match="cutout worker"):
        asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options()))
    away = place_of(database, storage, Queue("unix:///nowhere/socket"))
    with pytest.raises(QueueUnavailable):
        asyncio.run(removals.remove_one(away, user.id, photo_bytes(), Options()))
    assert balance(database, user) == 100
    assert uploads(storage) == []
    with database.begin() as session:
        assert session.query(Job).count() == 0


@on_both
def test_more_than_may_wait_are_refused(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    user, place = funded(database), place_of(database, storage, queue, most=0)
    with context_of(database, storage, redis_url) as context, working(context), pytest.raises(Overloaded):
        asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options()))
    assert balance(database, user) == 100


@on_both
def test_a_photo_whose_caller_is_gone_with_his_host_expires(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    """The host died after writing the job and before it got the result, and no worker has claimed the job."""
    user, place = funded(database), place_of(database, storage, queue)
    with context_of(database, storage, redis_url) as context:
        queue.announce(WorkerInfo("here", "1", "cpu", ("interactive",), served_by(context.engine)))
        job_id, _ = reserved(place, user.id, photo_bytes(), Options())
        assert balance(database, user) == 97
        assert database.run_in_transaction(leases.expire, timedelta(seconds=60)) == 0
        assert database.run_in_transaction(leases.expire, timedelta(seconds=-1)) == 1
        assert (
            database.run_in_transaction(leases.claim, Line.INTERACTIVE, 1, timedelta(seconds=9), now())
            is None
        )
    with database.begin() as session:
        assert session.get_one(Job, job_id).error_code == "DEADLINE_EXCEEDED"
    assert balance(database, user) == 100
    assert uuid.UUID(uploads(storage)[0].name) == job_id  # The upload is left for the clean-up.


@on_both
def test_more_callers_at_once_than_connections_wait_for_nothing_but_their_turn(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str
) -> None:
    """Each call has an idempotency key. The check for free capacity uses a separate database connection."""
    user, place = funded(database), place_of(database, storage, queue, most=100)
    threads = 24
    together = threading.Barrier(threads)

    def begin(number: int) -> uuid.UUID:
        together.wait(60)
        job_id, mine = reserved(place, user.id, photo_bytes(), Options(), f"order-{number}")
        assert mine
        return job_id

    with context_of(database, storage, redis_url) as context, ThreadPoolExecutor(threads) as callers:
        queue.announce(WorkerInfo("here", "1", "cpu", ("interactive",), served_by(context.engine)))
        begun = list(callers.map(begin, range(threads), timeout=100))
    assert len(set(begun)) == threads
    assert balance(database, user) == 100 - 3 * threads


def test_a_tier_that_a_worker_of_an_older_version_lacks_is_not_given_to_it(
    database: Database, storage: LocalStorage, queue: Queue
) -> None:
    """It could not even read the job's row, and with it no other one."""
    user, place = funded(database), place_of(database, storage, queue)
    older: dict[Tier, Served] = {tier: served for tier, served in ALL.items() if tier is not Tier.PREVIEW}
    queue.announce(WorkerInfo("new", "2", "cpu", ("interactive",), ALL))
    queue.announce(WorkerInfo("old", "1", "cpu", ("interactive",), older))
    assert place.executor.serving()[1] == older
    with pytest.raises(ModelUnavailable, match="preview"):
        asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(Tier.PREVIEW)))
    with database.begin() as session:
        assert leases.waiting(session, Line.INTERACTIVE) == 0
    assert uploads(storage) == []


def test_an_animation_whose_caller_hangs_up_is_left(
    database: Database, storage: LocalStorage, queue: Queue, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_jobs, "ASK_EVERY_SECONDS", 0.0)
    user, place = funded(database), place_of(database, storage, queue)
    runner, moving = RedRunner(), animation_of(moving_disc(12))
    options = Options(format=Format.WEBP, all_frames=True)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        held_until(go_on)

    async def hang_up() -> None:
        caller = asyncio.create_task(removals.remove_one(place, user.id, moving, options))
        await asyncio.to_thread(held_until, begun)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    runner.before = hold
    engine = fake_engine(runner, Limits(threads=1))
    with context_of(database, storage, redis_url, engine=engine) as context, working(context):
        asyncio.run(hang_up())
        go_on.set()
    assert sum(runner.runs) < 12
    assert balance(database, user) == 100
    assert files_below(storage.root) == []
