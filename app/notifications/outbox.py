"""Transactional outbox of the notifications about finished batches, by webhook and e-mail.

Deliveries are written in the transaction that ends the batch, so a notification is sent if and only if the batch has
ended. Any number of hosts deliver them: a host claims a row with a lease before it sends, and records the outcome
afterwards. If a host dies in between, the notification is sent again after the lease, with the same id, by which
receivers recognise duplicates.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import httpx2
import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.core.threads import to_the_end
from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Channel, Delivery, now
from cutout.app.jobs.urls import archive_url
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.notifications import email, messages, webhook
from cutout.app.notifications.attempts import (
    begin_attempt,
    deliver_all,
    next_attempt,
    record_delivered,
    record_failed,
)
from cutout.app.notifications.errors import CannotNotify, NotDelivered
from cutout.app.notifications.messages import BatchReport
from cutout.app.observability.metrics import Metrics

log = structlog.get_logger()

# Polling interval for due deliveries.
EVERY = timedelta(seconds=3)
# Concurrent deliveries per channel, so that a mail server that hangs does not delay webhooks.
MOST_AT_ONCE = 8
OUR_FAULT = "The service failed before it could send this notification."
NO_MAIL = "This service does not send mail: its operator has not set a mail server."

# A thread pool of its own, so that a mail server that hangs does not block database work.
_mails = ThreadPoolExecutor(MOST_AT_ONCE, "mail")


@dataclass(frozen=True)
class Outbox:
    """Everything that deliveries need. `kept` is how long results are kept; `public_origin` the service's public scheme and
    host, if set.
    """

    database: Database
    http_client: SafeHttpClient
    secret: ServiceSecret = field(repr=False)
    kept: timedelta
    mailer: email.Mailer | None = None
    public_origin: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    notify_any_email: bool = False
    clock: Callable[[], datetime] = now
    chance: Callable[[], float] = random.random

    def check_webhook_url(self, url: str) -> str:
        """Return a URL if it is acceptable as a webhook.

        Raises:
            CannotNotify: it is not; the message says why.

        """
        return webhook.check_webhook_url(url, self.http_client.destinations)

    def check_email(self, address: str, own: str | None) -> str:
        """Return an e-mail address, normalised for storage, if notifications may be sent to it.

        `own` is the address of the user's account.

        Raises:
            CannotNotify: it is not an e-mail address, not the user's where required, or this service sends no mail.

        """
        if self.mailer is None:
            raise CannotNotify(f"notifyEmail: {NO_MAIL} Leave it out, or give a webhookUrl.")
        checked = email.check_email(address)
        if not self.notify_any_email and not _is_same_address(checked, own):
            ours = f"which is {own}" if own else "and this service knows no address of yours"
            raise CannotNotify(
                f"notifyEmail: Only your own address can be notified, {ours}. Leave it out, or give a webhookUrl;"
                " the operator of this service can allow other addresses with CUTOUT_NOTIFY_ANY_EMAIL=1."
            )
        return checked


def _is_same_address(checked: str, own: str | None) -> bool:
    """Compare a normalised address with the account's, which may be written differently or be no valid address."""
    try:
        return own is not None and checked.casefold() == email.check_email(own).casefold()
    except CannotNotify:
        return False


def announce(session: Session, batch: Batch) -> None:
    """Queue the requested notifications of a batch. Call this once, in the transaction that ends the batch."""
    for channel, target in ((Channel.WEBHOOK, batch.webhook_url), (Channel.MAIL, batch.notify_email)):
        if target is not None:
            due_at = shared_now(session)
            session.add(Delivery(batch_id=batch.id, channel=channel, target=target, due_at=due_at))


async def deliver_due(outbox: Outbox, channel: Channel) -> int:
    """Attempt all deliveries of a channel that are due or become due meanwhile; return the number of attempts.

    A slow delivery occupies only its own slot of `MOST_AT_ONCE`. On cancellation, running deliveries are cancelled too,
    and attempted again after their lease.
    """

    async def claim_some(room: int) -> list[Delivery]:
        return await to_the_end(outbox.database.run_in_transaction, claim, channel, outbox.clock, room)

    return await deliver_all(claim_some, partial(_deliver, outbox), MOST_AT_ONCE, EVERY)


