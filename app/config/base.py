"""The base of all groups of settings, and the types of their values."""

import ipaddress
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cutout.app.core.errors import OperatorError

PREFIX = "CUTOUT_"
SHORTEST_SECRET_BYTES = 32


class SettingsError(OperatorError):
    """A setting is unknown, malformed or unsafe; one line for each."""


class SettingsGroup(BaseSettings):
    """Settings about one part of the service. A field's name, in capitals after `CUTOUT_`, is that of the environment."""

    title: ClassVar[str] = "Settings"

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out the sources that are not used, which would be asked for each setting."""
        return init_settings, env_settings


def environment_name(kind: type[SettingsGroup], field: str) -> str:
    """Return the environment variable of a setting."""
    alias = kind.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _check_length(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < SHORTEST_SECRET_BYTES:
        raise ValueError(
            f"a secret of fewer than {SHORTEST_SECRET_BYTES} bytes can be guessed; create one with:"
            " openssl rand -base64 48"
        )
    return value


Item = TypeVar("Item")
# A list in the environment, such as "a, b".
CommaSeparated = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split)]
# A secret that is too long to guess.
Secret = Annotated[SecretStr, AfterValidator(_check_length)]


def is_loopback(host: str) -> bool:
    """Tell whether an address or host name reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
