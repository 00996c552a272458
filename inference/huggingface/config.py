"""Configuration of the Hugging Face API: token, provider or endpoint, time limit and concurrency."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HuggingFaceConfig:
    """How this host uses the Hugging Face API.

    `provider` "auto" takes the first provider that serves a model. `endpoint` is the URL of the user's own inference
    endpoint, which serves the checkpoint `endpoint_model`. At most `concurrency` calls run at once; all calls for one
    photo together may take `seconds`.
    """

    token: str | None = field(default=None, repr=False)
    provider: str = "auto"
    endpoint: str | None = None
    endpoint_model: str = "rmbg-2.0"
    seconds: float = 60.0
    concurrency: int = 4
