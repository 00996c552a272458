"""`/api/background-remover/admin/users`: the list of users. For admins."""

import asyncio
import uuid
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from cutout.app.auth.dependencies import AdminDep
from cutout.app.core.schema import Schema
from cutout.app.db.tables import Role, now
from cutout.app.http.dependencies import DatabaseDep
from cutout.app.http.schemas import NO_NUL
from cutout.app.stats import users
from cutout.app.stats.users import Account

router = APIRouter(prefix="/api/background-remover/admin/users", tags=["admin"])


class UserInfo(Schema):
    """A user. `plan` is paid until `planEndsAt`; `recentRemovals` are those of the last 30 days; `disabledAt` is null
    while the account works.
    """

    id: uuid.UUID
    email: str | None
    subject: str
    role: Role
    balance: int
    plan: str | None
    plan_ends_at: datetime | None
    recent_removals: int
    created_at: datetime
    disabled_at: datetime | None

    @classmethod
    def of(cls, account: Account) -> "UserInfo":
        user, month = account.user, account.month
        return cls(
            id=user.id,
            email=user.email,
            subject=user.subject,
            role=user.role,
            balance=user.balance,
            plan=month.plan if month else None,
            plan_ends_at=month.ends_at if month else None,
            recent_removals=account.removals,
            created_at=user.created_at,
            disabled_at=user.disabled_at,
        )


class Users(Schema):
    """A page of users, newest first; `total` is how many match."""

    total: int
    users: list[UserInfo]


@router.get("")
async def get_users(
    _: AdminDep,
    database: DatabaseDep,
    search: Annotated[str, Query(max_length=320, pattern=NO_NUL)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Users:
    """List users, newest first. `search` selects by a part of the e-mail address or `sub`, or by the whole id."""
    total, found = await asyncio.to_thread(database.run_read_only, users.page, search, limit, offset, now())
    return Users(total=total, users=[UserInfo.of(account) for account in found])
