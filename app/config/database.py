"""The database."""

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import SettingsGroup

# The name that hosts have for it already.
DATABASE_URL = "DATABASE_URL"


class DatabaseSettings(SettingsGroup):
    """The database."""

    title: ClassVar[str] = "Database"

    database_url: SecretStr | None = Field(
        None,
        validation_alias=DATABASE_URL,
        description="`postgresql://…`; default: SQLite in `CUTOUT_DATA_DIR`. In a password, `@` is written as "
        "`%40`, and so on",
    )
    database_seconds: float = Field(
        10,
        ge=1,
        description="the longest time that PostgreSQL may take for an answer, before 503 `DATABASE_UNAVAILABLE`; "
        "migrations have no such limit",
    )

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url_checks.check_database(value.get_secret_value())
        return value

    @property
    def embedded(self) -> bool:
        """Whether the service keeps its own database, on this host alone."""
        return self.database_url is None
