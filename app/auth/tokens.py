"""Credentials of callers: API keys, tokens of an external platform, and tokens of this service's own login.

An API key consists of `cutout_`, 40 random letters and digits, and a checksum of six characters, like GitHub's tokens.
The prefix lets secret scanners find leaked keys, and the checksum reveals mistyped keys without a database query.
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
# Accepted algorithms of a platform's tokens: with a shared secret, or with published keys. Never accept "none".
SECRET_ALGORITHMS = ["HS256"]
PUBLISHED_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "EdDSA"]
OWN_ISSUER = "cutout"
REQUIRED: Options = {"require": ["exp", "sub"]}
# Prefix of the subjects of local accounts.
LOCAL = "local:"
LOGIN_LASTS = timedelta(hours=12)
# One thread fetches the platform's keys; the others wait for it.
FETCHING = BoundedExecutor("published keys", threads=4, waiting=60, retry_after=10)
# Tolerated clock difference to the machine that issued a token.
LEEWAY = timedelta(seconds=30)


class InvalidToken(UnauthenticatedError):
    """A token or key is invalid. The message tells the client what to do; `reason` is only logged."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message, reason=reason or message)


@dataclass(frozen=True)
class Claims:
    """The verified claims of a token. Tokens of local accounts carry no email or role, but a mark of the password that
    was used for the login.
    """

    subject: str
    email: str | None = None
    role: Role = Role.USER
    password_mark: str | None = None

    @property
    def local(self) -> bool:
        return self.subject.startswith(LOCAL)


def password_mark(password_hash: str) -> str:
    """Return the mark of an account's password that login tokens contain; changing the password invalidates the tokens.

    The password hash has a random salt, so the mark also changes when the same password is set again or the account is
    created again. It reveals nothing about the password or its hash.
    """
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def new_api_key() -> str:
    """Generate an API key. It is shown once, and only its hash is stored."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(KEY_RANDOM))
    return f"{KEY_PREFIX}{body}{_checksum(body)}"


def require_api_key(key: str) -> None:
    """Check the format and checksum of an API key.

    Raises:
        InvalidToken: the key is malformed, for example mistyped or truncated.

    """
    api_key_sha256(key)


def api_key_sha256(key: str) -> str:
    """Return the SHA-256 hash of an API key, which is what the database stores.

    Raises:
        InvalidToken: the key is malformed, for example mistyped or truncated.

    """
    body, checksum = key.removeprefix(KEY_PREFIX)[:KEY_RANDOM], key[len(KEY_PREFIX) + KEY_RANDOM :]
    if not key.startswith(KEY_PREFIX) or not hmac.compare_digest(_checksum(body).encode(), checksum.encode()):
        raise InvalidToken(
            "This is not an API key, or it was mistyped. Copy the whole key, starting with cutout_."
        )
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    rest = zlib.crc32(body.encode())
    digits = []
    for _ in range(KEY_CHECKSUM):
        rest, digit = divmod(rest, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _can_be_kept(text: str) -> bool:
    """Return whether a database can store a text: JSON text may also contain NUL and lone surrogates."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _kid(token: str) -> str | None:
    """Return the unverified key id (`kid`) of a token, or None if it has none."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError:
        return None
    return kid if isinstance(kid, str) else None


class TokenReader:
    """Verifies bearer tokens: those of this service's login, and those of an external platform.

    A platform's tokens are verified with a shared secret or with its published keys.
    """

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
        """Create a login token for a local account. Return the token and its lifetime in seconds."""
        claims = {
            "iss": OWN_ISSUER,
            "sub": subject,
            "pwd": password_mark(password_hash),
            "exp": datetime.now(UTC) + LOGIN_LASTS,
        }
        token = jwt.encode(claims, self._own_secret, "HS256", headers={"kid": OWN_ISSUER})
        return token, round(LOGIN_LASTS.total_seconds())

    async def read_aside(self, token: str) -> Claims:
        """Verify a token like `read`, in a thread if keys may have to be fetched.

        Raises:
            InvalidToken: as in `read`.
            Overloaded: too many calls are waiting for keys.

        """
        if self._published is None or self._published.is_at_hand(_kid(token)) or _kid(token) == OWN_ISSUER:
            return self.read(token)
        return await FETCHING.run(self.read, token)

    def read(self, token: str) -> Claims:
        """Verify a token and return its claims. This may fetch published keys, which takes a while.

        Raises:
            InvalidToken: the token is expired, forged, for another audience, or uses an algorithm that is not accepted.

        """
        try:
            own = jwt.get_unverified_header(token).get("kid") == OWN_ISSUER
            claims = self._decode_own(token) if own else self._decode_platforms(token)
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired. Sign in again.") from None
        except jwt.PyJWKClientConnectionError as error:
            raise InvalidToken(
                "The keys for verifying tokens cannot be fetched. Try again.", f"token: {error}"
            ) from None
        except jwt.PyJWTError as error:
            reason = f"token: {type(error).__name__}: {error}"
            raise InvalidToken("The token is not valid for this service. Sign in again.", reason) from None
        subject, email, role = claims.get("sub"), claims.get("email"), claims.get("role")
        if not isinstance(subject, str) or not 0 < len(subject) <= 200 or not _can_be_kept(subject):
            raise InvalidToken("The token does not name a user (sub). Sign in again.")
        if own != subject.startswith(LOCAL):
            raise InvalidToken(
                f"The sub of a platform's user cannot start with {LOCAL}, which marks local accounts."
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
        raise jwt.InvalidTokenError("this service accepts no platform's tokens")
