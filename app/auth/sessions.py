"""Sessions of the page: signed values of a cookie that scripts cannot read.

They are no tokens of the API: they are signed with a key of their own, so that none works in place of the other.
"""

import hashlib
import hmac
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
from sqlalchemy.orm import Session

from cutout.app.auth import accounts
from cutout.app.auth.tokens import LOGIN_LASTS, REQUIRED, InvalidToken, password_mark
from cutout.app.db.tables import ApiKey, User

ENDED = "Your session has ended. Sign in again."
LASTS = LOGIN_LASTS


@dataclass(frozen=True)
class PageSession:
    """Who signed in, and with what: a password, of which this is the mark, or an API key."""

    user_id: uuid.UUID
    password_mark: str | None = None
    key_id: uuid.UUID | None = None


def sign_session(secret: str, session: PageSession) -> str:
    """Return the value of the cookie for a session, valid for `LASTS`."""
    claims = {
        "sub": str(session.user_id),
        "pwd": session.password_mark,
        "key": str(session.key_id) if session.key_id else None,
        "exp": datetime.now(UTC) + LASTS,
    }
    return jwt.encode(claims, _signing_key(secret), "HS256")


def read_session(secret: str, cookie: str) -> PageSession:
    """Verify the value of a cookie and return its session.

    Raises:
        InvalidToken: it is expired, or was not made by this service for this purpose.

    """
    try:
        claims = jwt.decode(cookie, _signing_key(secret), ["HS256"], options=REQUIRED)
    except jwt.PyJWTError as error:
        raise InvalidToken(ENDED, f"session: {type(error).__name__}") from None
    key_id = uuid.UUID(claims["key"]) if claims["key"] else None
    return PageSession(uuid.UUID(claims["sub"]), claims["pwd"], key_id)


def user_of(session: Session, signed_in: PageSession) -> User:
    """Return the user of a session of the page that still holds. Runs in the caller's transaction.

    Raises:
        InvalidToken: the account no longer exists, its password has changed, or the API key was revoked.
        AccountDisabled: the account is disabled.

    """
    user = session.get(User, signed_in.user_id)
    if user is None:
        raise InvalidToken(ENDED, f"session: no user {signed_in.user_id}")
    accounts.require_enabled(session, user.id)
    if signed_in.key_id is not None:
        key = session.get(ApiKey, signed_in.key_id)
        if key is None or key.user_id != user.id or key.revoked_at is not None:
            raise InvalidToken(
                "The API key of this session was revoked. Sign in with another one.",
                f"session: API key {signed_in.key_id} of user {user.id} was revoked",
            )
    elif user.password_hash is None or signed_in.password_mark != password_mark(user.password_hash):
        raise InvalidToken(
            "The password has changed since this login. Sign in again.",
            f"session: the password of user {user.id} has changed since",
        )
    return user


def _signing_key(secret: str) -> bytes:
    return hmac.new(secret.encode(), b"sessions of the page", hashlib.sha256).digest()
