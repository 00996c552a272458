"""Settings of the storage of results."""

from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from cutout.app.config import url_checks
from cutout.app.config.base import SettingsGroup, environment_name


class StorageSettings(SettingsGroup):
    """Settings of the storage of results."""

    title: ClassVar[str] = "Storage of results"

    data_dir: Path = Field(
        Path("var"),
        description="the folder of results, and of the database and the queue where none is set; only the "
        "service's user can read it",
    )
    result_days: int = Field(7, ge=1, description="days that results are kept")
    keep_photos: bool = Field(
        True,
        description="keep each photo and the network's mask of it as long as its result, so that the result can be"
        " refined; `off`: photos are deleted when their result is made, and `/jobs/{jobId}/refine` answers 409",
    )
    storage_check_seconds: float = Field(
        30,
        gt=0,
        description="how often a small file is written, read and deleted in the storage of results; `/api/health`"
        " is 503 while that fails",
    )
    stores: Path | None = Field(
        None,
        description="a TOML file of the buckets in which users may have their results stored by `storeUrl`, with the"
        " key of each: [stores](stores.md); default: `s3://…` is refused, signed addresses are not",
    )
    s3_bucket: str | None = Field(
        None,
        validation_alias="S3_BUCKET",
        description="the S3 bucket for results; default: files in `CUTOUT_DATA_DIR`",
    )
    s3_prefix: str = Field(
        "",
        validation_alias="S3_PREFIX",
        description="the prefix of all names in the bucket, such as `cutout/`",
    )
    s3_endpoint: str | None = Field(
        None,
        validation_alias="S3_ENDPOINT",
        description="`https://…` of a server that speaks S3; default: Amazon's",
    )
    s3_region: str | None = Field(
        None,
        validation_alias="S3_REGION",
        description="the region of the bucket; default: `AWS_REGION`, or us-east-1",
    )
    s3_access_key_id: str | None = Field(
        None,
        validation_alias="S3_ACCESS_KEY_ID",
        description="default: the credentials of the host, as AWS tools find them",
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, validation_alias="S3_SECRET_ACCESS_KEY", description="goes with `S3_ACCESS_KEY_ID`"
    )

    @property
    def kept(self) -> timedelta:
        """How long results are kept."""
        return timedelta(days=self.result_days)

    @field_validator("s3_endpoint")
    @classmethod
    def _check_s3_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url_checks.read_web_address(value, what_instead="set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY")
        return value

    @model_validator(mode="after")
    def _check_s3(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together; set both or neither")
        alone = [
            environment_name(StorageSettings, name)
            for name in sorted(self.model_fields_set)
            if name.startswith("s3_")
        ]
        if alone and self.s3_bucket is None:
            raise ValueError(f"{alone[0]} is set and S3_BUCKET is not, so results would stay on this host")
        return self
