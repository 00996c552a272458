"""Word of a batch's end, by web address and by mail: an outbox.

What is to be told is written in the transaction that ends the batch, so it is told if and only if the batch has ended.
Any number of hosts deliver it: each row is claimed for a while before it is sent, and the outcome recorded after it. A
host that dies in between delays it; then it is sent again, with the same id, by which a receiver knows a repetition.
"""

import asyncio
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import httpx2
import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from cutout.app.auth.signed_urls import sign
from cutout.app.core.threads import to_the_end
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Channel, Delivery, now
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.notifications import email, messages, webhook
from cutout.app.notifications.errors import CannotNotify, NotDelivered
from cutout.app.notifications.messages import BatchReport
from cutout.app.observability.metrics import Metrics

log = structlog.get_logger()

# After each attempt in vain; after the last of them there is one more, and then it is given up.
WAITS = (
    timedelta(seconds=10),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(hours=24),
)
LONGEST_RETRY_AFTER = WAITS[-1]
# Each wait is longer by up to this share of it, so that what failed together is not tried again together.
JITTER = 0.2
# How often it is looked whether something is due.
EVERY = timedelta(seconds=3)
# Of each channel: a mail server that hangs keeps no webhook waiting.
MOST_AT_ONCE = 8
# Longer than the slowest attempt at either takes.
LEASE = timedelta(minutes=5)
LONGEST_ERROR = 500
OUR_FAULT = "The service failed before it could send this."
NO_MAIL = "This service sends no mail: its owner has set no mail server."

# Threads of their own: a mail server that hangs holds up mail, and not the database's work.
_mails = ThreadPoolExecutor(MOST_AT_ONCE, "mail")


@dataclass(frozen=True)
class Outbox:
    """What deliveries need. `kept` is how long results are; `public_url` is where the service is reached, if it is set."""

    database: Database
    http_client: SafeHttpClient
    secret: str = field(repr=False)
    kept: timedelta
    mailer: email.Mailer | None = None
    public_url: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    notify_any_email: bool = False
    clock: Callable[[], datetime] = now
    chance: Callable[[], float] = random.random

    def check_webhook_url(self, url: str) -> str:
        """Return a web address that can be told of a batch's end.

        Raises:
            CannotNotify: it cannot be; the message says why.

        """
        return webhook.check_webhook_url(url, self.http_client.destinations)

    def check_email(self, address: str, own: str | None) -> str:
        """Return a mail address that can be told of a batch's end, as it is kept; `own` is the user's.

        Raises:
            CannotNotify: it is none, not the user's own where it has to be, or this service sends no mail.

        """
        if self.mailer is None:
            raise CannotNotify(f"notifyEmail: {NO_MAIL} Leave it out, or give a webhookUrl.")
        checked = email.check_email(address)
        if not self.notify_any_email and not _is_same_address(checked, own):
            ours = f"which is {own}" if own else "and no address of yours is known here"
            raise CannotNotify(
                f"notifyEmail: Only your own address is told, {ours}. Leave it out, or give a webhookUrl; whoever runs this"
                " service allows other addresses with CUTOUT_NOTIFY_ANY_EMAIL=1."
            )
        return checked


def _is_same_address(checked: str, own: str | None) -> bool:
    """Compare an address that was checked with a user's own, which may be written otherwise, or be no address at all."""
    try:
        return own is not None and checked.casefold() == email.check_email(own).casefold()
    except CannotNotify:
        return False


def announce(session: Session, batch: Batch) -> None:
    """Have a batch's end told as it was asked for. To be called once, in the transaction that ends it."""
    for channel, target in ((Channel.WEBHOOK, batch.webhook_url), (Channel.MAIL, batch.notify_email)):
        if target is not None:
            session.add(Delivery(batch_id=batch.id, channel=channel, target=target))


def archive_path(batch_id: uuid.UUID) -> str:
    """Say where a batch's ZIP is had."""
    return f"/api/background-remover/batch/{batch_id}/download"


