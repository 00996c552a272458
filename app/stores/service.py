"""Delivery of results to the users' own stores.

The row of a delivery is written with its job and is due when the job is completed, in the same transactions, so that no
result is forgotten. The result is stored here first, as always. A caller who waits has it delivered at once; all else,
and what failed, is delivered by the maintenance of any host, as webhooks are (`cutout.app.notifications.attempts`).
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx2
import structlog
from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app.core.threads import to_storage_thread, to_the_end
from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, StoreDelivery, User, now, plain
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.schemas import StoreInfo, StoreStatus
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import NotAllowed
from cutout.app.notifications.attempts import (
    begin_attempt,
    deliver_all,
    next_attempt,
    record_delivered,
    record_failed,
)
from cutout.app.notifications.errors import NotDelivered
from cutout.app.observability.metrics import Metrics
from cutout.app.storage.base import Storage
from cutout.app.stores import signed_put
from cutout.app.stores.addresses import CannotStore, filled, is_s3, read_address, without_signature
from cutout.app.stores.buckets import NOT_ASSIGNED, Buckets
from cutout.inference.imaging.encode import Format

log = structlog.get_logger()

# How long a caller who waits for a result waits for its store too, and how long other attempts may take.
AT_ONCE_SECONDS = 10.0
SECONDS = 120.0
# How long a look-up of the hosts in a request may take.
LOOKUP_SECONDS = 5.0
MOST_HOSTS = 10
EVERY = timedelta(seconds=3)
# Concurrent deliveries, in all and for one user, whose store may hang.
MOST_AT_ONCE, MOST_OF_ONE_USER = 16, 4
OUR_FAULT = "The service failed before it could store this result."
RESULT_GONE = "The result is no longer kept, so it cannot be stored any more."
DISABLED = "The account is disabled."
SLOW_NAMES = "The host could not be looked up in time. Try again in a moment."


@dataclass(frozen=True)
class ResultStores:
    """Everything that deliveries to stores need."""

    database: Database
    storage: Storage
    http_client: SafeHttpClient
    buckets: Buckets = field(default_factory=Buckets)
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], datetime] = now
    chance: Callable[[], float] = random.random

    def check(self, url: str, user: User, *, in_batch: bool = False) -> str:
        """Return an address as it is kept with a job, if it has the right form and is not another user's bucket.

        Raises:
            CannotStore: it has not, or is.

        """
        checked = read_address(url, self.http_client.destinations, in_batch=in_batch)
        if is_s3(checked) and self.buckets.find(user, checked) is None:
            raise CannotStore(NOT_ASSIGNED)
        return checked

    async def require_public(self, urls: Iterable[str]) -> None:
        """Return if the hosts of all signed addresses may be called. They are looked up again at each delivery.

        Raises:
            CannotStore: one may not, or there are too many.

        """
        destinations = self.http_client.destinations
        hosts = set()
        try:
            for url in {without_signature(url) for url in urls if not is_s3(url)}:
                target = destinations.read(url)
                port = target.port or (443 if target.scheme == "https" else 80)
                hosts.add((target.raw_host.decode("ascii"), port))
            if len(hosts) > MOST_HOSTS:
                raise CannotStore(f"The addresses of one batch may have at most {MOST_HOSTS} hosts.")
            async with asyncio.timeout(LOOKUP_SECONDS):
                await asyncio.gather(*(destinations.addresses(*host) for host in hosts))
        except NotAllowed as error:
            raise CannotStore(str(error)) from None
        except TimeoutError:
            raise CannotStore(SLOW_NAMES) from None

    async def deliver_now(self, job: Job, data: bytes) -> StoreInfo | None:
        """Deliver the result of a job that was just completed, unless that was tried before; None without a store.

        It never fails: what cannot be delivered now is tried again later.
        """
        if not job.has_store:
            return None
        try:
            claimed = await to_the_end(self.database.run_in_transaction, claim_first, job.id, self.clock)
            if claimed is not None:
                await self._attempt(*claimed, data, AT_ONCE_SECONDS)
            return (await to_the_end(self.infos, [job])).get(job.id)
        except OperationalError as error:
            log.warning("delivery to a store not begun", job=str(job.id), detail=str(error.orig))
            return StoreInfo(status=StoreStatus.PENDING, url=None, detail=None)

    def infos(self, some: Iterable[Job]) -> dict[uuid.UUID, StoreInfo]:
        """Return what became of the results of those jobs that have a store."""
        by_id = {job.id: job for job in some if job.has_store}
        if not by_id:
            return {}
        with self.database.read() as session:
            found = session.scalars(select(StoreDelivery).where(StoreDelivery.job_id.in_(list(by_id)))).all()
        return {delivery.job_id: info_of(delivery, by_id[delivery.job_id]) for delivery in found}

    async def deliver_due(self) -> int:
        """Attempt all deliveries that are due or become due meanwhile; return the number of attempts."""
        busy: Counter[uuid.UUID] = Counter()

        async def claim_some(room: int) -> list[StoreDelivery]:
            claimed = await to_the_end(self.database.run_in_transaction, claim, self.clock, room, busy)
            busy.update(delivery.user_id for delivery in claimed)
            return claimed

        async def deliver(delivery: StoreDelivery) -> None:
            try:
                await self._deliver(delivery)
            finally:
                busy[delivery.user_id] -= 1

        return await deliver_all(claim_some, deliver, MOST_AT_ONCE, EVERY)

    def end_expired(self, kept: timedelta) -> int:
        """Give up the deliveries whose results are no longer kept; return how many."""
        old = select(Job.id).where(Job.finished_at < self.clock() - kept, Job.has_store.is_(True))
        with self.database.begin() as session:
            late = session.scalars(
                select(StoreDelivery).where(StoreDelivery.job_id.in_(old), StoreDelivery.due_at.is_not(None))
            ).all()
            for delivery in late:
                delivery.due_at, delivery.error, delivery.target = None, RESULT_GONE, _kept(delivery)
        return len(late)

    async def _deliver(self, delivery: StoreDelivery) -> None:
        """Attempt a delivery and record the outcome. If recording fails, it is attempted again after its lease."""
        try:
            job, user = await to_the_end(self.database.run_read_only, _about, delivery)
            await self._attempt(delivery, job, user, None, SECONDS)
        except Exception:
            log.exception("outcome of a delivery not recorded", delivery=str(delivery.id))

    async def _attempt(
        self, delivery: StoreDelivery, job: Job, user: User, data: bytes | None, seconds: float
    ) -> None:
        url = filled(delivery, job)
        about = log.bind(
            delivery=str(delivery.id),
            job=str(job.id),
            user=str(user.id),
            store=_host(url),
            attempt=delivery.attempts,
        )
        try:
            status = await self._send(url, job, user, data, seconds)
        except NotDelivered as error:
            failure = error
        except Exception:
            log.exception("delivery to a store failed unexpectedly", delivery=str(delivery.id))
            failure = NotDelivered(OUR_FAULT)
        else:
            await to_the_end(
                self.database.run_in_transaction,
                record_delivered,
                delivery,
                status,
                self.clock(),
                _kept(delivery),
            )
            self.metrics.stored(_kind(url), "stored")
            about.info("result stored", status=status)
            return
        at = await to_the_end(self.database.run_read_only, shared_now, self.clock)
        due_at = next_attempt(delivery, failure, at, self.chance)
        kept = _kept(delivery) if due_at is None else None
        await to_the_end(self.database.run_in_transaction, record_failed, delivery, failure, due_at, kept)
        self.metrics.stored(_kind(url), "given_up" if due_at is None else "failed")
        about.warning(
            "result not stored",
            reason=str(failure),
            status=failure.status,
            next_attempt=due_at and due_at.isoformat(timespec="seconds"),
        )

    async def _send(self, url: str, job: Job, user: User, data: bytes | None, seconds: float) -> int | None:
        """Store a result, read from our own storage unless it is given; return the status code of a PUT."""
        if user.disabled_at is not None:
            raise NotDelivered(DISABLED)
        if data is None:
            data = await to_storage_thread(self.storage.get, jobs.result_key_of(job))
        if data is None or job.status is not Status.COMPLETED:
            raise NotDelivered(RESULT_GONE, final=True)
        media_type = Format(job.format).media_type
        if is_s3(url):
            await self.buckets.put(user, url, data, media_type, seconds)
            return None
        return await signed_put.put(self.http_client, url, data, media_type, seconds)


def plan(
    session: Session,
    user_id: uuid.UUID,
    targets: Mapping[uuid.UUID, str],
    stems: Mapping[uuid.UUID, str],
    at: datetime,
) -> None:
    """Write the deliveries of new jobs, in the transaction that writes the jobs.

    `targets` are addresses by job, as `ResultStores.check` returns them, `stems` the names of their files in a batch.
    """
    rows = [
        {
            "id": uuid.uuid4(),
            "job_id": job_id,
            "user_id": user_id,
            "target": target,
            "stem": stems.get(job_id),
            "attempts": 0,
            "due_at": None,
            "created_at": at,
        }
        for job_id, target in targets.items()
    ]
    session.execute(insert(plain(StoreDelivery)), rows)


def claim(
    session: Session, clock: Callable[[], datetime], most: int, busy: Mapping[uuid.UUID, int]
) -> list[StoreDelivery]:
    """Claim up to `most` due deliveries; no other host claims them before the lease ends.

    Those that were tried least come first. `busy` counts the running deliveries of each user: at `MOST_OF_ONE_USER`
    the user's others wait.
    """
    at = shared_now(session, clock)
    full = [user_id for user_id, running in busy.items() if running >= MOST_OF_ONE_USER]
    due = select(StoreDelivery).where(StoreDelivery.due_at <= at, StoreDelivery.user_id.not_in(full))
    due = due.order_by(StoreDelivery.attempts, StoreDelivery.due_at).limit(most)
    counted, claimed = Counter(busy), []
    for delivery in session.scalars(due.with_for_update(skip_locked=True)):
        if counted[delivery.user_id] < MOST_OF_ONE_USER:
            counted[delivery.user_id] += 1
            begin_attempt(delivery, at)
            claimed.append(delivery)
    return claimed


def claim_first(
    session: Session, job_id: uuid.UUID, clock: Callable[[], datetime]
) -> tuple[StoreDelivery, Job, User] | None:
    """Claim the delivery of a completed job, with the job and its user; None if it was tried before."""
    first = select(StoreDelivery).where(
        StoreDelivery.job_id == job_id, StoreDelivery.attempts == 0, StoreDelivery.due_at.is_not(None)
    )
    delivery = session.scalars(first.with_for_update(skip_locked=True)).one_or_none()
    if delivery is None:
        return None
    begin_attempt(delivery, shared_now(session, clock))
    return delivery, *_about(session, delivery)


def infos_of_batch(session: Session, batch_id: uuid.UUID) -> dict[uuid.UUID, StoreInfo]:
    """Return what became of the results of a batch, by job."""
    rows = (
        select(StoreDelivery, Job).join(Job, Job.id == StoreDelivery.job_id).where(Job.batch_id == batch_id)
    )
    return {job.id: info_of(delivery, job) for delivery, job in session.execute(rows)}


def info_of(delivery: StoreDelivery, job: Job) -> StoreInfo:
    """Describe a delivery to the user, without the signature of its address."""
    is_open = delivery.due_at is not None or delivery.error is None
    status = StoreStatus.PENDING if is_open else StoreStatus.FAILED
    if delivery.delivered_at is not None:
        status = StoreStatus.STORED
    url = None if job.status is not Status.COMPLETED else without_signature(filled(delivery, job))
    return StoreInfo(status=status, url=url, detail=delivery.error)


def _about(session: Session, delivery: StoreDelivery) -> tuple[Job, User]:
    return session.get_one(Job, delivery.job_id), session.get_one(User, delivery.user_id)


def _kept(delivery: StoreDelivery) -> str:
    """Return what is kept of an address once its delivery has ended: not its signature."""
    return without_signature(delivery.target)


def _kind(url: str) -> str:
    return "s3" if is_s3(url) else "put"


def _host(url: str) -> str:
    """Return the host or the bucket of an address for the log; the rest may be secret."""
    return url.split("/")[2] if is_s3(url) else httpx2.URL(url).host
