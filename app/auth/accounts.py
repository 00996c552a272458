"""Users, their passwords and their API keys. Functions that take a session run in the caller's transaction."""

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

password_hasher = PasswordHash.recommended()  # argon2id
# Checking a password is expensive by design and open to anybody, so it runs at low priority, and calls that would have
# to wait for more than a few seconds are refused.
PASSWORDS = BoundedExecutor(
    "logins", threads=max(1, min(4, (os.cpu_count() or 1) // 2)), waiting=24, retry_after=3, low_priority=True
)


class AccountError(OperatorError):
    """An account or a key cannot be created or changed as requested; the message says why."""


class AccountDisabled(ForbiddenError):
    """The credentials are valid, but the account is disabled."""

    def __init__(self) -> None:
        super().__init__("This account is disabled. Ask the operator of this service to enable it again.")


class CannotDisable(ConflictError):
    """An admin would disable their own account, or the only user of a service whose authentication is off."""


class TooManyKeys(ConflictError):
    """A user already has the maximum number of API keys."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"A user can have at most {most} API keys (CUTOUT_MAX_API_KEYS). Revoke an unused key, then try again."
        )


def get_or_create_user(session: Session, claims: Claims) -> User:
    """Return the user of a token. Create a platform's user on first login; sync email and role from the token.

    Raises:
        InvalidToken: the local account no longer exists, or its password has changed.
        AccountDisabled: the account is disabled.

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
    """Return the user of a token, like `get_or_create_user`, in a separate transaction.

    The transaction is read-only if the stored user already matches the token.

    Raises:
        InvalidToken: the local account no longer exists, or its password has changed.
        AccountDisabled: the account is disabled.

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
    """Return the only user of a service whose authentication is off, who is an admin."""
    user = by_subject(session, LOCAL_ADMIN)
    return user or _add(session, User(subject=LOCAL_ADMIN, role=Role.ADMIN, balance=0))


def by_subject(session: Session, subject: str) -> User | None:
    """Find a user by a token's `sub`."""
    return session.scalars(select(User).where(User.subject == subject)).one_or_none()


def create_local(session: Session, email: str, password: str, role: Role = Role.USER) -> User:
    """Create a local account with a password.

    Raises:
        AccountError: the e-mail address is taken or invalid, or the password is too short.

    """
    subject = local_subject(email)
    if "@" not in email:
        raise AccountError(f"{email!r} is not an e-mail address.")
    _require_password(password)
    if by_subject(session, subject) is not None:
        raise AccountError(f"There is already an account for {email}.")
    user = User(
        subject=subject, email=email, role=role, password_hash=password_hasher.hash(password), balance=0
    )
    return _add(session, user)


def log_in(database: Database, email: str, password: str) -> User | None:
    """Return the account with this e-mail address if the password is correct, else None. Run it in `PASSWORDS`.

    Its database transaction ends before the password is checked. The check takes about 50 ms of CPU time and 64 MiB of
    memory, whatever its result.

    Raises:
        AccountDisabled: the password is correct, but the account is disabled.

    """
    with database.read() as session:
        user = by_subject(session, local_subject(email))
    # If there is no such account, check the password against a dummy hash, so that the response time does not reveal
    # that. Compute the dummy hash in any case, so that the first responses of a process do not reveal it either.
    nobodys = unknown_users_hash()
    if user is None or user.password_hash is None:
        password_hasher.verify(password, nobodys)
        return None
    return _require_enabled(user) if password_hasher.verify(password, user.password_hash) else None


def set_password(session: Session, user: User, password: str) -> None:
    """Set a new password for a local account. Logins with the old password end.

    Raises:
        AccountError: the user has no local password, or the new one is too short.

    """
    if not user.subject.startswith(LOCAL) or user.subject == LOCAL_ADMIN:
        raise AccountError(
            f"{user.subject} has no local password: this user logs in on the platform in front."
        )
    _require_password(password)
    user.password_hash = password_hasher.hash(password)


def disable(session: Session, user: User) -> None:
    """Disable an account. The user's keys, tokens, logins and signed URLs stop working until it is enabled again.

    Raises:
        AccountError: it is the only user of a service whose authentication is off.

    """
    require_not_local_admin(user)
    user.disabled_at = user.disabled_at or now()


def enable(session: Session, user: User) -> None:
    """Enable an account again. Tokens and signed URLs issued earlier work again until they expire.

    Raises:
        AccountError: the user was deleted.

    """
    if user.deleted_at is not None:
        raise AccountError("This user was deleted. Create a new account with: cutout users add")
    user.disabled_at = None


def disable_other(session: Session, user_id: uuid.UUID, admin: User) -> User | None:
    """Disable an account on behalf of an admin, like `disable`. Return None if there is no such user.

    Raises:
        CannotDisable: it is the admin's own account, or the only user of a service whose authentication is off.

    """
    user = _present(session, user_id)
    if user is None:
        return None
    if user.id == admin.id and user.subject != LOCAL_ADMIN:
        raise CannotDisable("You cannot disable your own account. Ask another admin to do it.")
    try:
        disable(session, user)
    except AccountError as error:
        raise CannotDisable(str(error)) from error
    return user


def enable_again(session: Session, user_id: uuid.UUID) -> User | None:
    """Enable an account, like `enable`. Return None if there is no such user."""
    user = _present(session, user_id)
    if user is not None:
        enable(session, user)
    return user


def require_not_local_admin(user: User) -> None:
    """Raise AccountError for the only user of a service whose authentication is off: they need no credentials."""
    if user.subject == LOCAL_ADMIN:
        raise AccountError(
            f"{LOCAL_ADMIN} stands for everyone on this machine while CUTOUT_AUTH=off. Set CUTOUT_AUTH=on."
        )


def require_enabled(session: Session, user_id: uuid.UUID) -> None:
    """Check that a user's account is not disabled. A user who does not exist passes.

    Raises:
        AccountDisabled: the account is disabled.

    """
    user = session.get(User, user_id)
    if user is not None:
        _require_enabled(user)


def matching(session: Session, who: str) -> Sequence[User]:
    """Return the users that match `who` by id, `sub` or e-mail address (case-insensitive), except deleted users."""
    names = [User.subject.in_((who, local_subject(who))), func.lower(User.email) == who.strip().lower()]
    with suppress(ValueError):
        names.append(User.id == uuid.UUID(who))
    there = select(User).where(User.deleted_at.is_(None), or_(*names))
    return session.scalars(there.order_by(User.created_at, User.id)).all()


@cache
def unknown_users_hash() -> str:
    return password_hasher.hash("nobody's password")


def local_subject(email: str) -> str:
    """Return the subject (`sub`) of the local account with this e-mail address."""
    return LOCAL + email.strip().lower()


def create_key(session: Session, user: User, name: str, most: int | None = None) -> tuple[str, ApiKey]:
    """Create an API key for a user who may have at most `most`. Return the key, to be shown once, and its row.

    Raises:
        TooManyKeys: the user already has the maximum number of keys.

    """
    # Lock the user's row, so that concurrent transactions cannot exceed the maximum.
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
    """Return the user to whom an API key belongs; raises as `find_key` does."""
    return find_key(session, key)[1]


def find_key(session: Session, key: str) -> tuple[ApiKey, User]:
    """Return the row of an API key, and the user to whom it belongs.

    Raises:
        InvalidToken: the key is unknown, malformed or revoked.
        AccountDisabled: the account is disabled.

    """
    found = session.execute(
        select(ApiKey, User).join(User, User.id == ApiKey.user_id).where(ApiKey.sha256 == api_key_sha256(key))
    ).one_or_none()
    message = "This API key is unknown or was revoked. Create a new one."
    if found is None:
        raise InvalidToken(message, f"API key {key[:KEY_SHOWN]}…: unknown")
    row, user = found
    if row.revoked_at is not None:
        raise InvalidToken(message, f"API key {row.id} of user {row.user_id}: revoked")
    return row, _require_enabled(user)


def keys(session: Session, user: User) -> Sequence[ApiKey]:
    """Return a user's API keys, including revoked ones, newest first."""
    rows = select(ApiKey).where(ApiKey.user_id == user.id).order_by(ApiKey.created_at.desc(), ApiKey.id)
    return session.scalars(rows).all()


def revoke_key(session: Session, user: User, key_id: uuid.UUID) -> bool:
    """Revoke a user's API key. Return False if the user has no key with this id."""
    row = session.get(ApiKey, key_id)
    if row is None or row.user_id != user.id:
        return False
    row.revoked_at = row.revoked_at or now()
    return True


def _present(session: Session, user_id: uuid.UUID) -> User | None:
    """Return a user, or None if they do not exist or were deleted."""
    user = session.get(User, user_id)
    return user if user is not None and user.deleted_at is None else None


def _require_login(user: User | None, claims: Claims) -> User:
    gone = "This account no longer exists. Sign in again."
    if user is None or user.password_hash is None:
        raise InvalidToken(gone, f"token: no account {claims.subject}")
    _require_enabled(user)
    if claims.password_mark != password_mark(user.password_hash):
        raise InvalidToken(
            "The password has changed since this login. Sign in again.",
            f"token: the password of user {user.id} has changed since",
        )
    return user


def _require_enabled(user: User) -> User:
    if user.disabled_at is not None:
        raise AccountDisabled
    return user


def _require_password(password: str) -> None:
    if len(password) < SHORTEST_PASSWORD:
        raise AccountError(f"The password is too short; use at least {SHORTEST_PASSWORD} characters.")


def _forget_revoked_keys(session: Session, user: User) -> None:
    """Keep a user's latest `REVOKED_KEYS_LISTED` revoked keys only, so that they cannot fill the table."""
    revoked = select(ApiKey.id).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_not(None))
    oldest = revoked.order_by(ApiKey.revoked_at.desc()).offset(REVOKED_KEYS_LISTED)
    for key_id in session.scalars(oldest).all():
        session.execute(delete(ApiKey).where(ApiKey.id == key_id))


def _add(session: Session, user: User) -> User:
    """Add a user, or return the one that another transaction has added in the meantime."""
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        return session.scalars(select(User).where(User.subject == user.subject)).one()
    return user
