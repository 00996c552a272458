"""Errors as the API tells them: `application/problem+json` (RFC 9457). The only place that knows status codes."""

import tempfile
import uuid
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from cutout.app.auth.accounts import AccountDisabled, TooManyKeys
from cutout.app.auth.tokens import InvalidToken
from cutout.app.batches.service import WrongBatchSize
from cutout.app.billing.ledger import InsufficientCredits, TooManyCredits
from cutout.app.billing.payments import PaymentUsed, WrongSignature
from cutout.app.billing.subscriptions import AnotherPlan
from cutout.app.core.atomic_write import is_full, say_full
from cutout.app.core.errors import UNEXPECTED, Coded, describe, shorten
from cutout.app.db.session import Database
from cutout.app.http.security_headers import OF_EVERY_ANSWER
from cutout.app.jobs.queue import RETRY_SECONDS, QueueUnavailable
from cutout.app.net.image_fetcher import FetchedTooLarge, NotFetched
from cutout.app.notifications.errors import CannotNotify
from cutout.app.ratelimit.limits import RateLimited
from cutout.app.removals.service import KeyInWork, KeyUsed, ResultGone
from cutout.app.storage.base import StorageError
from cutout.inference import errors as engine

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


# Each code has one.
STATUSES = {
    "INVALID_INPUT": 400,
    "INVALID_IMAGE": 400,
    "BATCH_SIZE": 400,
    "UNAUTHENTICATED": 401,
    "INSUFFICIENT_CREDITS": 402,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TOO_SLOW": 408,
    "CONFLICT": 409,
    "IMAGE_TOO_LARGE": 413,
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_FORMAT": 415,
    "RATE_LIMITED": 429,
    "INTERNAL": 500,
    "MODEL_UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "QUEUE_UNAVAILABLE": 503,
    "DATABASE_UNAVAILABLE": 503,
    "STORAGE_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class Problem(Exception):
    """An error for the caller: a stable code, its status, and a sentence that says what to do."""

    def __init__(
        self,
        code: str,
        detail: str,
        headers: dict[str, str] | None = None,
        *,
        reason: str | None = None,
        **extra: Any,
    ) -> None:
        """Describe an error. `reason` is for the log alone, `extra` are fields of the answer."""
        super().__init__(detail)
        self.reason = reason
        self.status = STATUSES[code]
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.extra = extra

    def body(self, request_id: str) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": shorten(self.detail),
            "requestId": request_id,
            **self.extra,
        }


PHOTO_WANTED = (
    "Send one photo: as a file in the field image of a form, as `curl -F image=@photo.jpg` does, or by its web address"
    " as imageUrl."
)

HTTP_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "IMAGE_TOO_LARGE"}


def upload_too_large(limit_bytes: int) -> Problem:
    """Describe a body past the upload limit."""
    return Problem(
        "IMAGE_TOO_LARGE",
        f"The upload is larger than {limit_bytes // 1_000_000} MB. Send a smaller file.",
    )


def batch_too_large(limit_bytes: int) -> Problem:
    """Describe a batch past the limit of all its photos together."""
    return Problem(
        "BODY_TOO_LARGE",
        f"The batch is larger than {limit_bytes // 1_000_000} MB. Send its photos in several batches.",
    )


def body_too_large(limit_bytes: int) -> Problem:
    """Describe a body past the limit of those that are no upload."""
    return Problem("BODY_TOO_LARGE", f"The body is larger than {limit_bytes // 1000} kB. Send less.")


def body_too_slow(seconds: float) -> Problem:
    """Describe a body that did not come in its time."""
    return Problem("BODY_TOO_SLOW", f"The body did not come within {seconds:g} s. Send it again.")


def too_many_uploads() -> Problem:
    """Describe an upload for which there is no room beside the others."""
    detail = "Too many uploads are being received or worked on. Try again in a moment."
    return Problem("OVERLOADED", detail, {"Retry-After": "5"})


def unexpected(error: Exception, headers: dict[str, str] | None = None) -> Problem:
    """Log an error that nobody has thought of, and describe it to the caller, who is told nothing of it."""
    log.error("unexpected error", exc_info=error)
    return Problem("INTERNAL", UNEXPECTED, headers)


def service_stops() -> Problem:
    """Describe a request that the service ends because it is being stopped itself."""
    detail = "The service is being stopped. Nothing was charged; send it again in a moment."
    return Problem("OVERLOADED", detail, {"Retry-After": "10"})


def not_http(detail: str) -> bytes:
    """Answer what is no request, down to its bytes: there is nothing else to answer it with."""
    request_id = str(uuid.uuid4())
    problem = Problem("INVALID_INPUT", detail, {"Connection": "close"})
    headers = OF_EVERY_ANSWER | problem.headers | {"X-Request-Id": request_id}
    answer = JSONResponse(problem.body(request_id), problem.status, headers, media_type=MEDIA_TYPE)
    lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in answer.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])


def from_engine(error: engine.CutoutError) -> Problem:
    """Translate an error of the engine."""
    code, detail = describe(error)
    headers = {}
    if isinstance(error, engine.Overloaded):
        headers["Retry-After"] = f"{error.retry_after:.0f}"
    return Problem(code, detail, headers)


