"""How this host may use the Hugging Face API: a token, whom to ask, how long and how often at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Access:
    """`provider` "auto" is the first that serves a model; an own `endpoint`, a URL, serves the checkpoint `endpoint_model`.

    `concurrency` calls are out at once; all that one photo needs of them has `seconds` together.
    """

    token: str | None = field(default=None, repr=False)
    provider: str = "auto"
    endpoint: str | None = None
    endpoint_model: str = "rmbg-2.0"
    seconds: float = 60.0
    concurrency: int = 4
