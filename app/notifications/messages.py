"""Content of the notifications about a finished batch: JSON for webhooks, and an e-mail."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cutout.app.db.tables import Batch, Job, Status
from cutout.app.notifications.webhook import EVENT

# Limits for the list of failed photos.
MOST_LISTED = 50
LONGEST_NAME, LONGEST_DETAIL = 100, 300


@dataclass(frozen=True)
class BatchReport:
    """A batch that has ended; `failed` holds its first `MOST_LISTED` failed photos."""

    batch: Batch
    counts: dict[Status, int]
    failed: Sequence[Job]

    @property
    def charged(self) -> int:
        return self.batch.charged or 0

    @property
    def returned(self) -> int:
        return self.batch.credits - self.charged

    @property
    def not_listed(self) -> int:
        return self.count(Status.FAILED) - len(self.failed)

    def count(self, status: Status) -> int:
        return self.counts.get(status, 0)


def report_of(session: Session, batch_id: uuid.UUID) -> BatchReport:
    """Load the outcome of a batch and its photos."""
    photos = select(Job.status, func.count()).where(Job.batch_id == batch_id).group_by(Job.status)
    failed = select(Job).where(Job.batch_id == batch_id, Job.status == Status.FAILED).order_by(Job.position)
    return BatchReport(
        session.get_one(Batch, batch_id),
        dict(session.execute(photos).all()),
        session.scalars(failed.limit(MOST_LISTED)).all(),
    )


def payload(report: BatchReport, delivery_id: uuid.UUID, zip_url: str | None) -> bytes:
    """Return the JSON body of the webhook."""
    batch = report.batch
    told = {
        "event": EVENT,
        "deliveryId": str(delivery_id),
        "batchId": str(batch.id),
        "status": batch.status.value,
        "counts": {
            "images": batch.images,
            "completed": report.count(Status.COMPLETED),
            "failed": report.count(Status.FAILED),
            "cancelled": report.count(Status.CANCELLED),
        },
        "creditsCharged": report.charged,
        "creditsReturned": report.returned,
        "zipUrl": zip_url,
        "createdAt": _time(batch.created_at),
        "finishedAt": _time(batch.finished_at),
        "failed": [
            {"name": job.name, "code": job.error_code, "detail": job.error_detail} for job in report.failed
        ],
        "failedNotListed": report.not_listed,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def render_email(
    report: BatchReport, delivery_id: uuid.UUID, zip_url: str | None, sender: Address, to: str, at: datetime
) -> EmailMessage:
    """Return the e-mail. The recipient's address is the only user input in its headers."""
    batch = report.batch
    done, images = report.count(Status.COMPLETED), batch.images
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = f"Cutout: your batch has finished, {done} of {images} photos succeeded"
    message["Date"] = format_datetime(at)
    # The same for every attempt, so that mailboxes can drop duplicates.
    message["Message-ID"] = f"<{delivery_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [
        f"Your batch of {images} photos has finished.",
        "",
        f"Completed: {done}",
        f"Failed: {report.count(Status.FAILED)}",
        f"Cancelled: {report.count(Status.CANCELLED)}",
        f"Credits charged: {report.charged}",
        f"Credits returned: {report.returned}",
    ]
    if zip_url is not None:
        where = "" if "://" in zip_url else ", at the URL of the service"
        lines += ["", f"Download the pictures as a ZIP, as long as results are kept{where}:", zip_url]
    if report.failed:
        lines += ["", "Failed photos and the reasons:"]
        lines += [
            f"- {_plain(job.name, LONGEST_NAME)}: {_plain(job.error_detail, LONGEST_DETAIL)}"
            for job in report.failed
        ]
    if report.not_listed:
        lines.append(f"- and {report.not_listed} more")
    lines += ["", f"Batch {batch.id}, submitted on {batch.created_at:%Y-%m-%d at %H:%M} UTC."]
    message.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    return message


def _plain(text: str | None, longest: int) -> str:
    """Return a user's text for one line of the e-mail, without line breaks and bidirectional control characters."""
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text or ""
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
