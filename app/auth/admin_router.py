"""`/api/background-remover/admin/users/{user_id}`: disabling accounts and enabling them again. For admins."""

import asyncio
import uuid
from datetime import datetime

import structlog
from fastapi import APIRouter

from cutout.app.auth import accounts
from cutout.app.auth.dependencies import AdminDep
from cutout.app.core.errors import ConflictError, NotFoundError
from cutout.app.core.schema import Schema
from cutout.app.db.tables import User
from cutout.app.http.dependencies import DatabaseDep
from cutout.app.http.openapi import error_responses

log = structlog.get_logger()

router = APIRouter(prefix="/api/background-remover/admin/users", tags=["admin"])


class AccountState(Schema):
    """Whether an account works: `disabledAt` is null while it does."""

    id: uuid.UUID
    disabled_at: datetime | None

    @classmethod
    def of(cls, user: User | None) -> "AccountState":
        """Describe a user.

        Raises:
            NotFoundError: there is none.

        """
        if user is None:
            raise NotFoundError("There is no user with this id.")
        return cls(id=user.id, disabled_at=user.disabled_at)


@router.post("/{user_id}/disable", responses=error_responses(NotFoundError, ConflictError))
async def disable_user(user_id: uuid.UUID, admin: AdminDep, database: DatabaseDep) -> AccountState:
    """Disable an account: its keys, tokens, logins and signed URLs stop working. Repeating it has no effect."""
    user = await asyncio.to_thread(database.run_in_transaction, accounts.disable_other, user_id, admin)
    state = AccountState.of(user)
    log.info("account disabled", account=str(user_id), admin=str(admin.id))
    return state


@router.post("/{user_id}/enable", responses=error_responses(NotFoundError))
async def enable_user(user_id: uuid.UUID, admin: AdminDep, database: DatabaseDep) -> AccountState:
    """Enable an account again: its keys, and tokens and signed URLs that have not expired, work again."""
    user = await asyncio.to_thread(database.run_in_transaction, accounts.enable_again, user_id)
    state = AccountState.of(user)
    log.info("account enabled", account=str(user_id), admin=str(admin.id))
    return state
