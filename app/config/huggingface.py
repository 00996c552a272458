"""The Hugging Face API, for hosts without a GPU."""

import re
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import SettingsGroup, is_loopback
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.models.catalog import CHECKPOINTS


class HuggingFaceSettings(SettingsGroup):
    """The Hugging Face API, for hosts without a GPU."""

    title: ClassVar[str] = "Hugging Face"

    hf_inference_token: SecretStr | None = Field(
        None,
        description="the token of an account at Hugging Face that pays for its inference API, or of your own "
        "endpoint; with it, and without a GPU, photos are sent there. `HF_TOKEN` only downloads "
        "weights",
    )
    hf_provider: str = Field(
        "auto",
        pattern=r"^[a-z0-9-]+$",
        description="the provider at Hugging Face, such as `fal-ai`; `auto`: the first that serves the model",
    )
    hf_endpoint: str | None = Field(
        None,
        description="`https://…` of an Inference Endpoint of your own, which is called instead of providers",
    )
    hf_endpoint_model: str = Field("rmbg-2.0", description="the checkpoint that `CUTOUT_HF_ENDPOINT` serves")
    hf_deadline_seconds: float = Field(
        60,
        gt=0,
        description="the longest time that Hugging Face may take for a photo, cold start and retries included, "
        "before 504 `DEADLINE_EXCEEDED`",
    )
    hf_concurrency: int = Field(
        4, ge=1, le=64, description="concurrent calls to Hugging Face, by one process"
    )

    @field_validator("hf_inference_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError(
                "a token contains only ASCII letters, digits and symbols, no spaces or line breaks"
            )
        return value

    @field_validator("hf_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url = url_checks.read_web_address(value, what_instead="set CUTOUT_HF_INFERENCE_TOKEN")
            if url.scheme != "https" and not is_loopback(url.host or ""):
                raise ValueError("photos and the token are sent to this URL, so it must begin with https://")
        return value

    @field_validator("hf_endpoint_model")
    @classmethod
    def _check_endpoint_model(cls, value: str) -> str:
        if value not in CHECKPOINTS:
            raise ValueError(f"there is no checkpoint {value}; choose one of: {', '.join(CHECKPOINTS)}")
        return value

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
