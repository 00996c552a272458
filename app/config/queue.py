"""The queue of batches and its workers."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import SettingsGroup

# The name that hosts have for it already.
REDIS_URL = "REDIS_URL"


class QueueSettings(SettingsGroup):
    """The queue of batches and its workers."""

    title: ClassVar[str] = "Queue and workers"

    redis_url: SecretStr | None = Field(
        None,
        validation_alias=REDIS_URL,
        description="`redis://…`, `rediss://…` or `unix://…` of a Redis or Valkey: the queue of batches, and the "
        "rate limits of all hosts together; default: `cutout serve` runs a queue of its own, and each"
        " host counts for itself",
    )
    workers: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] | None = Field(
        None,
        description="the number of workers that `cutout serve` starts, each with its own copy of the models; "
        "`auto`: one for each GPU, or for each MIG slice of one; "
        "default: 1, and 0 where `REDIS_URL` is set. Without either there is no queue, and no batch "
        "is accepted",
    )
    lease_seconds: float = Field(
        30,
        gt=0,
        description="how long a worker without a sign of life keeps its photos before others take them; and how "
        "long a photo counts as in work after its service has crashed",
    )
    api_engine: Literal["local", "queue"] | None = Field(
        None,
        description="what makes single photos: `local`, the service itself; `queue`, the workers, so that the "
        "service needs no device; default: `queue` where `cutout serve` starts workers on a GPU, which would hold the "
        "models twice otherwise, else `local`",
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url_checks.check_redis(value.get_secret_value())
        return value

    @property
    def workers_here(self) -> int:
        """How many workers the service starts beside itself; 1 for `auto`, where it is at least 1."""
        if self.workers == "auto":
            return 1
        if self.workers is not None:
            return self.workers
        return 1 if self.redis_url is None else 0
