"""Logins with what people type: a password or an API key, each at a limited rate."""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field

import structlog

from cutout.app.auth import accounts
from cutout.app.auth.tokens import require_api_key
from cutout.app.core.errors import UnauthenticatedError
from cutout.app.db.session import Database
from cutout.app.db.tables import ApiKey, User
from cutout.app.ratelimit.limits import Kind, RateLimited, RateLimits

log = structlog.get_logger()


@dataclass(frozen=True)
class Logins:
    """Logins from one client; `client` is the key for counting its calls.

    `has_odd_proxy` says that the client claims to be forwarded by a proxy that is not trusted.
    """

    database: Database
    rate_limits: RateLimits
    secret: str = field(repr=False)
    client: str
    has_odd_proxy: bool

    async def with_password(self, email: str, password: str) -> User:
        """Return the local account with this e-mail address and password.

        Raises:
            RateLimited: there were too many logins, or too many wrong passwords for this account.
            UnauthenticatedError: there is no such account, or the password is wrong.
            AccountDisabled: the password is correct, but the account is disabled.
            Overloaded: too many logins are waiting.

        """
        account = hashlib.sha256(accounts.local_subject(email).encode()).hexdigest()
        await self.rate_limits.check(Kind.LOGIN, account)
        await self._take()
        user = await accounts.PASSWORDS.run(accounts.log_in, self.database, email, password)
        if user is None:
            await self.rate_limits.take(Kind.LOGIN, account)
            # People type passwords into the wrong field, so what was typed is not logged.
            raise UnauthenticatedError(
                "The e-mail address or the password is wrong.",
                reason="login: no such account, or a wrong password",
            )
        # Check again: of many passwords tried at once, the right one must not pass after too many wrong ones.
        await self.rate_limits.check(Kind.LOGIN, account)
        structlog.contextvars.bind_contextvars(user=str(user.id))
        return user

    async def with_key(self, key: str) -> tuple[ApiKey, User]:
        """Return the row of an API key, and the user to whom it belongs.

        Raises:
            RateLimited: there were too many logins.
            InvalidToken: the key is unknown, malformed or revoked.
            AccountDisabled: the account is disabled.

        """
        require_api_key(key)
        await self._take()
        row, user = await asyncio.to_thread(self.database.run_read_only, accounts.find_key, key)
        structlog.contextvars.bind_contextvars(user=str(user.id))
        return row, user

    async def _take(self) -> None:
        # A login refused for its client address does not count towards the limit for all addresses.
        try:
            await self.rate_limits.take(Kind.LOGIN_ADDRESS, self._hidden_client())
        except RateLimited:
            if self.has_odd_proxy:
                # Either a client forged the header, or the service is behind a proxy and all its clients count as one.
                log.warning("logins refused; if the client is your proxy, add it to CUTOUT_TRUSTED_PROXIES")
            raise
        await self.rate_limits.take(Kind.LOGIN_ALL, "all")

    def _hidden_client(self) -> str:
        """Return a keyed hash of the client's address, so that the address itself is not stored in Redis."""
        return hmac.new(self.secret.encode(), self.client.encode(), hashlib.sha256).hexdigest()
