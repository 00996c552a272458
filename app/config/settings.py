"""All settings, read once from the environment and checked before anything starts."""

import difflib
import os
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from cutout.app.config import secret_key
from cutout.app.config.accounts import AccountSettings
from cutout.app.config.base import PREFIX, SettingsError, SettingsGroup, environment_name, is_loopback
from cutout.app.config.billing import BillingSettings
from cutout.app.config.compat import CompatSettings
from cutout.app.config.database import DatabaseSettings
from cutout.app.config.engine import EngineSettings
from cutout.app.config.huggingface import HuggingFaceSettings
from cutout.app.config.notification_mail import MailSettings
from cutout.app.config.queue import QueueSettings
from cutout.app.config.server import ServerSettings
from cutout.app.config.storage import StorageSettings

# The environment variable of `cutout verify`, which may be called where a service is set up.
VERIFY_KEY = "CUTOUT_VERIFY_KEY"
DATABASE_FILE = "cutout.db"


class Settings(
    ServerSettings,
    AccountSettings,
    DatabaseSettings,
    StorageSettings,
    QueueSettings,
    EngineSettings,
    HuggingFaceSettings,
    MailSettings,
    BillingSettings,
    CompatSettings,
):
    """The settings of a host. Checks here are about more than one group."""

    @model_validator(mode="after")
    def _check_huggingface(self) -> Self:
        if self.device == "huggingface" and self.hf_inference_token is None and self.hf_endpoint is None:
            raise ValueError(
                "CUTOUT_DEVICE=huggingface needs CUTOUT_HF_INFERENCE_TOKEN, a token with the permission to make calls to"
                " Inference Providers (HF_TOKEN only downloads weights), or your own CUTOUT_HF_ENDPOINT"
            )
        return self

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.jwt_secret is not None and self.jwks_url is not None:
            raise ValueError(
                "CUTOUT_JWT_SECRET and CUTOUT_JWKS_URL are two ways to check the same tokens; set only one"
            )
        if not self.embedded and self.auth == "on" and self.secret is None:
            raise ValueError(
                "DATABASE_URL is set, so several hosts may use it, and all need the same CUTOUT_SECRET; create it with:"
                " openssl rand -base64 48"
            )
        return self

    @model_validator(mode="after")
    def _check_auth_off(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                f"CUTOUT_AUTH=off makes everyone an admin and is only allowed on a loopback address, not on"
                f" {self.host}; set CUTOUT_HOST=127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _check_payments(self) -> Self:
        if self.payments == "off" and self.auth == "on":
            raise ValueError(
                "CUTOUT_PAYMENTS=off gives plans and credits to anyone who asks, and is only allowed with"
                " CUTOUT_AUTH=off; set manual or signed"
            )
        if self.payments == "signed" and self.payments_secret is None:
            raise ValueError(
                "CUTOUT_PAYMENTS=signed needs the CUTOUT_PAYMENTS_SECRET that the platform signs with; create it with:"
                " openssl rand -base64 48"
            )
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.api_engine == "queue" and self.redis_url is None and self.workers_here == 0:
            raise ValueError(
                "CUTOUT_API_ENGINE=queue leaves the photos to workers, but there is no queue for them; set REDIS_URL,"
                " or CUTOUT_WORKERS=1"
            )
        return self

    @property
    def payment_mode(self) -> Literal["off", "manual", "signed"]:
        return self.payments or ("off" if self.auth == "off" else "manual")

    @property
    def database(self) -> str:
        """The database's address, password included."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.expanduser() / DATABASE_FILE}"

    def secret_or_own(self) -> str:
        """Return the secret that is set, or the one this host keeps for itself."""
        return (
            self.secret.get_secret_value()
            if self.secret
            else secret_key.load_or_create(self.data_dir.expanduser())
        )


# In the order in which the documentation has them.
GROUPS = tuple(base for base in Settings.__bases__ if issubclass(base, SettingsGroup))


def load(**overrides: object) -> Settings:
    """Read the settings from the environment; `overrides` that are not None win.

    Raises:
        SettingsError: one is unknown, malformed or unsafe.

    """
    known = {environment_name(Settings, name) for name in Settings.model_fields}
    problems = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known | {VERIFY_KEY}:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of: {', '.join(sorted(known))}"
            problems.append(f"{name} is not a setting; {hint}")
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_say(problem) for problem in error.errors())) from None


def _say(problem: object) -> str:
    assert isinstance(problem, dict)
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = problem["loc"]
    if not where:
        return message
    field = str(where[0])
    names = {environment_name(Settings, name) for name in Settings.model_fields}
    name = field if field in names else PREFIX + field.upper()
    if field in Settings.model_fields:
        name = environment_name(Settings, field)
    return f"{name}: {message}"
