"""The tables. Their names are the product's; ids are random, times are UTC, money is whole credits."""

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
    """Return the time as the tables keep it."""
    return datetime.now(UTC)


class Role(StrEnum):
    """What a user may do beside his own affairs."""

    USER = "user"
    ADMIN = "admin"


class Status(StrEnum):
    """Of a job or a batch. The last four are final; only a batch is partial."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL = "partial"
    CANCELLED = "cancelled"


class Movement(StrEnum):
    """Of credits. A hold is settled by a charge, which moves nothing more, or by a release, which gives it back."""

    GRANT = "grant"
    HOLD = "hold"
    CHARGE = "charge"
    RELEASE = "release"


class PaidBy(StrEnum):
    """What a removal is paid of: the day's quota of a subscription, or credits."""

    QUOTA = "quota"
    CREDITS = "credits"


class PaymentStatus(StrEnum):
    """Of a payment: it gives something once it is confirmed, and nothing before."""

    PENDING = "pending"
    CONFIRMED = "confirmed"


class Channel(StrEnum):
    """By which a batch's end is told."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, also from SQLite, which knows none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _by_value(kind: type[StrEnum]) -> Enum:
    """Keep an enumeration as the words that the product's contract has."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda kind: [one.value for one in kind])


class Base(DeclarativeBase):
    """Base of all tables; constraints are named, so that migrations can speak of them."""

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
    """Return a class's table, for what every removal does: the ORM's upkeep takes three times as long as such a row."""
    return Base.metadata.tables[kind.__tablename__]


class User(Base):
    """Who may call. `subject` is the token's `sub`, or `local:` and the e-mail address of an account kept here.

    `balance` is the sum of the user's ledger rows, kept beside them so that it can be guarded. A user who was deleted
    remains as `deleted:` and the row's id, disabled and without any name: the ledger and payments point at it.
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
    """A key of a user's. Only its SHA-256 is kept; `shown` is its beginning, to be recognised by."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    shown: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]


class LedgerEntry(Base):
    """A movement of credits, never changed. `key` is what it is for, and makes a repetition harmless."""

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
    """A batch of photos, each of which is a job. `credits` are held for all, the discount taken off; `charged` is what
    the pictures cost that were made, once it has ended.

    Its end is work too, under a lease as the photos' is: `claim` names who has it, and nobody takes it before
    `lease_until`. `claimed_at` is when photos were last taken from it: the next are the batch's that waited longest.
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
    """A removal. `credits` are what it costs, none where the quota of the day in `created_at` pays for it;
    `lease_until` is when it counts as lost, while it is in work, and before which it is not taken, while it is not.

    `model`, `backend` and `substitute` tell what really served it; `error_code` and `error_detail` why it failed.

    One that a worker does has its `options` here, and its photo in storage. `claim` is the token of the worker that has
    it, `attempts` how often it was taken. In a batch it has a `position`, from 0, and the `name` of its photo's file.
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
    )


class IdempotencyKey(Base):
    """A caller's name for one request: `fingerprint` tells whether another is the same, the job or the batch what
    came of it.
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


class Delivery(Base):
    """Word of a batch's end, to a web address or by mail: due at `due_at`, until it is delivered or given up.

    `status` is what a web address answered last, `error` why the last attempt was in vain.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("background_removal_batches.id"), index=True)
    channel: Mapped[Channel]
    target: Mapped[str] = mapped_column(String(2048))
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(String(500))
    due_at: Mapped[datetime | None] = mapped_column(default=now, index=True)
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Payment(Base):
    """What was bought, a month of a plan or credits, and for how much. `payment_id` is the payer's; it buys once.

    `confirmed_by` is the admin who did, or nobody: then a signature did, or the service gives without payment.
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
    """A month of a plan, paid by the payment of the same id. A user's months follow each other without a gap.

    `day` is the day of the month on which the first of them began: 31 stands for the last day of a shorter month.
    """

    __tablename__ = "background_remover_subscriptions"

    id: Mapped[uuid.UUID] = mapped_column(
        # Named here: the name by the convention is longer than PostgreSQL's 63 bytes.
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
    """How many removals a user's plan has paid for on a day (UTC), those in work included."""

    __tablename__ = "background_remover_subscription_usage"
    __table_args__ = (CheckConstraint("professional >= 0 AND professional <= used", name="counts"),)

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    used: Mapped[int]
    professional: Mapped[int]
