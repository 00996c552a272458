"""Settings of accounts, authentication and rate limits."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import Secret, SettingsGroup


class AccountSettings(SettingsGroup):
    """Settings of accounts, authentication and rate limits."""

    title: ClassVar[str] = "Accounts and rate limits"

    auth: Literal["on", "off"] = Field(
        "on",
        description="`off`: no accounts, everyone on this machine is admin; allowed on a loopback address only",
    )
    secret: Secret | None = Field(
        None,
        description="signs logins and addresses, 32 bytes or more; default without `DATABASE_URL`: made at the "
        "first start",
    )
    jwt_secret: Secret | None = Field(
        None,
        description="the secret with which the platform in front signs its users' tokens (HS256), 32 bytes or "
        "more",
    )
    jwks_url: str | None = Field(
        None, description="the URL where the platform in front publishes the keys of its users' tokens"
    )
    jwt_audience: str | None = Field(None, description="the `aud` that the platform's tokens must have")
    jwt_issuer: str | None = Field(None, description="the `iss` that the platform's tokens must have")
    max_api_keys: int = Field(
        20,
        ge=1,
        description="API keys that one user may have, without the revoked ones, before 409 `CONFLICT`",
    )
    remove_per_minute: int = Field(
        30,
        ge=0,
        description="removals of one user before 429 `RATE_LIMITED`; 0: no limit, as with all of these",
    )
    refine_per_minute: int = Field(
        120,
        ge=0,
        description="refinements of results, and views of them, by one user before 429 `RATE_LIMITED`",
    )
    batch_per_hour: int = Field(5, ge=0, description="accepted batches of one user before 429 `RATE_LIMITED`")
    batch_attempts_per_hour: int = Field(
        60,
        ge=0,
        description="batches that one user tries to submit, accepted or not, before 429 `RATE_LIMITED`",
    )
    reads_per_minute: int = Field(
        120, ge=0, description="all other calls of one user before 429 `RATE_LIMITED`"
    )
    login_per_minute: int = Field(
        20,
        ge=0,
        description="login attempts from one client address (of IPv6: from one /64 network) before 429 "
        "`RATE_LIMITED`",
    )
    all_logins_per_minute: int = Field(
        300, ge=0, description="login attempts from all addresses together before 429 `RATE_LIMITED`"
    )

    @field_validator("jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str | None) -> str | None:
        if value is not None:
            url_checks.read_web_address(value, what_instead="published keys need none")
        return value