def claim(session: Session, channel: Channel, clock: Callable[[], datetime], most: int) -> list[Delivery]:
    """Claim up to `most` due deliveries, longest overdue first; no other host claims them before the lease ends."""
    at = shared_now(session, clock)
    due = select(Delivery).where(Delivery.channel == channel, Delivery.due_at <= at)
    due = due.order_by(Delivery.due_at).limit(most)
    claimed = list(session.scalars(due.with_for_update(skip_locked=True)))
    for delivery in claimed:
        begin_attempt(delivery, at)
    return claimed


async def _deliver(outbox: Outbox, delivery: Delivery) -> None:
    """Attempt a delivery and record the outcome. If recording fails, it is attempted again after its lease."""
    try:
        report = await to_the_end(outbox.database.run_read_only, messages.report_of, delivery.batch_id)
        about = log.bind(
            delivery=str(delivery.id),
            batch=str(delivery.batch_id),
            user=str(report.batch.user_id),
            channel=delivery.channel.value,
            host=_host(delivery),
            attempt=delivery.attempts,
        )
        try:
            status = await _send(outbox, delivery, report)
        except NotDelivered as error:
            await _failed(outbox, delivery, error, about)
        except Exception:
            log.exception("notification failed unexpectedly", delivery=str(delivery.id))
            await _failed(outbox, delivery, NotDelivered(OUR_FAULT), about)
        else:
            await to_the_end(
                outbox.database.run_in_transaction, record_delivered, delivery, status, outbox.clock()
            )
            outbox.metrics.notified(delivery.channel, "delivered")
            about.info("notification delivered", status=status)
    except Exception:
        log.exception("outcome of a delivery not recorded", delivery=str(delivery.id))


async def _failed(
    outbox: Outbox,
    delivery: Delivery,
    failure: NotDelivered,
    about: structlog.typing.FilteringBoundLogger,
) -> None:
    at = await to_the_end(outbox.database.run_read_only, shared_now, outbox.clock)
    due_at = next_attempt(delivery, failure, at, outbox.chance)
    await to_the_end(outbox.database.run_in_transaction, record_failed, delivery, failure, due_at)
    outbox.metrics.notified(delivery.channel, "given_up" if due_at is None else "failed")
    about.warning(
        "notification not delivered",
        reason=str(failure),
        status=failure.status,
        next_attempt=due_at and due_at.isoformat(timespec="seconds"),
    )


async def _send(outbox: Outbox, delivery: Delivery, report: BatchReport) -> int | None:
    """Send a notification by its channel; return the status code of a webhook's response, None for e-mail.

    Raises:
        NotDelivered: the attempt failed.

    """
    at = outbox.clock()
    zip_path = archive_url(report.batch, outbox.secret, outbox.kept, at)
    zip_url = None if zip_path is None else outbox.public_origin + zip_path
    if delivery.channel is Channel.WEBHOOK:
        secret = webhook.webhook_secret(outbox.secret, report.batch.user_id)
        body = messages.payload(report, delivery.id, zip_url)
        return await webhook.post(outbox.http_client, delivery.target, secret, delivery.id, body, at)
    if outbox.mailer is None:
        raise NotDelivered(NO_MAIL)
    message = messages.render_email(report, delivery.id, zip_url, outbox.mailer.sender, delivery.target, at)
    send = partial(outbox.mailer.send, message, delivery.target)
    await asyncio.get_running_loop().run_in_executor(_mails, send)
    return None


def _host(delivery: Delivery) -> str:
    """Return the host of a delivery's target for the log; the rest of the address may be secret."""
    if delivery.channel is Channel.MAIL:
        return delivery.target.rpartition("@")[2]
    return httpx2.URL(delivery.target).host
