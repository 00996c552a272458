"""Client for a deployment of any version, or for a host that may not be Cutout; every response is validated."""

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
    """A check failed. The message says what is wrong and what to do."""


class Refused(Failed):
    """The service responded with one of its own errors."""

    def __init__(self, status: int, code: str, detail: str, request_id: str) -> None:
        super().__init__(f"{detail} ({status} {code}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.code = code


class NoAddress(OperatorError):
    """The given address or key cannot be that of a service."""


class Shape(BaseModel):
    """Base class of response models; unknown fields, as newer versions may send, are ignored."""

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
        """The progress of the batch in words."""
        return f"{self.counts.get('completed', 0)} of {self.images} photos done, the batch is {self.status}"


class InfoShape(Shape):
    version: str


class OpenApiShape(Shape):
    info: InfoShape
    paths: dict[str, Any]


S = TypeVar("S", bound=Shape)


class Client:
    """Client of one deployment; sends requests with the user's API key or anonymously."""

    def __init__(self, url: str, key: str | None, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Prepare to call `url`; no request is sent yet.

        Raises:
            NoAddress: `url` is not a web address, or `key` cannot be an API key.

        """
        try:
            address = httpx2.URL(url.strip())
        except httpx2.InvalidURL as error:
            raise NoAddress(f"{url} is not a URL ({error}).") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise NoAddress(f"{url} is not an HTTP URL. Use one such as http://127.0.0.1:8000.")
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise NoAddress(
                "The key contains invalid characters. Use it exactly as `cutout keys add` printed it."
            )
        self.has_key = bool(key)
        # Without user name and password, because it is printed.
        self.shown = str(address.copy_with(username=None, password=None)).rstrip("/")
        # Each step has a timeout as a whole; only connecting has a shorter one.
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
        """Call the service and return its response, which has one of the `wanted` status codes.

        Raises:
            Refused: the service responded with one of its own errors.
            Failed: there is no response, or it is not from Cutout.

        """
        client = self._user if as_user else self._anybody
        try:
            answer = await client.request(method, path, **body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise Failed(self._nobody(error)) from error
        except httpx2.RemoteProtocolError as error:
            raise Failed(
                f"The server at {self.shown} closed the connection, or does not speak HTTP ({error})."
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failed(
                f"{method} {path} got no response ({str(error) or type(error).__name__})."
            ) from error
        if answer.status_code in wanted:
            return answer
        if answer.has_redirect_location:
            raise Failed(
                f"{self.shown}{path} redirects to {answer.headers['Location']}. Use the URL of the service itself."
            )
        raise self._refusal(method, path, answer)

    async def read(self, shape: type[S], method: str, path: str, **options: Any) -> S:
        """Call the service and parse its response as JSON of this shape.

        Raises:
            Refused: the service responded with one of its own errors.
            Failed: there is no response, it is not from Cutout, or it has another shape.

        """
        return self.parse(shape, await self.call(method, path, **options))

    def parse(self, shape: type[S], answer: httpx2.Response) -> S:
        """Parse a response as JSON of this shape.

        Raises:
            Failed: the response is not JSON or has another shape.

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
                f"{where} does not respond as this version does: {place + ': ' if place else ''}{first['msg']}."
                " Check whether another version or another service is running there."
            ) from error

    def _refusal(self, method: str, path: str, answer: httpx2.Response) -> Failed:
        try:
            problem = ProblemShape.model_validate_json(answer.content)
        except ValidationError:
            return Failed(_stranger(f"{method} {path}", answer))
        detail = problem.detail
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            how = (
                "The service rejected this key." if self.has_key else "This service requires authentication."
            )
            detail = f"{how} Set a key with --key or CUTOUT_VERIFY_KEY; `cutout keys add USER` creates one: {detail}"
        return Refused(answer.status_code, problem.code, detail, problem.request_id)

    def _nobody(self, error: Exception) -> str:
        if isinstance(_root(error), ssl.SSLError):
            return (
                f"{self.shown} cannot be trusted: {error}. Check that the certificate is valid for this host and has not"
                " expired, and that the port uses TLS. For your own certificate authority, set SSL_CERT_FILE."
            )
        reason = str(error) or f"no connection within {CONNECT_SECONDS:g} s"
        return f"Nothing answers at {self.shown} ({reason}). Check that the service is running and that this is its URL; see its log."


def _is_json(headers: Mapping[str, str]) -> bool:
    media_type = headers.get("Content-Type", "").split(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _stranger(where: str, answer: httpx2.Response) -> str:
    kind = answer.headers.get("Content-Type", "").split(";")[0] or "no type"
    return (
        f"{where} answered {answer.status_code} with {kind}, which is not a response of Cutout. Check the URL, and that a"
        " proxy in front forwards all paths."
    )


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
