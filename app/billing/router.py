"""`/api/background-remover`: subscription, daily quota, and purchases of plans and credits."""

import asyncio
from datetime import date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field

from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import UserDep
from cutout.app.billing import payments, subscriptions
from cutout.app.billing.payments import Item, Mode, Purchase, Terms
from cutout.app.billing.pricing import PLANS
from cutout.app.billing.schemas import PlanInfo, PurchaseInfo
from cutout.app.billing.subscriptions import SubscriptionStatus
from cutout.app.core.errors import ConflictError, ForbiddenError, NotFoundError
from cutout.app.core.schema import Schema
from cutout.app.db.tables import User, now
from cutout.app.http.dependencies import DatabaseDep, SettingsDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import LONGEST_WORD, NO_NUL, Body

router = APIRouter(prefix="/api/background-remover", tags=["subscription"], route_class=AuthFirstRoute)


def _known(plan: str) -> str:
    if plan not in PLANS:
        raise ValueError(f"there is no plan {plan!r}; choose one of: {', '.join(PLANS)}")
    return plan


class Paid(Body):
    """The id of a payment, which is valid for one purchase only, and the platform's signature where it is required."""

    payment_id: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[!-~]+$")]
    signature: Annotated[str, Field(max_length=128)] = ""


class PlanWanted(Paid, json_schema_extra={"examples": [{"plan": "pro", "paymentId": "inv-42"}]}):
    """A purchase of one month of a plan."""

    plan: Annotated[str, Field(max_length=LONGEST_WORD), AfterValidator(_known)]


class CreditsWanted(Paid, json_schema_extra={"examples": [{"credits": 500, "paymentId": "inv-43"}]}):
    """A purchase of credits."""

    credits: Annotated[int, Field(ge=1, le=1_000_000)]


class Quota(Schema):
    """Removals used and left in a plan's quota on a day (UTC). Removals in progress count as used."""

    day: date
    used: int
    left: int
    professional_used: int
    professional_left: int


class SubscriptionInfo(Schema):
    """The user's plan and today's quota; without a plan, `plans` lists the available plans. Purchases of plans and
    credits in `pending` wait for an admin's confirmation. `payments` says who confirms a purchase: `manual` an admin,
    `signed` the platform, `off` nobody.
    """

    plan: str | None
    status: Literal["none", "pending", "active", "cancelled"]
    ends_at: datetime | None
    cancelled_at: datetime | None
    today: Quota | None
    pending: list[PurchaseInfo]
    plans: dict[str, PlanInfo] | None
    payments: Mode

    @classmethod
    def of(cls, subscription_status: SubscriptionStatus, payments: Mode) -> "SubscriptionInfo":
        present = subscription_status.present
        pending = [PurchaseInfo.of(Purchase(payment, None)) for payment in subscription_status.pending]
        if present is None:
            return cls(
                plan=None,
                status="pending" if any(purchase.plan for purchase in pending) else "none",
                ends_at=None,
                cancelled_at=None,
                today=None,
                pending=pending,
                plans={name: PlanInfo.of(plan) for name, plan in PLANS.items()},
                payments=payments,
            )
        return cls(
            plan=present.plan,
            status="cancelled" if present.cancelled_at else "active",
            ends_at=present.ends_at,
            cancelled_at=present.cancelled_at,
            today=Quota(
                day=subscription_status.day,
                used=subscription_status.used,
                left=subscription_status.left,
                professional_used=subscription_status.professional,
                professional_left=subscription_status.professional_left,
            ),
            pending=pending,
            plans=None,
            payments=payments,
        )


async def get_terms(settings: SettingsDep) -> Terms:
    secret = settings.payments_secret
    return Terms(settings.payment_mode, secret.get_secret_value() if secret else "")


TermsDep = Annotated[Terms, Depends(get_terms)]


@router.get("/subscription")
async def get_subscription(user: UserDep, database: DatabaseDep, terms: TermsDep) -> SubscriptionInfo:
    """Return the caller's plan and today's quota, or the available plans if they have none."""
    subscription_status = await asyncio.to_thread(
        database.run_read_only, subscriptions.subscription_status, user.id, now()
    )
    return SubscriptionInfo.of(subscription_status, terms.mode)


@router.post("/subscription", responses=error_responses(ForbiddenError, ConflictError))
async def subscribe(
    wanted: PlanWanted, user: UserDep, database: DatabaseDep, terms: TermsDep
) -> PurchaseInfo:
    """Buy a month of a plan, or extend the current plan by a month. Repeating a `paymentId` does not buy again."""
    return await _buy(database, user, Item(plan=wanted.plan), wanted, terms)


@router.delete("/subscription", responses=error_responses(NotFoundError))
async def cancel_subscription(
    user: UserDep,
    database: DatabaseDep,
    terms: TermsDep,
    reason: Annotated[str | None, Query(max_length=500, pattern=NO_NUL)] = None,
) -> SubscriptionInfo:
    """Cancel the caller's plan. It stays active until the end of the paid time. Repeating it has no effect."""
    at = now()
    if (
        await asyncio.to_thread(database.run_in_transaction, subscriptions.cancel, user.id, reason, at)
        is None
    ):
        raise NotFoundError("You have no subscription.")
    return SubscriptionInfo.of(
        await asyncio.to_thread(database.run_read_only, subscriptions.subscription_status, user.id, at),
        terms.mode,
    )


@router.post("/credits", responses=error_responses(ForbiddenError, ConflictError))
async def buy_credits(
    wanted: CreditsWanted, user: UserDep, database: DatabaseDep, terms: TermsDep
) -> PurchaseInfo:
    """Buy credits. Repeating a `paymentId` does not buy again."""
    return await _buy(database, user, Item(credits=wanted.credits), wanted, terms)


async def _buy(database: DatabaseDep, user: User, item: Item, paid: Paid, terms: Terms) -> PurchaseInfo:
    rupiah = await asyncio.to_thread(database.run_read_only, payments.price, user, item, paid.payment_id)
    settled = terms.settled(item, rupiah, paid.payment_id, user.subject, paid.signature)
    purchase = await asyncio.to_thread(
        database.run_in_transaction, payments.buy, user, item, paid.payment_id, settled=settled, at=now()
    )
    return PurchaseInfo.of(purchase)