async def deliver_due(office: Outbox, channel: Channel) -> int:
    """Try to deliver what is due by one channel, also what comes to be due meanwhile; return how many were tried.

    One that is slow keeps only its own place of `MOST_AT_ONCE`. What is cut off is sent again after its lease.
    """
    tried = 0
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            room = MOST_AT_ONCE - len(running)
            claimed = await to_the_end(
                office.database.run_in_transaction, _claim, channel, office.clock(), room
            )
            tried += len(claimed)
            running |= {asyncio.create_task(_deliver(office, one)) for one in claimed}
            if not running:
                return tried
            _, running = await asyncio.wait(
                running, timeout=EVERY.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _claim(session: Session, channel: Channel, at: datetime, most: int) -> list[Delivery]:
    """Take some of what is due, those waiting longest first; nobody else takes them before the lease ends."""
    due = select(Delivery).where(Delivery.channel == channel, Delivery.due_at <= at)
    due = due.order_by(Delivery.due_at).limit(most)
    claimed = list(session.scalars(due.with_for_update(skip_locked=True)))
    for delivery in claimed:
        delivery.attempts += 1
        delivery.due_at = at + LEASE
    return claimed


async def _deliver(office: Outbox, delivery: Delivery) -> None:
    """Send one, and record what came of it. Where that cannot be recorded, it is tried again after its lease."""
    try:
        report = await to_the_end(office.database.run_read_only, messages.report_of, delivery.batch_id)
        about = log.bind(
            delivery=str(delivery.id),
            batch=str(delivery.batch_id),
            user=str(report.batch.user_id),
            channel=delivery.channel.value,
            host=_host(delivery),
            attempt=delivery.attempts,
        )
        try:
            status = await _send(office, delivery, report)
        except NotDelivered as error:
            await _failed(office, delivery, error, about)
        except Exception:
            log.exception("batch's end not sent", delivery=str(delivery.id))
            await _failed(office, delivery, NotDelivered(OUR_FAULT), about)
        else:
            await to_the_end(
                office.database.run_in_transaction, _record_delivered, delivery, status, office.clock()
            )
            office.metrics.notified(delivery.channel, "delivered")
            about.info("batch's end told", status=status)
    except Exception:
        log.exception("what came of a delivery is not recorded", delivery=str(delivery.id))


async def _failed(
    office: Outbox,
    delivery: Delivery,
    failure: NotDelivered,
    about: structlog.typing.FilteringBoundLogger,
) -> None:
    due_at = _next_attempt(office, delivery, failure)
    await to_the_end(office.database.run_in_transaction, _record_failed, delivery, failure, due_at)
    office.metrics.notified(delivery.channel, "given_up" if due_at is None else "failed")
    about.warning(
        "batch's end not told",
        reason=str(failure),
        status=failure.status,
        next_attempt=due_at and due_at.isoformat(timespec="seconds"),
    )


async def _send(office: Outbox, delivery: Delivery, report: BatchReport) -> int | None:
    """Send one by its channel; return the status that a web address took it with.

    Raises:
        NotDelivered: it did not arrive.

    """
    at = office.clock()
    zip_url = _zip_url(office, report.batch, at)
    if delivery.channel is Channel.WEBHOOK:
        secret = webhook.webhook_secret(office.secret, report.batch.user_id)
        body = messages.payload(report, delivery.id, zip_url)
        return await webhook.post(office.http_client, delivery.target, secret, delivery.id, body, at)
    if office.mailer is None:
        raise NotDelivered(NO_MAIL)
    message = messages.render_email(report, delivery.id, zip_url, office.mailer.sender, delivery.target, at)
    send = partial(office.mailer.send, message, delivery.target)
    await asyncio.get_running_loop().run_in_executor(_mails, send)
    return None


def _zip_url(office: Outbox, batch: Batch, at: datetime) -> str | None:
    """Return the address of a batch's ZIP, which works as long as the ZIP is kept; None if it has none, or no longer."""
    left = (batch.finished_at or at) + office.kept - at
    if batch.zip_bytes is None or left <= timedelta(0):
        return None
    return office.public_url + sign(office.secret, archive_path(batch.id), left)


def _next_attempt(office: Outbox, delivery: Delivery, failure: NotDelivered) -> datetime | None:
    if failure.final or delivery.attempts > len(WAITS):
        return None
    wait = WAITS[delivery.attempts - 1] * (1 + JITTER * office.chance())
    return office.clock() + max(wait, min(failure.retry_after, LONGEST_RETRY_AFTER))


def _record_delivered(session: Session, delivery: Delivery, status: int | None, at: datetime) -> None:
    # Also where the lease ran out and another has claimed it since: what has arrived need not be sent again.
    mine = update(Delivery).where(Delivery.id == delivery.id, Delivery.delivered_at.is_(None))
    session.execute(mine.values(status=status, error=None, delivered_at=at, due_at=None))


def _record_failed(
    session: Session, delivery: Delivery, failure: NotDelivered, due_at: datetime | None
) -> None:
    mine = update(Delivery).where(
        Delivery.id == delivery.id,
        Delivery.attempts == delivery.attempts,  # else another has claimed it since
        Delivery.delivered_at.is_(None),
    )
    session.execute(mine.values(status=failure.status, error=str(failure)[:LONGEST_ERROR], due_at=due_at))


def _host(delivery: Delivery) -> str:
    """Return where it goes, for the log: the rest of an address may be secret."""
    if delivery.channel is Channel.MAIL:
        return delivery.target.rpartition("@")[2]
    return httpx2.URL(delivery.target).host
