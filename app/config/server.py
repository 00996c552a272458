"""Settings of the server: addresses, logs, and limits on requests."""

import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import CommaSeparated, Secret, SettingsGroup

# The first steps of the paths of pages and calls: a prefix that begins with one could not be told from them.
OWN_PATHS = ("api", "docs", "metrics", "openapi.json", "static", "v1", "v1.0")
STEP = re.compile("[A-Za-z0-9._~-]+")


class ServerSettings(SettingsGroup):
    """Settings of the server: addresses, logs, and limits on requests."""

    title: ClassVar[str] = "Server"

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="the port to listen on")
    public_url: str | None = Field(
        None,
        description="`https://…` where users reach this service, for links in mail and webhooks; with a path if a proxy "
        "serves it [below one](deployment.md#below-a-path), as in `https://shop.example/cutout`; default: links without "
        "a host",
    )
    cors_origins: CommaSeparated[str] = Field(
        (),
        description="origins, comma-separated, such as `https://shop.example`, whose [web "
        "pages](api.md#in-a-browser) may call the API; default: none. With `CUTOUT_AUTH=off` none "
        "may",
    )
    trusted_proxies: CommaSeparated[IPvAnyNetwork] = Field(
        (),
        description="addresses or networks, comma-separated, such as `10.0.0.0/8`, of proxies whose "
        "`X-Forwarded-For` and `X-Forwarded-Proto` are believed; default: none, and all callers "
        "behind a proxy count as one",
    )
    max_upload_mb: int = Field(30, ge=1, description="the largest upload, in MB")
    max_batch_mb: int = Field(2000, ge=1, description="the largest batch, all its photos together, in MB")
    upload_seconds: float = Field(
        120, gt=0, description="the longest time that sending an upload may take, before 408 `BODY_TOO_SLOW`"
    )
    uploads_at_once_mb: int = Field(
        1000,
        ge=1,
        description="the limit for all uploads being received or worked on, before 503 `OVERLOADED`; one upload "
        "always fits",
    )
    fetch_seconds: float = Field(
        20, gt=0, description="the longest time that fetching a photo from its `imageUrl` may take"
    )
    fetch_allow_networks: CommaSeparated[IPvAnyNetwork] = Field(
        (),
        description="private networks, comma-separated, such as `10.1.2.0/24`, that an `imageUrl`, a "
        "`webhookUrl` or a `storeUrl` may lead to. Any user can then call any port there, and learn which ones "
        "answer",
    )
    metrics_token: Secret | None = Field(
        None,
        description="a bearer token of 32 bytes or more with which `/metrics` may be read from other hosts",
    )
    worker_metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="a port at which `cutout worker` serves [its own `/metrics`](monitoring.md#workers): to its machine, "
        "and to others with `CUTOUT_METRICS_TOKEN`, without which it listens on a loopback address only; default: "
        "none. Workers that `cutout serve` starts need none: its `/metrics` contains theirs",
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="the format of log lines: `console` or `json`"
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = url_checks.read_web_address(value, what_instead="this URL is shown to users")
        if url.query is not None or url.fragment is not None:
            raise ValueError("write https://host, with a path if there is one, and nothing else")
        steps = urlsplit(value).path.rstrip("/").split("/")[1:]
        if not all(STEP.fullmatch(step) and step.strip(".") for step in steps):
            raise ValueError(
                "the path may have letters, digits and . _ ~ - between its slashes, as in https://host/cutout"
            )
        if steps and steps[0] in OWN_PATHS:
            raise ValueError(
                f"the path must not begin with /{steps[0]}, where the service has pages or calls of its own; choose"
                " another, as in https://host/cutout"
            )
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            url_checks.check_origin(origin)
        return value

    @property
    def path_prefix(self) -> str:
        """The path below which a proxy serves the service, without a slash at its end; empty if there is none."""
        return urlsplit(self.public_url or "").path

    @property
    def public_origin(self) -> str:
        """Scheme and host where users reach the service; empty if they are not set."""
        return (self.public_url or "").removesuffix(self.path_prefix)

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 1_000_000

    @property
    def max_batch_bytes(self) -> int:
        return self.max_batch_mb * 1_000_000

    @property
    def uploads_at_once_bytes(self) -> int:
        return self.uploads_at_once_mb * 1_000_000
