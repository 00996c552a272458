"""Errors as responses: `application/problem+json` (RFC 9457)."""

import tempfile
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from cutout.app.core.atomic_write import is_full, say_full
from cutout.app.core.errors import (
    UNEXPECTED,
    BodyTooLargeError,
    BodyTooSlowError,
    ImageTooLargeError,
    InternalError,
    InvalidInputError,
    MethodNotAllowedError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
    from_engine,
    shorten,
)
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.session import Database
from cutout.app.http.security_headers import OF_EVERY_ANSWER
from cutout.app.http.state import AppState, state_of
from cutout.app.storage.base import StorageError
from cutout.app.storage.probe import StorageProbe
from cutout.inference.errors import CutoutError, NetworkFailed

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

PHOTO_WANTED = (
    "Send one photo: as a file in the form field image, as in `curl -F image=@photo.jpg`, or as a web address in the"
    " field imageUrl."
)
# The longest name of a field that a message repeats.
LONGEST_NAME = 100

# Builds the response of an error from it and the request's id.
Shape = Callable[[ServiceError, str], JSONResponse]

# Errors for the status codes of exceptions that Starlette raises itself.
HTTP_ERRORS: dict[int, type[ServiceError]] = {
    404: NotFoundError,
    405: MethodNotAllowedError,
    413: ImageTooLargeError,
}


def response(error: ServiceError, request_id: str) -> JSONResponse:
    """Return the problem+json response of an error."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = f"{error.retry_after:.0f}"
    body = document(error.status, error.code, error.detail, request_id) | error.extra
    return JSONResponse(body, error.status, headers, media_type=MEDIA_TYPE)


class ErrorShapes:
    """Errors in the shapes that clients of other APIs know, at and below the paths of those APIs."""

    def __init__(self, by_path: Mapping[str, Shape]) -> None:
        self._by_path = by_path

    def shape_at(self, path: str) -> Shape | None:
        """Return the shape of the errors at a path; None if they are problem documents."""
        for start, shape in self._by_path.items():
            if path == start or path.startswith(f"{start}/"):
                return shape
        return None


def answer(scope: Scope, error: ServiceError) -> JSONResponse:
    """Return the response of an error to a request, in the shape that the clients of its path know."""
    shapes = state_of(scope["app"]).find(ErrorShapes)
    shape = shapes.shape_at(scope["path"]) if shapes is not None else None
    return (shape or response)(error, scope.get("state", {}).get("request_id", ""))


def document(status: int, code: str, detail: str, request_id: str) -> dict[str, Any]:
    """Return the fields that every problem document has."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": shorten(detail),
        "requestId": request_id,
    }


def upload_too_large(limit_bytes: int) -> ServiceError:
    """Return the error for an upload that exceeds the size limit."""
    return ImageTooLargeError(
        f"The upload is larger than {limit_bytes // 1_000_000} MB. Send a smaller file."
    )


def batch_too_large(limit_bytes: int) -> ServiceError:
    """Return the error for a batch whose photos together exceed the size limit."""
    return BodyTooLargeError(
        f"The batch is larger than {limit_bytes // 1_000_000} MB. Send its photos in several batches."
    )


def body_too_large(limit_bytes: int) -> ServiceError:
    """Return the error for a body that exceeds the size limit of requests without files."""
    return BodyTooLargeError(f"The body is larger than {limit_bytes // 1000} kB. Send less.")


def body_too_slow(seconds: float) -> ServiceError:
    """Return the error for a body that did not arrive in time."""
    return BodyTooSlowError(f"The body was not received within {seconds:g} s. Send it again.")


def too_many_uploads() -> ServiceError:
    """Return the error for an upload that exceeds the memory limit for all uploads together."""
    return OverloadedError("Too many uploads are being received or processed. Try again in a moment.")


def service_stops() -> ServiceError:
    """Return the error for a request that ends because the service is being stopped."""
    detail = "The service is stopping. Nothing was charged; send the request again in a moment."
    return OverloadedError(detail, retry_after=10)


