"""Users, their passwords and their API keys. What takes a session works in a transaction of the caller's."""

import uuid
from collections.abc import Sequence
from functools import cache

from pwdlib import PasswordHash
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.codes import Explained
from app.db.session import Database
from app.db.tables import ApiKey, Role, User, now
from app.services import credits
from app.services.tokens import KEY_SHOWN, LOCAL, Claims, InvalidToken, api_key_sha256, new_api_key

SHORTEST_PASSWORD = 10
LOCAL_ADMIN, LOCAL_ADMIN_CREDITS = "local:admin", 1_000_000

_passwords = PasswordHash.recommended()  # argon2id


class AccountError(Explained):
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


def identify(database: Database, claims: Claims) -> User:
    """Do what `seen` does, in a transaction of its own: one that only reads, where the user is as the token says.

    Raises:
        InvalidToken: an account kept here is gone.

    """
    with database.read() as session:
        user = by_subject(session, claims.subject)
    if user is not None and (
        claims.local or (user.role, claims.email or user.email) == (claims.role, user.email)
    ):
        return user
    with database.begin() as session:
        return seen(session, claims)


def local_admin(database: Database) -> User:
    """Return the one user of a service without accounts: an admin, with credits to play with."""
    with database.begin() as session:
        user = by_subject(session, LOCAL_ADMIN)
        if user is None:
            user = _add(session, User(subject=LOCAL_ADMIN, role=Role.ADMIN, balance=0))
        credits.grant(session, user.id, LOCAL_ADMIN_CREDITS, "grant:local-admin", "for this machine")
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


def log_in(database: Database, email: str, password: str) -> str | None:
    """Return the subject of the account with this address, if the password is its own.

    In a transaction of its own, over before the password is checked: that takes some 50 ms, whatever the answer.
    """
    with database.read() as session:
        user = by_subject(session, local_subject(email))
    if user is None or user.password_hash is None:
        # The time of an answer does not tell whether there is such an account.
        _passwords.verify(password, _nobodys())
        return None
    return user.subject if _passwords.verify(password, user.password_hash) else None


@cache
def _nobodys() -> str:
    return _passwords.hash("nobody's password")


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
