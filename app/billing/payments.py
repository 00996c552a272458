"""Payments: purchases of plans and credits, and their confirmation. Each `paymentId` buys only once.

Functions that take a session run in the caller's transaction, which the caller commits; `at` is the current time.
"""

import hashlib
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cutout.app.billing import ledger, subscriptions
from cutout.app.billing.pricing import PLANS, RUPIAH_PER_CREDIT
from cutout.app.core.errors import ConflictError, ForbiddenError
from cutout.app.db.tables import Payment, PaymentStatus, Subscription, User

Mode = Literal["off", "manual", "signed"]


class PaymentUsed(ConflictError):
    """The `paymentId` was used for another item or by another user."""

    def __init__(self) -> None:
        super().__init__(
            "This paymentId was already used for another purchase. Use a new one for each purchase."
        )


class WrongSignature(ForbiddenError):
    """The platform's signature of a payment is missing, or is for another purchase."""

    def __init__(self) -> None:
        super().__init__(
            "The platform's signature is missing or does not match this purchase. Sign what is bought, its price in"
            " rupiah, the paymentId and the user's sub with CUTOUT_PAYMENTS_SECRET."
        )


@dataclass(frozen=True)
class Item:
    """The item of a purchase: a month of a plan, or credits if `plan` is None."""

    plan: str | None = None
    credits: int = 0

    @property
    def rupiah(self) -> int:
        return self.credits * RUPIAH_PER_CREDIT if self.plan is None else PLANS[self.plan].price_rupiah

    def __str__(self) -> str:
        return f"credits:{self.credits}" if self.plan is None else f"plan:{self.plan}"


@dataclass(frozen=True)
class Terms:
    """How payments are confirmed: without a check (`off`), later by an admin (`manual`), or by the platform's signature
    (`signed`).
    """

    mode: Mode
    secret: str = field(default="", repr=False)

    def settled(self, item: Item, rupiah: int, payment_id: str, subject: str, signature: str) -> bool:
        """Return whether a payment counts at once; if not, an admin has to confirm it.

        Raises:
            WrongSignature: a signature is required, and this one is missing or wrong.

        """
        if self.mode == "signed":
            right = sign(self.secret, item, rupiah, payment_id, subject)
            if not hmac.compare_digest(right.encode(), signature.lower().encode()):
                raise WrongSignature
        return self.mode != "manual"


@dataclass(frozen=True)
class Purchase:
    """A payment, and the month that it has bought; None unless it is a confirmed payment for a plan."""

    payment: Payment
    month: Subscription | None


def sign(secret: str, item: Item, rupiah: int, payment_id: str, subject: str) -> str:
    """Return the platform's signature that a user has paid: an HMAC-SHA256 in hexadecimal.

    The user's `sub` comes last because only it may contain line breaks, so no two purchases yield the same text.
    """
    text = f"{item}\n{rupiah}\n{payment_id}\n{subject}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def price(session: Session, user: User, item: Item, payment_id: str) -> int:
    """Return the price of a purchase in rupiah: the current price, or the original price if it is recorded already."""
    noted = session.scalars(select(Payment).where(Payment.payment_id == payment_id)).one_or_none()
    return noted.rupiah if noted is not None and _is_of(noted, user, item) else item.rupiah


def buy(
    session: Session, user: User, item: Item, payment_id: str, *, settled: bool, at: datetime
) -> Purchase:
    """Record a purchase, and deliver it if the payment is `settled`. Repeating a purchase delivers nothing twice.

    Raises:
        PaymentUsed: the payment id was used for another item or by another user.
        AnotherPlan: the purchase is for a plan, and the user has another one.

    """
    payment = Payment(
        payment_id=payment_id,
        user_id=user.id,
        plan=item.plan,
        credits=item.credits if item.plan is None else None,
        rupiah=item.rupiah,
        status=PaymentStatus.PENDING,
        created_at=at,
    )
    try:
        with session.begin_nested():
            session.add(payment)
    except IntegrityError:
        payment = session.scalars(select(Payment).where(Payment.payment_id == payment_id)).one()
        if not _is_of(payment, user, item):
            raise PaymentUsed from None
    else:
        if item.plan is not None:
            subscriptions.require_no_other(session, user.id, item.plan, at)
    return _confirm(session, payment, None, at) if settled else _purchase(session, payment)


def confirm(session: Session, purchase_id: uuid.UUID, admin: User, at: datetime) -> Purchase | None:
    """Confirm a payment as an admin, and deliver its purchase once. Return None if there is no such payment.

    Raises:
        AnotherPlan: the payment is for a plan, and the user has another one.

    """
    payment = session.get(Payment, purchase_id)
    return None if payment is None else _confirm(session, payment, admin.id, at)


def page(
    session: Session, status: PaymentStatus | None, limit: int, offset: int
) -> Sequence[tuple[Purchase, User]]:
    """Return payments, each with its user: newest first, but those that are pending oldest first."""
    is_queue = status is PaymentStatus.PENDING
    order = Payment.created_at.asc() if is_queue else Payment.created_at.desc()
    rows = (
        select(Payment, Subscription, User)
        .join(User, User.id == Payment.user_id)
        .outerjoin(Subscription, Subscription.id == Payment.id)
        .order_by(order, Payment.id)
        .limit(limit)
        .offset(offset)
    )
    if status is not None:
        rows = rows.where(Payment.status == status)
    return [(Purchase(payment, month), user) for payment, month, user in session.execute(rows)]


def _confirm(session: Session, payment: Payment, admin_id: uuid.UUID | None, at: datetime) -> Purchase:
    confirmed = (
        update(Payment)
        .where(Payment.id == payment.id, Payment.status == PaymentStatus.PENDING)
        .values(status=PaymentStatus.CONFIRMED, confirmed_by=admin_id, confirmed_at=at)
        .returning(Payment.id)
    )
    now_paid = session.scalar(confirmed) is not None
    session.refresh(payment)
    if now_paid and payment.plan is not None:
        subscriptions.add_month(session, payment, payment.plan, at)
    elif now_paid and payment.credits is not None:
        ledger.grant(session, payment.user_id, payment.credits, f"payment:{payment.payment_id}", "bought")
    return _purchase(session, payment)


def _is_of(payment: Payment, user: User, item: Item) -> bool:
    bought = Item(plan=payment.plan, credits=payment.credits or 0)
    return (payment.user_id, bought) == (user.id, item)


def _purchase(session: Session, payment: Payment) -> Purchase:
    return Purchase(payment, session.get(Subscription, payment.id))