def unexpected(error: Exception) -> ServiceError:
    """Log an unexpected error and return a generic one for the client, which reveals no details."""
    log.error("unexpected error", exc_info=error)
    return InternalError(UNEXPECTED)


def not_http(detail: str) -> bytes:
    """Build a raw HTTP/1.1 400 response for input that is not valid HTTP."""
    request_id = str(uuid.uuid4())
    told = response(InvalidInputError(detail), request_id)
    told.headers.update(OF_EVERY_ANSWER | {"Connection": "close", "X-Request-Id": request_id})
    lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in told.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(told.body)])


def install(app: FastAPI) -> None:
    """Install exception handlers that respond to every exception with a problem document."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        told = translate(error, request.url.path, state_of(request.app))
        if isinstance(told, ModelUnavailableError):
            log.warning("Model loading", detail=told.detail)
        if isinstance(told, UnauthenticatedError):
            # The exact reason is only logged; the client is not told why its credentials were rejected.
            log.warning("not authenticated", reason=told.reason or told.detail)
        return answer(request.scope, told)

    async def handle_unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette handles these outside all middleware, so the headers have to be added here. The middleware
        # `UnexpectedErrors` handles what an endpoint raises before that.
        told = await handle(request, error)
        told.headers.update(OF_EVERY_ANSWER | {"X-Request-Id": request.state.request_id})
        return told

    for kind in (ServiceError, CutoutError, OperationalError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(Exception, handle_unexpected)


def translate(error: Exception, path: str, state: AppState) -> ServiceError:
    """Return the error to send to the client, and log the details that only the operator may see."""
    if isinstance(error, HTTPException):
        return _from_http(error, path)
    if isinstance(error, RequestValidationError):
        return InvalidInputError("; ".join(map(_say, error.errors())))
    if isinstance(error, OperationalError):
        return _from_database(error, state)
    if isinstance(error, CutoutError):
        if isinstance(error, NetworkFailed):
            log.error("network failed", exc_info=error)
        return from_engine(error)
    if isinstance(error, StorageError):
        log.error("storage failed", detail=error.detail, cause=error.cause)
        state.get(StorageProbe).look_soon()
    return error if isinstance(error, ServiceError) else unexpected(error)


def _from_database(error: OperationalError, state: AppState) -> ServiceError:
    database = state.get(Database)
    disk, detail = database.explain_disk(error), database.explain(error)
    log.error("database failed", detail=disk or str(error.orig))
    if disk is not None:
        state.get(StorageProbe).look_soon()
    return DatabaseUnavailableError(detail)


def _from_http(error: HTTPException, path: str) -> ServiceError:
    # FastAPI wraps exceptions that are raised while it reads a body.
    if isinstance(error.__cause__, ServiceError):
        return error.__cause__
    if isinstance(error.__cause__, OSError):
        log.error("upload cannot be stored", detail=str(error.__cause__))
        why = "The upload cannot be stored while it is received."
        if is_full(error.__cause__):
            why += f" {say_full(tempfile.gettempdir(), 'TMPDIR')}"
        return StorageError(f"{why} Nothing was charged; try again in a moment.")
    if error.status_code == 404:
        detail = f"There is nothing at {path}. The API is described at /docs."
    elif error.__cause__ is not None:
        detail = "The body cannot be read. Send JSON in UTF-8, or a form, as described at /docs."
    else:
        detail = str(error.detail)
    fallback = InternalError if error.status_code >= 500 else InvalidInputError
    told = HTTP_ERRORS.get(error.status_code, fallback)(detail)
    told.headers = dict(error.headers or {})
    return told


def _say(problem: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"] if part != "body")
    if field == "image":
        return PHOTO_WANTED
    if problem["type"] == "extra_forbidden":
        # Some send a whole file in place of a form.
        name = field if len(field) <= LONGEST_NAME else f"{field[:LONGEST_NAME]}…"
        return f"{name}: there is no such field"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
