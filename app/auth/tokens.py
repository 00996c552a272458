"""What callers prove themselves with: API keys, tokens of the platform in front, tokens of our own login.

An API key is `cutout_`, 40 random letters and digits, and a checksum of six: so it is found where it was leaked, and one
that was mistyped is told apart without a look into the database (after GitHub's tokens).
"""

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from jwt.types import Options

from cutout.app.auth.jwks import PublishedKeys
from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.core.errors import UnauthenticatedError
from cutout.app.db.tables import Role

KEY_PREFIX = "cutout_"
KEY_RANDOM, KEY_CHECKSUM = 40, 6
KEY_SHOWN = len(KEY_PREFIX) + 4
ALPHABET = string.digits + string.ascii_letters
# Of a platform's tokens: a shared secret's, or those of its published keys. "none" is no algorithm.
SECRET_ALGORITHMS = ["HS256"]
PUBLISHED_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "EdDSA"]
OWN_ISSUER = "cutout"
REQUIRED: Options = {"require": ["exp", "sub"]}
# What the subjects of accounts kept here begin with.
LOCAL = "local:"
LOGIN_LASTS = timedelta(hours=12)
# One thread fetches the platform's keys, others wait for it.
FETCHING = BoundedExecutor("published keys", threads=4, waiting=60, retry_after=10)
# What another machine's clock may be off.
LEEWAY = timedelta(seconds=30)


class InvalidToken(UnauthenticatedError):
    """A token or key proves nothing; the message says what to do. `reason` is for the operator alone."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message, reason=reason or message)


@dataclass(frozen=True)
class Claims:
    """Who a token speaks for. Of a `local` account, one kept here, it says no more than the name, and by which password
    they logged in.
    """

    subject: str
    email: str | None = None
    role: Role = Role.USER
    password_mark: str | None = None

    @property
    def local(self) -> bool:
        return self.subject.startswith(LOCAL)


def password_mark(password_hash: str) -> str:
    """Return what a login's token has of the account's password: with another password, that token ends.

    The hash has a random salt, so the mark is another also where the same password is set again, or the account is made
    again. It tells nothing of either.
    """
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def new_api_key() -> str:
    """Make an API key; it is shown once, and only its hash is kept."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(KEY_RANDOM))
    return f"{KEY_PREFIX}{body}{_checksum(body)}"


def require_api_key(key: str) -> None:
    """Return if this may be an API key.

    Raises:
        InvalidToken: it is none: mistyped, or cut off.

    """
    api_key_sha256(key)


def api_key_sha256(key: str) -> str:
    """Return what of an API key is kept.

    Raises:
        InvalidToken: it is none: mistyped, or cut off.

    """
    body, checksum = key.removeprefix(KEY_PREFIX)[:KEY_RANDOM], key[len(KEY_PREFIX) + KEY_RANDOM :]
    if not key.startswith(KEY_PREFIX) or not hmac.compare_digest(_checksum(body).encode(), checksum.encode()):
        raise InvalidToken("This is no API key, or it was mistyped. Copy it whole, from cutout_ on.")
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    rest = zlib.crc32(body.encode())
    digits = []
    for _ in range(KEY_CHECKSUM):
        rest, digit = divmod(rest, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _can_be_kept(text: str) -> bool:
    """Tell whether a database takes a text: JSON can also have NUL and halves of characters."""
    return not any(render_email == "\0" or "\ud800" <= render_email <= "\udfff" for render_email in text)


def _kid(token: str) -> str | None:
    """Return which key a token says it is signed with; None where it says nothing."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError:
        return None
    return kid if isinstance(kid, str) else None


class TokenReader:
    """Checks bearer tokens: our own login's, and those of the platform in front, by a shared secret or published keys."""

    def __init__(
        self,
        own_secret: str,
        *,
        secret: str | None = None,
        jwks_url: str | None = None,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        self._own_secret = own_secret
        self._secret = secret
        self._published = PublishedKeys(jwks_url) if jwks_url else None
        self._audience = audience
        self._issuer = issuer

    def sign_login(self, subject: str, password_hash: str) -> tuple[str, int]:
        """Make a token of our own for an account kept here; the token and the seconds that it lasts."""
        claims = {
            "iss": OWN_ISSUER,
            "sub": subject,
            "pwd": password_mark(password_hash),
            "exp": datetime.now(UTC) + LOGIN_LASTS,
        }
        token = jwt.encode(claims, self._own_secret, "HS256", headers={"kid": OWN_ISSUER})
        return token, round(LOGIN_LASTS.total_seconds())

    async def read_aside(self, token: str) -> Claims:
        """Do what `read` does: at once, or in a thread where keys have to be fetched.

        Raises:
            InvalidToken: as `read`.
            Overloaded: too many wait for keys.

        """
        if self._published is None or self._published.is_at_hand(_kid(token)) or _kid(token) == OWN_ISSUER:
            return self.read(token)
        return await FETCHING.run(self.read, token)

    def read(self, token: str) -> Claims:
        """Check a token and say who it speaks for. It may fetch published keys, and take a while.

        Raises:
            InvalidToken: it is expired, forged, for somebody else, or of an algorithm that is not taken.

        """
        try:
            own = jwt.get_unverified_header(token).get("kid") == OWN_ISSUER
            claims = self._decode_own(token) if own else self._decode_platforms(token)
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired. Sign in again.") from None
        except jwt.PyJWKClientConnectionError as error:
            raise InvalidToken(
                "The keys that tokens are checked with cannot be fetched. Try again.", f"token: {error}"
            ) from None
        except jwt.PyJWTError as error:
            reason = f"token: {type(error).__name__}: {error}"
            raise InvalidToken("The token is not valid here. Sign in again.", reason) from None
        subject, email, role = claims.get("sub"), claims.get("email"), claims.get("role")
        if not isinstance(subject, str) or not 0 < len(subject) <= 200 or not _can_be_kept(subject):
            raise InvalidToken("The token names no user (sub). Sign in again.")
        if own != subject.startswith(LOCAL):
            raise InvalidToken(
                f"A platform's user cannot be named {LOCAL}…: these are the accounts kept here."
            )
        return Claims(
            subject=subject,
            email=email if isinstance(email, str) and len(email) <= 320 and _can_be_kept(email) else None,
            role=Role.ADMIN if role == Role.ADMIN.value else Role.USER,
            password_mark=str(claims.get("pwd")) if own else None,
        )

    def _decode_own(self, token: str) -> dict[str, Any]:
        return jwt.decode(token, self._own_secret, ["HS256"], issuer=OWN_ISSUER, options=REQUIRED)

    def _decode_platforms(self, token: str) -> dict[str, Any]:
        expected: dict[str, Any] = {
            "audience": self._audience,
            "issuer": self._issuer,
            "leeway": LEEWAY,
            "options": REQUIRED,
        }
        if self._secret is not None:
            return jwt.decode(token, self._secret, SECRET_ALGORITHMS, **expected)
        if self._published is not None:
            key = self._published.find(_kid(token))
            return jwt.decode(token, key, PUBLISHED_ALGORITHMS, **expected)
        raise jwt.InvalidTokenError("no platform's tokens are taken here")
