"""`/api/background-remover/admin`: granting credits and confirming payments. For admins."""

import asyncio
import uuid
from typing import Annotated

import structlog
from fastapi import APIRouter, Query

from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import AdminDep
from cutout.app.billing import ledger, payments
from cutout.app.billing.schemas import Grant, Granted, PurchaseInfo
from cutout.app.core.errors import ConflictError, NotFoundError
from cutout.app.core.schema import Schema
from cutout.app.db.tables import PaymentStatus, now
from cutout.app.http.dependencies import DatabaseDep
from cutout.app.http.openapi import error_responses

log = structlog.get_logger()

router = APIRouter(prefix="/api/background-remover/admin", tags=["admin"], route_class=AuthFirstRoute)


class PaymentInfo(PurchaseInfo):
    """A purchase with the `sub`, the id and the e-mail address of its user."""

    user: str
    user_id: uuid.UUID
    email: str | None


class Payments(Schema):
    """A page of payments."""

    payments: list[PaymentInfo]


@router.post("/credits", responses=error_responses(NotFoundError))
async def grant_credits(wanted: Grant, _: AdminDep, database: DatabaseDep) -> Granted:
    """Grant credits to a user. A repeated request with the same `key` grants nothing."""
    outcome = await asyncio.to_thread(
        database.run_in_transaction,
        ledger.grant_to,
        wanted.user_id,
        wanted.credits,
        f"grant:{wanted.key}",
        wanted.note,
    )
    if outcome is None:
        raise NotFoundError("There is no user with this id.")
    return Granted(granted=outcome[0], balance=outcome[1])


@router.get("/payments")
async def get_payments(
    _: AdminDep,
    database: DatabaseDep,
    status: PaymentStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Payments:
    """List payments, newest first. `status=pending` lists those that wait for confirmation, oldest first."""
    found = await asyncio.to_thread(database.run_read_only, payments.page, status, limit, offset)
    return Payments(
        payments=[
            PaymentInfo(
                **PurchaseInfo.of(purchase).model_dump(), user=user.subject, user_id=user.id, email=user.email
            )
            for purchase, user in found
        ]
    )


@router.post("/payments/{purchase_id}/confirm", responses=error_responses(NotFoundError, ConflictError))
@router.post("/subscriptions/{purchase_id}/confirm", responses=error_responses(NotFoundError, ConflictError))
async def confirm_payment(purchase_id: uuid.UUID, admin: AdminDep, database: DatabaseDep) -> PurchaseInfo:
    """Confirm that a payment was received. The plan begins, or the credits are added. Repeating it has no effect."""
    purchase = await asyncio.to_thread(
        database.run_in_transaction, payments.confirm, purchase_id, admin, now()
    )
    if purchase is None:
        raise NotFoundError("There is no purchase with this id.")
    log.info("payment confirmed", purchase=str(purchase_id), admin=str(admin.id))
    return PurchaseInfo.of(purchase)
