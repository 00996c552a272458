"""The database tables. Ids are random UUIDs, times are UTC, and money is in whole credits."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cutout.inference.tiers import Tier


def now() -> datetime:
    """Return the current time in UTC, as the tables store it."""
    return datetime.now(UTC)


class Role(StrEnum):
    """The role of a user. Admins may also manage other users' accounts and payments."""

    USER = "user"
    ADMIN = "admin"


class Status(StrEnum):
    """The status of a job or a batch. The last four are final; only a batch can be partial."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL = "partial"
    CANCELLED = "cancelled"


class Movement(StrEnum):
    """The kind of a ledger entry. A hold is settled by a charge, which moves no more credits, or by a release, which
    returns them.
    """

    GRANT = "grant"
    HOLD = "hold"
    CHARGE = "charge"
    RELEASE = "release"


class PaidBy(StrEnum):
    """The means of payment of a removal: the daily quota of a subscription, credits, or none, where it costs nothing."""

    QUOTA = "quota"
    CREDITS = "credits"
    FREE = "free"


class PaymentStatus(StrEnum):
    """The status of a payment. Plans and credits are granted only when it is confirmed."""

    PENDING = "pending"
    CONFIRMED = "confirmed"


class Channel(StrEnum):
    """The channel of a batch's notification."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime with a time zone, also on SQLite, which does not store one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _by_value(kind: type[StrEnum]) -> Enum:
    """Store an enumeration as its string values."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda kind: [one.value for one in kind])


class Base(DeclarativeBase):
    """Base of all tables. Constraints have names, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        **{kind: _by_value(kind) for kind in (Role, Status, Movement, PaidBy, PaymentStatus, Channel, Tier)},
    }


def plain(kind: type[Base]) -> Table:
    """Return a class's Core table, for rows written at every removal: the ORM's bookkeeping takes three times as long
    as such a row.
    """
    return Base.metadata.tables[kind.__tablename__]