def install(app: FastAPI) -> None:
    """Answer every exception as a problem."""

    def answer(request: Request, problem: Problem) -> JSONResponse:
        if problem.code == "MODEL_UNAVAILABLE":
            log.warning("Model loading", detail=problem.detail)
        if problem.status == 401:
            # The caller learns no more than that it is none.
            log.warning("not authenticated", reason=problem.reason or problem.detail)
        return JSONResponse(
            problem.body(getattr(request.state, "request_id", "")),
            problem.status,
            problem.headers,
            media_type=MEDIA_TYPE,
        )

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(engine.CutoutError)
    async def on_engine_error(request: Request, error: engine.CutoutError) -> JSONResponse:
        if isinstance(error, engine.NetworkFailed):
            log.error("network failed", exc_info=error)
        return answer(request, from_engine(error))

    @app.exception_handler(Coded)
    async def on_error_elsewhere(request: Request, error: Coded) -> JSONResponse:
        return answer(request, Problem(error.code, str(error)))

    @app.exception_handler(StorageError)
    async def on_storage_error(request: Request, error: StorageError) -> JSONResponse:
        log.error("storage failed", detail=str(error), cause=error.cause)
        request.app.state.readiness.storage.look_soon()
        return answer(request, Problem("STORAGE_UNAVAILABLE", str(error), {"Retry-After": "60"}))

    @app.exception_handler(InsufficientCredits)
    async def on_too_few_credits(request: Request, error: InsufficientCredits) -> JSONResponse:
        detail = f"{error} Buy credits, or take a cheaper tier."
        problem = Problem("INSUFFICIENT_CREDITS", detail, required=error.required, available=error.available)
        return answer(request, problem)

    @app.exception_handler(NotFetched)
    @app.exception_handler(CannotNotify)
    async def on_bad_address(request: Request, error: Exception) -> JSONResponse:
        return answer(request, Problem("INVALID_INPUT", str(error)))

    @app.exception_handler(WrongBatchSize)
    async def on_wrong_size(request: Request, error: WrongBatchSize) -> JSONResponse:
        return answer(request, Problem("BATCH_SIZE", str(error)))

    @app.exception_handler(QueueUnavailable)
    async def on_no_queue(request: Request, error: QueueUnavailable) -> JSONResponse:
        # Of a batch's body nothing was read, so the connection cannot be used again.
        headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
        return answer(request, Problem("QUEUE_UNAVAILABLE", str(error), headers))

    @app.exception_handler(FetchedTooLarge)
    async def on_fetched_too_large(request: Request, error: FetchedTooLarge) -> JSONResponse:
        return answer(request, Problem("IMAGE_TOO_LARGE", str(error)))

    @app.exception_handler(RateLimited)
    async def on_too_many_calls(request: Request, error: RateLimited) -> JSONResponse:
        retry_after = {"Retry-After": str(error.retry_after)}
        return answer(request, Problem("RATE_LIMITED", str(error), retry_after))

    @app.exception_handler(KeyUsed)
    @app.exception_handler(PaymentUsed)
    @app.exception_handler(AnotherPlan)
    @app.exception_handler(TooManyCredits)
    @app.exception_handler(TooManyKeys)
    async def on_conflict(request: Request, error: Exception) -> JSONResponse:
        return answer(request, Problem("CONFLICT", str(error)))

    @app.exception_handler(KeyInWork)
    async def on_key_in_work(request: Request, error: KeyInWork) -> JSONResponse:
        return answer(request, Problem("CONFLICT", str(error), {"Retry-After": str(error.retry_after)}))

    @app.exception_handler(ResultGone)
    async def on_gone_result(request: Request, error: ResultGone) -> JSONResponse:
        return answer(request, Problem("NOT_FOUND", str(error)))

    @app.exception_handler(WrongSignature)
    @app.exception_handler(AccountDisabled)
    async def on_forbidden(request: Request, error: Exception) -> JSONResponse:
        return answer(request, Problem("FORBIDDEN", str(error)))

    @app.exception_handler(InvalidToken)
    async def on_invalid_token(request: Request, error: InvalidToken) -> JSONResponse:
        challenge = {"WWW-Authenticate": "Bearer"}
        return answer(request, Problem("UNAUTHENTICATED", str(error), challenge, reason=error.reason))

    @app.exception_handler(OperationalError)
    async def on_database_error(request: Request, error: OperationalError) -> JSONResponse:
        database: Database = request.app.state.database
        disk, detail = database.explain_disk(error), database.explain(error)
        log.error("database failed", detail=disk or str(error.orig))
        if disk is not None:
            request.app.state.readiness.storage.look_soon()
        return answer(request, Problem("DATABASE_UNAVAILABLE", detail, {"Retry-After": "10"}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, Problem("INVALID_INPUT", "; ".join(map(_say, error.errors()))))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        # FastAPI wraps what it meets while it reads a body.
        if isinstance(error.__cause__, Problem):
            return answer(request, error.__cause__)
        if isinstance(error.__cause__, OSError):
            log.error("upload cannot be kept", detail=str(error.__cause__))
            why = "The upload cannot be kept while it is received."
            if is_full(error.__cause__):
                why += f" {say_full(tempfile.gettempdir(), 'TMPDIR')}"
            detail = f"{why} Nothing was charged; try again in a moment."
            return answer(request, Problem("STORAGE_UNAVAILABLE", detail, {"Retry-After": "60"}))
        if error.status_code == 404:
            detail = f"There is nothing at {request.url.path}. The API is described at /docs."
        elif error.__cause__ is not None:
            detail = "The body cannot be read. Send JSON in UTF-8, or a form, as described at /docs."
        else:
            detail = str(error.detail)
        code = HTTP_CODES.get(error.status_code, "INTERNAL" if error.status_code >= 500 else "INVALID_INPUT")
        return answer(request, Problem(code, detail, dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette answers these outside all middleware, so headers must be added here. What a route raises is answered
        # before, see `guards.Unexpected`.
        return answer(
            request, unexpected(error, OF_EVERY_ANSWER | {"X-Request-Id": request.state.request_id})
        )


def _say(problem: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"] if part != "body")
    if field == "image":
        return PHOTO_WANTED
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
