"""A caller of a deployment that may be any version's, or none: what it answers is looked at before it is believed."""

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from cutout.app.core.errors import OperatorError
from cutout.inference.tiers import Tier

CONNECT_SECONDS = 10.0
API = "/api/background-remover"


class Failed(Exception):
    """Something is not as it has to be; the message says what, and what to do."""


class Refused(Failed):
    """The service answered with an error of its own."""

    def __init__(self, status: int, code: str, detail: str, request_id: str) -> None:
        super().__init__(f"{detail} ({status} {code}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.code = code


class NoAddress(OperatorError):
    """This cannot be the address or the key of a service."""


class Shape(BaseModel):
    """Base of what is read from answers; what a newer version says beside it is passed over."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class ProblemShape(Shape):
    code: str
    detail: str
    request_id: str = ""


class QueueShape(Shape):
    answers: bool
    waiting: int
    batches: int


class WorkerShape(Shape):
    name: str
    version: str
    device: str
    queues: list[str]


class HealthProblemShape(Shape):
    code: str
    detail: str


class HealthShape(Shape):
    status: str
    version: str
    schema_revision: str | None
    device: str
    queue: QueueShape | None = None
    workers: list[WorkerShape] = []
    problems: list[HealthProblemShape] = []


class TierShape(Shape):
    credits: int
    model: str
    backend: str
    wanted: str
    substitute: bool


class PlanShape(Shape):
    removals_per_day: int
    tiers: list[str]


class PricingShape(Shape):
    tiers: dict[Tier, TierShape]
    plans: dict[str, PlanShape]


class PriceShape(Shape):
    total_credits: int
    discount_credits: int
    final_credits: int


class EntryShape(Shape):
    id: int
    movement: str
    credits: int
    key: str


class CreditsShape(Shape):
    balance: int
    entries: list[EntryShape]


class QuotaShape(Shape):
    day: str
    used: int
    left: int
    professional_left: int


class SubscriptionShape(Shape):
    plan: str | None
    status: str
    today: QuotaShape | None
    plans: dict[str, PlanShape] | None


class JobShape(Shape):
    status: str
    tier: str
    credits: int
    paid_by: str


class FailedJobShape(Shape):
    job_id: str


class JobsShape(Shape):
    jobs: list[FailedJobShape]


class BatchAcceptedShape(Shape):
    batch_id: str
    price: PriceShape


class ErrorShape(Shape):
    code: str
    detail: str


class BatchPhotoShape(Shape):
    name: str
    status: str
    error: ErrorShape | None


class BatchShape(Shape):
    status: str
    counts: dict[str, int]
    images: int
    finished_at: str | None
    credits_charged: int | None
    zip_url: str | None
    photos: list[BatchPhotoShape]

    @property
    def told(self) -> str:
        """How far it is, in words."""
        return f"{self.counts.get('completed', 0)} of {self.images} photos done, the batch is {self.status}"


class InfoShape(Shape):
    version: str


class OpenApiShape(Shape):
    info: InfoShape
    paths: dict[str, Any]


S = TypeVar("S", bound=Shape)


class Client:
    """Calls one deployment: as the user of a key, or as anybody."""

    def __init__(self, url: str, key: str | None, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Prepare to call `url`; nothing is sent yet.

        Raises:
            NoAddress: that is no web address, or the key cannot be one.

        """
        try:
            address = httpx2.URL(url.strip())
        except httpx2.InvalidURL as error:
            raise NoAddress(f"{url} is no web address ({error}).") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise NoAddress(f"{url} is no web address: give one such as http://127.0.0.1:8000.")
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise NoAddress(
                "The key has characters that no key has. Give one as `cutout keys add` printed it."
            )
        self.has_key = bool(key)
        # With no password in it that would be shown.
        self.shown = str(address.copy_with(username=None, password=None)).rstrip("/")
        # A step has its time as a whole; only a host that is not there is given up earlier.
        options: dict[str, Any] = {
            "base_url": address,
            "timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS),
            "transport": transport,
        }
        self._anybody = httpx2.AsyncClient(**options)
        self._user = httpx2.AsyncClient(**options, headers={"X-Api-Key": key} if key else None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._anybody.aclose()
        await self._user.aclose()

    async def call(
        self, method: str, path: str, *, wanted: tuple[int, ...] = (200,), as_user: bool = True, **body: Any
    ) -> httpx2.Response:
        """Call the service: an answer of one of the `wanted` statuses.

        Raises:
            Refused: it answered with an error of its own.
            Failed: nobody answers, or somebody else does.

        """
        client = self._user if as_user else self._anybody
        try:
            answer = await client.request(method, path, **body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise Failed(self._nobody(error)) from error
        except httpx2.RemoteProtocolError as error:
            raise Failed(
                f"What answers at {self.shown} breaks off, or does not speak HTTP ({error})."
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failed(
                f"{method} {path} came to no answer ({str(error) or type(error).__name__})."
            ) from error
        if answer.status_code in wanted:
            return answer
        if answer.has_redirect_location:
            raise Failed(
                f"{self.shown}{path} sends on to {answer.headers['Location']}. Give the address that answers itself."
            )
        raise self._refusal(method, path, answer)

    async def read(self, shape: type[S], method: str, path: str, **options: Any) -> S:
        """Call the service, and read its answer as JSON of this shape.

        Raises:
            Refused: it answered with an error of its own.
            Failed: nobody answers, or somebody else does, or with another shape.

        """
        return self.parse(shape, await self.call(method, path, **options))

    def parse(self, shape: type[S], answer: httpx2.Response) -> S:
        """Read an answer as JSON of this shape.

        Raises:
            Failed: it is not.

        """
        where = f"{answer.request.method} {answer.request.url.path}"
        if not _is_json(answer.headers):
            raise Failed(_stranger(where, answer))
        try:
            return shape.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Failed(
                f"{where} does not answer as this version does: {place + ': ' if place else ''}{first['msg']}."
                " Is another version running there, or something else?"
            ) from error

    def _refusal(self, method: str, path: str, answer: httpx2.Response) -> Failed:
        try:
            problem = ProblemShape.model_validate_json(answer.content)
        except ValidationError:
            return Failed(_stranger(f"{method} {path}", answer))
        detail = problem.detail
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            how = "This key is not taken." if self.has_key else "This service has accounts."
            detail = f"{how} Give one with --key or in CUTOUT_VERIFY_KEY; `cutout keys add USER` makes one: {detail}"
        return Refused(answer.status_code, problem.code, detail, problem.request_id)

    def _nobody(self, error: Exception) -> str:
        if isinstance(_root(error), ssl.SSLError):
            return (
                f"{self.shown} cannot be trusted: {error}. Is the certificate this host's and in date, and is TLS spoken"
                " at that port? SSL_CERT_FILE names an authority of your own."
            )
        reason = str(error) or f"no connection within {CONNECT_SECONDS:g} s"
        return f"Nobody answers at {self.shown} ({reason}). Is the service running, and is this its address? Its log says why."


def _is_json(headers: Mapping[str, str]) -> bool:
    media_type = headers.get("Content-Type", "").split(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _stranger(where: str, answer: httpx2.Response) -> str:
    kind = answer.headers.get("Content-Type", "").split(";")[0] or "no type"
    return (
        f"{where} answered {answer.status_code} with {kind}, which is no answer of Cutout. Is this its address, and does a"
        " proxy in front pass all of it on?"
    )


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