class User(Base):
    """A user. `subject` is the token's `sub` claim, or `local:` and the e-mail address of a local account.

    `balance` is the sum of the user's ledger rows, stored here so that a constraint can protect it. The row of a
    deleted user remains because the ledger and payments refer to it: it is disabled, has no e-mail, and its `subject`
    is `deleted:` and the row's id.
    """

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("balance >= 0", name="balance_not_negative"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    subject: Mapped[str] = mapped_column(String(255), unique=True)
    email: Mapped[str | None] = mapped_column(String(320))
    role: Mapped[Role] = mapped_column(default=Role.USER)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    balance: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    disabled_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class ApiKey(Base):
    """An API key of a user. Only its SHA-256 is stored; `shown` is its beginning, so that the user can recognise it."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    shown: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]


class LedgerEntry(Base):
    """A movement of credits; rows are never changed. `key` says what the movement is for and makes it idempotent."""

    __tablename__ = "credit_ledger"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    movement: Mapped[Movement]
    credits: Mapped[int]
    key: Mapped[str] = mapped_column(String(160), unique=True)
    note: Mapped[str] = mapped_column(String(255), default="")
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (Index(None, "user_id", "id"),)


class Batch(Base):
    """A batch of photos, each of which is a job. `credits` is the amount held for all photos, after the discount;
    `charged` is the cost of the photos that succeeded, set when the batch has ended.

    Finishing a batch is also work under a lease: `claim` is the token of the worker that holds it, and no other worker
    may take it before `lease_until`. `claimed_at` is when a worker last claimed photos of the batch; the batch that has
    waited longest is served next.
    """

    __tablename__ = "background_removal_batches"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    status: Mapped[Status]
    tier: Mapped[Tier]
    images: Mapped[int]
    credits: Mapped[int]
    discount: Mapped[int]
    discount_percent: Mapped[int]
    charged: Mapped[int | None]
    webhook_url: Mapped[str | None] = mapped_column(String(2048))
    notify_email: Mapped[str | None] = mapped_column(String(320))
    zip_bytes: Mapped[int | None] = mapped_column(BigInteger)
    claim: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "user_id", "created_at"), Index(None, "finished_at", "claimed_at"))


class Job(Base):
    """A removal. `credits` is its cost, or 0 if it is free or the quota of the day of `created_at` pays for it. A job in progress
    counts as lost after `lease_until`; a waiting job is not taken before it.

    `model`, `backend` and `substitute` describe what served the job; `subject` is the subject's box in the result, with
    the keys of `Box`, and `coverage`, `uncertainty` and `needs_review` are those of `Cutout`; `error_code` and `error_detail` say why it failed.

    A job for a worker has its `options` here and its photo in the storage; other jobs have theirs once they are completed,
    if their photo is kept. `refined_from` is the job whose masks were used instead of a network. `claim` is the token of the worker that
    holds the job, and `attempts` is how often the job was claimed. In a batch, a job has a `position`, from 0. `name` is
    that of its photo's file, if it has one. `frames` is how many frames of an
    animation the result has; None: one. `has_store` says that a `StoreDelivery` takes the result to the user's own store.
    """

    __tablename__ = "background_removal_jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    batch_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("background_removal_batches.id"))
    position: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(String(1000))
    options: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    claim: Mapped[uuid.UUID | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    sha256: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[Status]
    tier: Mapped[Tier]
    credits: Mapped[int]
    paid_by: Mapped[PaidBy] = mapped_column(default=PaidBy.CREDITS, server_default=PaidBy.CREDITS.value)
    format: Mapped[str] = mapped_column(String(8))
    lease_until: Mapped[datetime | None]
    model: Mapped[str | None] = mapped_column(String(64))
    backend: Mapped[str | None] = mapped_column(String(64))
    substitute: Mapped[bool | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    no_foreground: Mapped[bool | None]
    has_store: Mapped[bool | None]
    frames: Mapped[int | None]
    # Not a foreign key, which would be checked for each deleted job.
    refined_from: Mapped[uuid.UUID | None]
    subject: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    coverage: Mapped[float | None]
    uncertainty: Mapped[float | None]
    needs_review: Mapped[bool | None]
    notes: Mapped[list[str] | None]
    milliseconds: Mapped[int | None]
    stage_milliseconds: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(String(1000))
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "user_id", "created_at"),
        Index(None, "status", "lease_until"),
        Index(None, "batch_id", "position", unique=True),
        # Whether there is a newer refinement is one look, also where there are thousands of older ones.
        Index(None, "refined_from", "created_at", "id"),
    )


class IdempotencyKey(Base):
    """An idempotency key of a user. `fingerprint` tells whether another request is the same; `job_id` or `batch_id` is
    the result of the first request.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        UniqueConstraint("user_id", "key"),
        CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name="job_or_batch"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("background_removal_jobs.id"))
    batch_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("background_removal_batches.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Attempted:
    """Columns of what is sent until it arrives: it is due at `due_at` until it is delivered or given up.

    `status` is the last status code of the server that it is sent to; `error` says why the last attempt failed.
    """

    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(String(500))
    due_at: Mapped[datetime | None] = mapped_column(default=now, index=True)
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Delivery(Attempted, Base):
    """A notification that a batch has ended, by webhook or e-mail."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("background_removal_batches.id"), index=True)
    channel: Mapped[Channel]
    target: Mapped[str] = mapped_column(String(2048))


class StoreDelivery(Attempted, Base):
    """The way of a job's result to its user's own store. `due_at` is null until the job is completed.

    `target` is a signed address or `s3://…`, in which placeholders stand for what is known when the result is; its
    query is dropped when the delivery has ended. `stem` is the name of the result's file without its extension, in a
    batch. The row is deleted if the job ends without a result.
    """

    __tablename__ = "result_deliveries"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("background_removal_jobs.id"), unique=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    target: Mapped[str] = mapped_column(String(4096))
    stem: Mapped[str | None] = mapped_column(String(255))


class Payment(Base):
    """A payment for a month of a plan or for credits. `payment_id` is chosen by the payer and can be used only once.

    `confirmed_by` is the admin who confirmed it. It is None if a signature confirmed it, or if the service does not
    require payment.
    """

    __tablename__ = "background_remover_payments"
    __table_args__ = (CheckConstraint("(plan IS NULL) <> (credits IS NULL)", name="plan_or_credits"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    payment_id: Mapped[str] = mapped_column(String(120), unique=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), index=True)
    plan: Mapped[str | None] = mapped_column(String(32))
    credits: Mapped[int | None]
    rupiah: Mapped[int]
    status: Mapped[PaymentStatus] = mapped_column(default=PaymentStatus.PENDING)
    confirmed_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    confirmed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Subscription(Base):
    """One month of a plan, paid by the payment with the same id. A user's months follow each other without a gap.

    `day` is the day of the month on which the first month began; 31 stands for the last day in shorter months.
    """

    __tablename__ = "background_remover_subscriptions"

    id: Mapped[uuid.UUID] = mapped_column(
        # The name is explicit because the conventional one is longer than PostgreSQL's limit of 63 bytes.
        ForeignKey("background_remover_payments.id", name="fk_background_remover_subscriptions_id_payments"),
        primary_key=True,
    )
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    plan: Mapped[str] = mapped_column(String(32))
    day: Mapped[int]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None] = mapped_column(String(500))

    __table_args__ = (Index(None, "user_id", "ends_at"),)


class SubscriptionUsage(Base):
    """Number of removals that a user's plan has paid for on a day (UTC), including those in progress."""

    __tablename__ = "background_remover_subscription_usage"
    __table_args__ = (CheckConstraint("professional >= 0 AND professional <= used", name="counts"),)

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    used: Mapped[int]
    professional: Mapped[int]
