"""Users, their passwords and their API keys. All of it works in a transaction of the caller's."""

import uuid
from collections.abc import Sequence

from pwdlib import PasswordHash
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.tables import ApiKey, Role, User, now
from app.services.tokens import KEY_SHOWN, LOCAL, Claims, InvalidToken, api_key_sha256, new_api_key

SHORTEST_PASSWORD = 10

_passwords = PasswordHash.recommended()  # argon2id
# Checked where there is no such account, so that the time of an answer does not tell whether there is one.
_NOBODYS = _passwords.hash("nobody's password")


class AccountError(Exception):
    """An account or a key cannot be made as asked; the message says why."""


def seen(session: Session, claims: Claims) -> User:
    """Return the user whom a token speaks for: made at first sight, and kept as the last token says.

    Raises:
        InvalidToken: an account kept here is gone.

    """
    user = by_subject(session, claims.subject)
    if claims.local:
        if user is None:
            raise InvalidToken("There is no such account any more. Sign in again.")
        return user
    if user is None:
        user = _add(session, User(subject=claims.subject, email=claims.email, role=claims.role, balance=0))
    if claims.email is not None:
        user.email = claims.email
    user.role = claims.role
    return user


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
    if len(password) < SHORTEST_PASSWORD:
        raise AccountError(f"The password is too short; take {SHORTEST_PASSWORD} characters or more.")
    if by_subject(session, subject) is not None:
        raise AccountError(f"There is an account for {email} already.")
    user = User(subject=subject, email=email, role=role, password_hash=_passwords.hash(password), balance=0)
    return _add(session, user)


def with_password(session: Session, email: str, password: str) -> User | None:
    """Return the account with this address if the password is its own. Takes some 50 ms, whatever the answer."""
    user = by_subject(session, local_subject(email))
    known = user.password_hash if user is not None and user.password_hash else _NOBODYS
    right = _passwords.verify(password, known)
    return user if right and known is not _NOBODYS else None


def local_subject(email: str) -> str:
    """Name an account kept here, as tokens do."""
    return LOCAL + email.strip().lower()


def create_key(session: Session, user: User, name: str) -> tuple[str, ApiKey]:
    """Make an API key for a user: the key itself, to be shown once, and its row."""
    key = new_api_key()
    row = ApiKey(user_id=user.id, name=name[:100], shown=key[:KEY_SHOWN], sha256=api_key_sha256(key))
    session.add(row)
    session.flush()
    return key, row


def by_key(session: Session, key: str) -> User:
    """Return the user whom an API key belongs to.

    Raises:
        InvalidToken: it is none, or revoked.

    """
    found = session.execute(
        select(ApiKey, User).join(User, User.id == ApiKey.user_id).where(ApiKey.sha256 == api_key_sha256(key))
    ).one_or_none()
    if found is None or found[0].revoked_at is not None:
        raise InvalidToken("This API key is not known here, or was revoked. Make a new one.")
    user: User = found[1]
    return user


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


def _add(session: Session, user: User) -> User:
    """Add a user, or return the one whom another transaction has added meanwhile."""
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        return session.scalars(select(User).where(User.subject == user.subject)).one()
    return user
