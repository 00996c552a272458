"""What an account has left."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from cutout.app.billing import ledger, subscriptions


@dataclass(frozen=True)
class Account:
    """A user's credits, and what is left of today's quota of their plan; 0 without one."""

    balance: int
    removals_left: int


def account_of(session: Session, user_id: uuid.UUID, at: datetime) -> Account:
    """Return what a user has left."""
    status = subscriptions.subscription_status(session, user_id, at)
    return Account(ledger.balance(session, user_id), status.left)
