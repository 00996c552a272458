"""Users, their passwords and their API keys. What takes a session works in a transaction of the caller's."""

import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from pwdlib import PasswordHash
from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cutout.app.auth.tokens import (
    KEY_SHOWN,
    LOCAL,
    Claims,
    InvalidToken,
    api_key_sha256,
    new_api_key,
    password_mark,
)
from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.core.errors import ConflictError, ForbiddenError, OperatorError
from cutout.app.db.session import Database
from cutout.app.db.tables import ApiKey, Role, User, now

SHORTEST_PASSWORD = 10
REVOKED_KEYS_LISTED = 100
LOCAL_ADMIN = "local:admin"

_passwords = PasswordHash.recommended()  # argon2id
# Checking takes all of some cores, on purpose, and anybody can start it: it gives way to everything else, and what would
# have to wait for more than some seconds is refused.
PASSWORDS = BoundedExecutor(
    "logins", threads=max(1, min(4, (os.cpu_count() or 1) // 2)), waiting=24, retry_after=3, low_priority=True
)


class AccountError(OperatorError):
    """An account or a key cannot be made or changed as asked; the message says why."""


class AccountDisabled(ForbiddenError):
    """An account is closed to whoever proves to be its user."""

    def __init__(self) -> None:
        super().__init__("This account is disabled. Ask whoever runs this service to enable it again.")


class TooManyKeys(ConflictError):
    """A user has as many API keys as one may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"A user has at most {most} API keys (CUTOUT_MAX_API_KEYS). Revoke one that is not used, then make this one."
        )


def get_or_create_user(session: Session, claims: Claims) -> User:
    """Return the user whom a token speaks for: made at first sight, and kept as the last token says.

    Raises:
        InvalidToken: an account kept here is gone, or has another password by now.
        AccountDisabled: the user may not call.

    """
    user = by_subject(session, claims.subject)
    if claims.local:
        return _require_login(user, claims)
    if user is None:
        user = _add(session, User(subject=claims.subject, email=claims.email, role=claims.role, balance=0))
    _require_enabled(user)
    if claims.email is not None:
        user.email = claims.email
    user.role = claims.role
    return user


def identify(database: Database, claims: Claims) -> User:
    """Do what `seen` does, in a transaction of its own: one that only reads, where the user is as the token says.

    Raises:
        InvalidToken: an account kept here is gone, or has another password by now.
        AccountDisabled: the user may not call.

    """
    with database.read() as session:
        user = by_subject(session, claims.subject)
    if claims.local:
        return _require_login(user, claims)
    if user is not None and (user.role, claims.email or user.email) == (claims.role, user.email):
        return _require_enabled(user)
    with database.begin() as session:
        return get_or_create_user(session, claims)


def get_or_create_local_admin(session: Session) -> User:
    """Return the one user of a service without accounts, an admin."""
    user = by_subject(session, LOCAL_ADMIN)
    return user or _add(session, User(subject=LOCAL_ADMIN, role=Role.ADMIN, balance=0))


def by_subject(session: Session, subject: str) -> User | None:
    """Find a user by a token's `sub`."""
    return session.scalars(select(User).where(User.subject == subject)).one_or_none()


def create_local(session: Session, email: str, password: str, role: Role = Role.USER) -> User:
    """Make an account that is kept here, with a password.

    Raises:
        AccountError: the address is taken or none, or the password is too short.

    """
    subject = local_subject(email)
    if "@" not in email:
        raise AccountError(f"{email!r} is no e-mail address.")
    _require_password(password)
    if by_subject(session, subject) is not None:
        raise AccountError(f"There is an account for {email} already.")
    user = User(subject=subject, email=email, role=role, password_hash=_passwords.hash(password), balance=0)
    return _add(session, user)


def log_in(database: Database, email: str, password: str) -> User | None:
    """Return the account with this address, if the password is its own; None otherwise. Run it in `PASSWORDS`.

    In a transaction of its own, over before the password is checked: that takes some 50 ms of processor and 64 MiB of
    memory, whatever the answer.

    Raises:
        AccountDisabled: the password is right, and the user may not call.

    """
    with database.read() as session:
        user = by_subject(session, local_subject(email))
    # Where there is no such account, a password is checked all the same: the time of an answer tells nothing. It is made
    # also where it is not needed, so that the first answers of a process tell nothing either.
    nobodys = _nobodys()
    if user is None or user.password_hash is None:
        _passwords.verify(password, nobodys)
        return None
    return _require_enabled(user) if _passwords.verify(password, user.password_hash) else None


def set_password(session: Session, user: User, password: str) -> None:
    """Give an account kept here a new password. Logins by the old one end.

    Raises:
        AccountError: the user has none here, or it is too short.

    """
    if not user.subject.startswith(LOCAL) or user.subject == LOCAL_ADMIN:
        raise AccountError(f"{user.subject} has no password here: they log in at the platform in front.")
    _require_password(password)
    user.password_hash = _passwords.hash(password)


def disable(session: Session, user: User) -> None:
    """Close an account: keys, tokens, logins and signed addresses of the user stop at once, until it is enabled.

    Raises:
        AccountError: it is the one user of a service without accounts.

    """
    require_not_local_admin(user)
    user.disabled_at = user.disabled_at or now()


def enable(session: Session, user: User) -> None:
    """Open an account again. What was signed before works again as long as it would have.

    Raises:
        AccountError: the user was deleted.

    """
    if user.deleted_at is not None:
        raise AccountError("This user was deleted. Make a new account with: cutout users add")
    user.disabled_at = None


def require_not_local_admin(user: User) -> None:
    """Raise AccountError for the one user of a service without accounts, who needs no key, token or password."""
    if user.subject == LOCAL_ADMIN:
        raise AccountError(
            f"{LOCAL_ADMIN} is everyone on this machine while CUTOUT_AUTH=off. Set CUTOUT_AUTH=on."
        )


def require_enabled(session: Session, user_id: uuid.UUID) -> None:
    """Return if a user may call.

    Raises:
        AccountDisabled: they may not.

    """
    user = session.get(User, user_id)
    if user is not None:
        _require_enabled(user)


def matching(session: Session, who: str) -> Sequence[User]:
    """Return the users whom a text may mean: by their id, their `sub` or their e-mail address, in any case of letters.
    Deleted ones are none of them.
    """
    names = [User.subject.in_((who, local_subject(who))), func.lower(User.email) == who.strip().lower()]
    with suppress(ValueError):
        names.append(User.id == uuid.UUID(who))
    there = select(User).where(User.deleted_at.is_(None), or_(*names))
    return session.scalars(there.order_by(User.created_at, User.id)).all()


@cache
def _nobodys() -> str:
    return _passwords.hash("nobody's password")


def local_subject(email: str) -> str:
    """Name an account kept here, as tokens do."""
    return LOCAL + email.strip().lower()


def create_key(session: Session, user: User, name: str, most: int | None = None) -> tuple[str, ApiKey]:
    """Make an API key for a user, who may have so many at most: the key itself, to be shown once, and its row.

    Raises:
        TooManyKeys: the user has as many already.

    """
    # Another transaction that makes one for the same user waits.
    session.execute(select(User.id).where(User.id == user.id).with_for_update())
    valid = ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None)
    if most is not None and (session.scalar(select(func.count()).where(*valid)) or 0) >= most:
        raise TooManyKeys(most)
    _forget_revoked_keys(session, user)
    key = new_api_key()
    row = ApiKey(user_id=user.id, name=name[:100], shown=key[:KEY_SHOWN], sha256=api_key_sha256(key))
    session.add(row)
    session.flush()
    return key, row


def by_key(session: Session, key: str) -> User:
    """Return the user whom an API key belongs to.

    Raises:
        InvalidToken: it is none, or revoked.
        AccountDisabled: the user may not call.

    """
    found = session.execute(
        select(ApiKey, User).join(User, User.id == ApiKey.user_id).where(ApiKey.sha256 == api_key_sha256(key))
    ).one_or_none()
    message = "This API key is not known here, or was revoked. Make a new one."
    if found is None:
        raise InvalidToken(message, f"API key {key[:KEY_SHOWN]}…: not known")
    if found[0].revoked_at is not None:
        raise InvalidToken(message, f"API key {found[0].id} of user {found[0].user_id}: revoked")
    user: User = found[1]
    return _require_enabled(user)


def keys(session: Session, user: User) -> Sequence[ApiKey]:
    """Return a user's API keys, the revoked ones too, the newest first."""
    rows = select(ApiKey).where(ApiKey.user_id == user.id).order_by(ApiKey.created_at.desc(), ApiKey.id)
    return session.scalars(rows).all()


def revoke_key(session: Session, user: User, key_id: uuid.UUID) -> bool:
    """Make a key of a user's worthless; False if he has none by this id."""
    row = session.get(ApiKey, key_id)
    if row is None or row.user_id != user.id:
        return False
    row.revoked_at = row.revoked_at or now()
    return True


def _require_login(user: User | None, claims: Claims) -> User:
    gone = "There is no such account any more. Sign in again."
    if user is None or user.password_hash is None:
        raise InvalidToken(gone, f"token: no account {claims.subject}")
    _require_enabled(user)
    if claims.password_mark != password_mark(user.password_hash):
        raise InvalidToken(
            "The password was changed since this login. Sign in again.",
            f"token: user {user.id} has another password by now",
        )
    return user


def _require_enabled(user: User) -> User:
    if user.disabled_at is not None:
        raise AccountDisabled
    return user


def _require_password(password: str) -> None:
    if len(password) < SHORTEST_PASSWORD:
        raise AccountError(f"The password is too short; take {SHORTEST_PASSWORD} characters or more.")


def _forget_revoked_keys(session: Session, user: User) -> None:
    """Delete the oldest revoked keys beyond those that are listed: making and revoking fills no table."""
    revoked = select(ApiKey.id).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_not(None))
    oldest = revoked.order_by(ApiKey.revoked_at.desc()).offset(REVOKED_KEYS_LISTED)
    for key_id in session.scalars(oldest).all():
        session.execute(delete(ApiKey).where(ApiKey.id == key_id))


def _add(session: Session, user: User) -> User:
    """Add a user, or return the one whom another transaction has added meanwhile."""
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        return session.scalars(select(User).where(User.subject == user.subject)).one()
    return user
