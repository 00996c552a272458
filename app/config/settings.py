"""Every setting, read once from the environment (`CUTOUT_…`) and checked before anything starts."""

import difflib
import ipaddress
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cutout.app.config import mail, secret_key, url_checks
from cutout.app.core.errors import OperatorError
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.inference.limits import Limits, SizeLimits
from cutout.inference.tiers import Tier
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import CHECKPOINTS

PREFIX = "CUTOUT_"
# The names that hosts have for them already.
DATABASE_URL, REDIS_URL = "DATABASE_URL", "REDIS_URL"
# Of `cutout verify`, which may be called where a service is set up.
VERIFY_KEY = "CUTOUT_VERIFY_KEY"
DATABASE_FILE = "cutout.db"
SHORTEST_SECRET_BYTES = 32


class SettingsError(OperatorError):
    """A setting is unknown, malformed or unsafe; one line a setting."""


class Settings(BaseSettings):
    """What a host may set. The names here, in capitals behind `CUTOUT_`, are those of the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    auth: Literal["on", "off"] = Field(
        "on", description="`off`: no accounts, everyone on this machine is admin; only on a loopback address"
    )
    secret: SecretStr | None = Field(
        None,
        description="signs logins, 32 bytes or more; default, without `DATABASE_URL`: made at first start",
    )
    jwt_secret: SecretStr | None = Field(
        None,
        description="of the platform in front, which signs its users' tokens with it (HS256), 32 bytes or more",
    )
    jwks_url: str | None = Field(
        None, description="of the platform in front: where it publishes the keys of its users' tokens"
    )
    jwt_audience: str | None = Field(None, description="which `aud` the platform's tokens must have")
    jwt_issuer: str | None = Field(None, description="which `iss` the platform's tokens must have")
    database_url: SecretStr | None = Field(
        None,
        validation_alias=DATABASE_URL,
        description="`postgresql://…`; default: SQLite in `CUTOUT_DATA_DIR`",
    )
    database_seconds: float = Field(
        10,
        ge=1,
        description="longest that PostgreSQL may take for an answer, before 503 `DATABASE_UNAVAILABLE`; migrations have no"
        " such limit",
    )
    s3_bucket: str | None = Field(
        None,
        validation_alias="S3_BUCKET",
        description="keeps results in this bucket of S3; default: files in `CUTOUT_DATA_DIR`",
    )
    s3_prefix: str = Field(
        "", validation_alias="S3_PREFIX", description="of all names in the bucket, such as `cutout/`"
    )
    s3_endpoint: str | None = Field(
        None,
        validation_alias="S3_ENDPOINT",
        description="`https://…` of a server that speaks S3; default: Amazon's",
    )
    s3_region: str | None = Field(
        None, validation_alias="S3_REGION", description="of the bucket; default: `AWS_REGION`, or us-east-1"
    )
    s3_access_key_id: str | None = Field(
        None,
        validation_alias="S3_ACCESS_KEY_ID",
        description="default: the host's own, as AWS tools find it",
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, validation_alias="S3_SECRET_ACCESS_KEY", description="goes with `S3_ACCESS_KEY_ID`"
    )
    payments: Literal["off", "manual", "signed"] | None = Field(
        None,
        description="who says that a plan or credits are paid: `manual` (default) an admin, `signed` the platform's"
        " signature, `off` nobody (default and allowed with `CUTOUT_AUTH=off` only)",
    )
    payments_secret: SecretStr | None = Field(
        None, description="with which the platform signs payments, 32 bytes or more; `signed` needs it"
    )
    cost_per_image_rupiah: Annotated[dict[Tier, Annotated[Decimal, Field(ge=0)]], NoDecode] = Field(
        "0",
        validate_default=True,
        description="what a picture costs you, for `/admin/stats`: one number, or `basic=10,standard=20,…` for each tier",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias=REDIS_URL,
        description="`redis://…`, `rediss://…` or `unix://…`, of a Redis or Valkey: the queue of batches, and where hosts"
        " count calls together; default: a queue of `cutout serve`'s own, and each host counts for itself",
    )
    lease_seconds: float = Field(
        30,
        gt=0,
        description="how long a worker that says nothing keeps the photos it has, before others take them; and how long"
        " a photo counts as in work whose service has crashed",
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="workers that `cutout serve` starts beside the service, each with models of its own; default: 1, and"
        " 0 where `REDIS_URL` is set",
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://user:password@host:587`, or `smtps://…` for TLS from the start, of the server that takes"
        " mail about batches; default: no mail is sent",
    )
    mail_from: str | None = Field(
        None,
        description="who mail is from, such as `Cutout <cutout@example.com>`; goes with `CUTOUT_SMTP_URL`",
    )
    notify_any_email: bool = Field(
        False,
        description="a batch's `notifyEmail` may be any address; default: only the user's own. With `CUTOUT_AUTH=off` any may"
        " be",
    )
    public_url: str | None = Field(
        None,
        description="`https://…` where users reach this service, for addresses in mail and webhooks; default: those are"
        " without a host",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    api_engine: Literal["local", "queue"] = Field(
        "local",
        description="who makes single photos: `local`, the service itself; `queue`, the workers, so that it needs no"
        " device",
    )
    device: Literal["auto", "cuda", "cpu", "huggingface"] = Field(
        "auto",
        description="where networks run: `cuda`, `cpu`, or `huggingface`, which photos are sent to; `auto`: a CUDA GPU if"
        " there is one, else Hugging Face where `CUTOUT_HF_INFERENCE_TOKEN` is set, else the CPU",
    )
    hf_inference_token: SecretStr | None = Field(
        None,
        description="of an account at Hugging Face that pays for its inference API, or of an own endpoint; with it, and"
        " without a GPU, photos are sent there. `HF_TOKEN` only downloads weights",
    )
    hf_provider: str = Field(
        "auto",
        pattern=r"^[a-z0-9-]+$",
        description="who serves the models at Hugging Face, such as `fal-ai`; `auto`: the first that does",
    )
    hf_endpoint: str | None = Field(
        None,
        description="`https://…` of an Inference Endpoint of your own, which is asked instead of providers",
    )
    hf_endpoint_model: str = Field("rmbg-2.0", description="the checkpoint that `CUTOUT_HF_ENDPOINT` serves")
    hf_deadline_seconds: float = Field(
        60,
        gt=0,
        description="longest that Hugging Face may take for a photo, cold start and repeated calls included, before 504"
        " `DEADLINE_EXCEEDED`",
    )
    hf_concurrency: int = Field(4, ge=1, le=64, description="calls to Hugging Face at once, by one process")
    threads: int | None = Field(
        None,
        ge=1,
        description="photos in work at once; default: one more than there are cores, and on a GPU two batches more",
    )
    megapixels_in_work: float = Field(
        200, gt=0, description="of all photos in work; each takes up to 35 MB of memory"
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the networks; `auto`: float16 on a GPU, float32 on a CPU"
    )
    batch_size: int | None = Field(
        None, ge=1, le=64, description="photos in one run of a network; default: 8 on a GPU, 1 on a CPU"
    )
    batch_wait_ms: float = Field(
        2, ge=0, le=1000, description="how long an idle device waits for more photos to join a batch"
    )
    strict_models: bool = Field(False, description="refuse to start where a tier is served by a substitute")
    models_dir: Path = Field(
        default_factory=lambda: (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutout/models"
        ),
        description="folder of the weights; default: the user's cache folder, `~/.cache/cutout/models`",
    )
    models_from: Path | None = Field(None, description="folder to look for weights in before any download")
    accept_licences: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="checkpoints, comma-separated, whose licence you accept, such as `rmbg-1.4`"
    )
    data_dir: Path = Field(Path("var"), description="folder of results")
    storage_check_seconds: float = Field(
        30,
        gt=0,
        description="how often a small file is written, read and deleted where results are kept; `/api/health` is 503"
        " while that fails",
    )
    result_days: int = Field(7, ge=1, description="days that results are kept")
    max_upload_mb: int = Field(30, ge=1, description="largest upload, in MB")
    max_batch_mb: int = Field(2000, ge=1, description="largest batch, all its photos together, in MB")
    upload_seconds: float = Field(
        120, gt=0, description="longest that sending an upload may take, before 408 `BODY_TOO_SLOW`"
    )
    uploads_at_once_mb: int = Field(
        1000,
        ge=1,
        description="of all uploads being received or worked on, before 503 `OVERLOADED`; never less than one",
    )
    max_megapixels: float = Field(50, gt=0, description="largest picture, in megapixels")
    max_side: int = Field(32_768, ge=1, description="longest side of a picture, in pixels")
    max_ratio: float = Field(
        100,
        ge=1,
        description="how many times as long as wide a picture may be; a network sees nothing in a thinner one",
    )
    fetch_seconds: float = Field(
        20, gt=0, description="longest that fetching a photo from its `imageUrl` may take"
    )
    fetch_allow_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="private networks, comma-separated, such as `10.1.2.0/24`, that an `imageUrl` or a `webhookUrl` may lead to",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="web pages of other origins that may call the API, comma-separated, each as in `https://shop.example`;"
        " default: none. With `CUTOUT_AUTH=off` none may",
    )
    max_waiting: int = Field(
        64, ge=1, description="photos that may wait for the engine before 503 `OVERLOADED`"
    )
    deadline_seconds: float = Field(
        300,
        gt=0,
        description="longest that a photo may take, waiting included, before 504 `DEADLINE_EXCEEDED`",
    )
    remove_per_minute: int = Field(
        30,
        ge=0,
        description="removals of one user before 429 `RATE_LIMITED`; 0: no limit, as with all of these",
    )
    batch_per_hour: int = Field(
        5, ge=0, description="batches of one user that were accepted, before 429 `RATE_LIMITED`"
    )
    batch_attempts_per_hour: int = Field(
        60,
        ge=0,
        description="batches that one user tries to hand in, accepted or not, before 429 `RATE_LIMITED`",
    )
    reads_per_minute: int = Field(
        120, ge=0, description="all other calls of one user before 429 `RATE_LIMITED`"
    )
    login_per_minute: int = Field(
        20, ge=0, description="logins tried from one client address before 429 `RATE_LIMITED`"
    )
    all_logins_per_minute: int = Field(
        300, ge=0, description="logins tried from all addresses together before 429 `RATE_LIMITED`"
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="addresses or networks, comma-separated, such as `10.0.0.0/8`, of proxies whose `X-Forwarded-For` and"
        " `X-Forwarded-Proto` are believed; default: none",
    )
    max_api_keys: int = Field(
        20,
        ge=1,
        description="API keys that one user may have, the revoked ones not counted, before 409 `CONFLICT`",
    )
    metrics_token: SecretStr | None = Field(
        None,
        description="who sends it as a bearer token may read `/metrics` from elsewhere, 32 bytes or more",
    )
    log_format: Literal["console", "json"] = Field("console", description="how log lines are written")

    @field_validator(
        "accept_licences", "fetch_allow_networks", "cors_origins", "trusted_proxies", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(name.strip() for name in value.split(",") if name.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("cost_per_image_rupiah", mode="before")
    @classmethod
    def _each_tier(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if "=" not in value:
            return dict.fromkeys(Tier, value)
        costs = dict(pair.partition("=")[::2] for pair in value.replace(" ", "").split(","))
        if set(costs) != set(Tier):
            raise ValueError(
                f"give one number, or one for each of {', '.join(Tier)}, as in basic=10,standard=20"
            )
        return costs

    @field_validator("secret", "jwt_secret", "payments_secret", "metrics_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < SHORTEST_SECRET_BYTES:
            raise ValueError(
                f"a secret of fewer than {SHORTEST_SECRET_BYTES} bytes can be guessed; make one with:"
                " openssl rand -base64 48"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _of_a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url_checks.check_redis(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _of_a_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url_checks.check_database(value.get_secret_value())
        return value

    @field_validator("smtp_url")
    @classmethod
    def _of_a_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            mail.read_server(value.get_secret_value())
        return value

    @field_validator("mail_from")
    @classmethod
    def _one_sender(cls, value: str | None) -> str | None:
        if value is not None:
            mail.read_sender(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _with_paths_to_come(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = url_checks.read_web_address(value, what_instead="it is shown to users")
        if url.query is not None or url.fragment is not None:
            raise ValueError("write https://host, and a path where there is one, and no more")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _mail_has_a_sender(self) -> Self:
        if (self.smtp_url is None) != (self.mail_from is None):
            raise ValueError("CUTOUT_SMTP_URL and CUTOUT_MAIL_FROM go together; set both or neither")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            url_checks.check_origin(origin)
        return value

    @field_validator("hf_inference_token")
    @classmethod
    def _fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("a token is of plain letters, digits and signs, without a space or a new line")
        return value

    @field_validator("hf_endpoint")
    @classmethod
    def _safe_for_a_token(cls, value: str | None) -> str | None:
        if value is not None:
            url = url_checks.read_web_address(value, what_instead="set CUTOUT_HF_INFERENCE_TOKEN")
            if url.scheme != "https" and not is_loopback(url.host or ""):
                raise ValueError("photos and the token are sent there: an address begins with https://")
        return value

    @field_validator("hf_endpoint_model")
    @classmethod
    def _of_the_catalogue(cls, value: str) -> str:
        if value not in CHECKPOINTS:
            raise ValueError(f"there is no checkpoint {value}; there are: {', '.join(CHECKPOINTS)}")
        return value

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if self.device == "huggingface" and self.hf_inference_token is None and self.hf_endpoint is None:
            raise ValueError(
                "CUTOUT_DEVICE=huggingface needs CUTOUT_HF_INFERENCE_TOKEN, a token with the permission to make calls to"
                " Inference Providers (HF_TOKEN only downloads weights), or the CUTOUT_HF_ENDPOINT of your own"
            )
        return self

    @model_validator(mode="after")
    def _one_platform(self) -> Self:
        if self.jwt_secret is not None and self.jwks_url is not None:
            raise ValueError(
                "CUTOUT_JWT_SECRET and CUTOUT_JWKS_URL are two ways to check the same tokens; set one"
            )
        if not self.embedded and self.auth == "on" and self.secret is None:
            raise ValueError(
                "DATABASE_URL is set, so several hosts may serve it, and all need one CUTOUT_SECRET; make it with:"
                " openssl rand -base64 48"
            )
        return self

    @field_validator("s3_endpoint")
    @classmethod
    def _of_a_server(cls, value: str | None) -> str | None:
        if value is not None:
            url_checks.read_web_address(value, what_instead="set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _of_published_keys(cls, value: str | None) -> str | None:
        if value is not None:
            url_checks.read_web_address(value, what_instead="what is published needs none")
        return value

    @model_validator(mode="after")
    def _one_bucket(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together; set both or neither")
        alone = [environment_name(name) for name in sorted(self.model_fields_set) if name.startswith("s3_")]
        if alone and self.s3_bucket is None:
            raise ValueError(f"{alone[0]} is set and S3_BUCKET is not, so results would stay on this host")
        return self

    @model_validator(mode="after")
    def _auth_off_only_on_loopback(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                f"CUTOUT_AUTH=off makes everyone an admin and is allowed on a loopback address only, not on"
                f" {self.host}; set CUTOUT_HOST=127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_given_away(self) -> Self:
        if self.payments == "off" and self.auth == "on":
            raise ValueError(
                "CUTOUT_PAYMENTS=off gives plans and credits to whoever asks, and is allowed with CUTOUT_AUTH=off only;"
                " set manual or signed"
            )
        if self.payments == "signed" and self.payments_secret is None:
            raise ValueError(
                "CUTOUT_PAYMENTS=signed needs the CUTOUT_PAYMENTS_SECRET that the platform signs with; make it with:"
                " openssl rand -base64 48"
            )
        return self

    @model_validator(mode="after")
    def _somebody_makes_photos(self) -> Self:
        if self.api_engine == "queue" and self.redis_url is None and self.workers_here == 0:
            raise ValueError(
                "CUTOUT_API_ENGINE=queue leaves the photos to workers, and there is no queue for them; set REDIS_URL, or"
                " CUTOUT_WORKERS=1"
            )
        return self

    @property
    def payment_mode(self) -> Literal["off", "manual", "signed"]:
        return self.payments or ("off" if self.auth == "off" else "manual")

    @property
    def models_folder(self) -> ModelsFolder:
        return ModelsFolder(self.models_dir.expanduser(), self.accept_licences)

    @property
    def embedded(self) -> bool:
        """Whether the service keeps its own database, on this host alone."""
        return self.database_url is None

    @property
    def workers_here(self) -> int:
        """How many workers the service starts beside itself."""
        if self.workers is not None:
            return self.workers
        return 1 if self.redis_url is None else 0

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

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 1_000_000

    @property
    def max_batch_bytes(self) -> int:
        return self.max_batch_mb * 1_000_000

    @property
    def uploads_at_once_bytes(self) -> int:
        return self.uploads_at_once_mb * 1_000_000

    @property
    def access(self) -> HuggingFaceConfig:
        """How Hugging Face is asked."""
        return HuggingFaceConfig(
            token=self.hf_inference_token.get_secret_value() if self.hf_inference_token else None,
            provider=self.hf_provider,
            endpoint=self.hf_endpoint,
            endpoint_model=self.hf_endpoint_model,
            seconds=self.hf_deadline_seconds,
            concurrency=self.hf_concurrency,
        )

    @property
    def limits(self) -> Limits:
        return Limits(
            threads=self.threads,
            waiting=self.max_waiting,
            seconds=self.deadline_seconds,
            sizes=SizeLimits(int(self.max_megapixels * 1_000_000), self.max_side, self.max_ratio),
            pixels_in_work=int(self.megapixels_in_work * 1_000_000),
            batch=self.batch_size,
            batch_wait=self.batch_wait_ms / 1000,
        )


def load(**overrides: object) -> Settings:
    """Read the settings from the environment; `overrides` that are not None win.

    Raises:
        SettingsError: one is unknown, malformed or unsafe.

    """
    known = {environment_name(name) for name in Settings.model_fields}
    problems = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known | {VERIFY_KEY}:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
            problems.append(f"{name} is no setting; {hint}")
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_say(problem) for problem in error.errors())) from None


def environment_name(field: str) -> str:
    """Return what a setting is called in the environment."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()


def is_loopback(host: str) -> bool:
    """Tell whether an address or host name reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _say(problem: object) -> str:
    assert isinstance(problem, dict)
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = problem["loc"]
    if not where:
        return message
    field = str(where[0])
    names = {environment_name(name) for name in Settings.model_fields}
    name = field if field in names else PREFIX + field.upper()
    if field in Settings.model_fields:
        name = environment_name(field)
    return f"{name}: {message}"
