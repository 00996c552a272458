"""The base of the errors that the API tells its callers, and the errors of the engine as the API tells them.

A new kind of error is one subclass of `ServiceError`, or of one of the kinds here, in the module that raises it. Its
response, its place in OpenAPI and what a worker writes into a job's row all follow from the class.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from cutout.inference import errors as engine

# A detail may repeat a field of the request, which may be long.
LONGEST_DETAIL = 1000
UNEXPECTED = "Something went wrong on our side. Try again, and name the requestId if it persists."
# Kept in the job's row; the client that hung up gets no response.
HUNG_UP = "The connection was closed before the picture was there. Nothing was charged; send the photo again."


class OperatorError(Exception):
    """An error for the operator of the host: the message says what is wrong and what to do."""


class ServiceError(Exception):
    """An error for the caller: a stable code, an HTTP status, and a sentence that says what to do.

    A subclass sets `code` and `status`, and `example`, a detail that OpenAPI shows. `retry_after`, in seconds, and
    `headers` are sent with the response. `extra` are more fields of the response, of which `example_extra` is an example.
    """

    code: str
    status: int
    example: ClassVar[str]
    example_extra: ClassVar[Mapping[str, int]] = {}
    retry_after: float | None = None
    headers: Mapping[str, str] = {}

    def __init__(
        self, detail: str, *, retry_after: float | None = None, reason: str | None = None, **extra: Any
    ) -> None:
        """Describe an error. `reason` is for the log alone, `extra` are fields of the response."""
        super().__init__(detail)
        self.detail = detail
        self.reason = reason
        self.extra = extra
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidInputError(ServiceError):
    """A field, a header or the body of a request cannot be used."""

    code, status = "INVALID_INPUT", 400
    example = "tier: Input should be 'basic', 'standard', 'professional' or 'industry'"


class InvalidImageError(ServiceError):
    """The bytes are not a whole picture."""

    code, status = "INVALID_IMAGE", 400
    example = "The file is empty. Send the picture's bytes."


class UnauthenticatedError(ServiceError):
    """The request does not prove who calls."""

    code, status = "UNAUTHENTICATED", 401
    example = "Send an API key (X-Api-Key) or a token (Authorization: Bearer)."
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    """The caller is known and may not do this."""

    code, status = "FORBIDDEN", 403
    example = "Only an admin may do this."


class NotFoundError(ServiceError):
    """There is no such thing, or it belongs to another user."""

    code, status = "NOT_FOUND", 404
    example = "You have no job by this id."


class MethodNotAllowedError(ServiceError):
    """The path exists and does not take this method."""

    code, status = "METHOD_NOT_ALLOWED", 405
    example = "Method Not Allowed"


class BodyTooSlowError(ServiceError):
    """The body did not arrive in time."""

    code, status = "BODY_TOO_SLOW", 408
    example = "The body did not come within 120 s. Send it again."


class ConflictError(ServiceError):
    """The request contradicts what is there already."""

    code, status = "CONFLICT", 409
    example = "This paymentId was used for another purchase. A payment buys once; take its own id."


class ImageTooLargeError(ServiceError):
    """A picture has too many bytes or too many pixels."""

    code, status = "IMAGE_TOO_LARGE", 413
    example = "The upload is larger than 30 MB. Send a smaller file."


class BodyTooLargeError(ServiceError):
    """The body as a whole is too large."""

    code, status = "BODY_TOO_LARGE", 413
    example = "The body is larger than 100 kB. Send less."


class UnsupportedFormatError(ServiceError):
    """The file is of a kind that is not read."""

    code, status = "UNSUPPORTED_FORMAT", 415
    example = "This is no picture that can be read. Send a JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF."


class InternalError(ServiceError):
    """A fault of the service itself."""

    code, status = "INTERNAL", 500
    example = UNEXPECTED


class ModelUnavailableError(ServiceError):
    """No picture can be made on this host as it is."""

    code, status = "MODEL_UNAVAILABLE", 503
    example = "The models are still loading. Try again in a moment."


class OverloadedError(ServiceError):
    """The service has as much in work as it takes."""

    code, status = "OVERLOADED", 503
    example = "64 photos are waiting already. Try again in a moment."
    retry_after = 5


class DeadlineExceededError(ServiceError):
    """A photo was not done in its time."""

    code, status = "DEADLINE_EXCEEDED", 504
    example = "The photo was not done in its time. Try again in a moment."


class JobFailedError(ServiceError):
    """A job failed in another process; the code and the detail are those of its row."""

    def __init__(self, code: str, detail: str) -> None:
        kind = kinds_by_code().get(code, InternalError)
        super().__init__(detail, retry_after=kind.retry_after)
        self.code = code
        self.status = kind.status
        self.headers = kind.headers


# The nearest class in the error's own ancestry decides, so that a more special one can have its own code.
ENGINE_ERRORS: dict[type[BaseException], type[ServiceError]] = {
    engine.UnsupportedFormat: UnsupportedFormatError,
    engine.PhotoTooLarge: ImageTooLargeError,
    engine.InvalidPhoto: InvalidImageError,
    engine.InvalidOptions: InvalidInputError,
    engine.Overloaded: OverloadedError,
    engine.DeadlineExceeded: DeadlineExceededError,
    engine.NetworkFailed: InternalError,
    engine.ModelUnavailable: ModelUnavailableError,
}


def kinds_by_code() -> dict[str, type[ServiceError]]:
    """Return the class that introduces each code, ordered by status."""
    kinds = {kind.code: kind for kind in _subclasses(ServiceError) if "code" in vars(kind)}
    return dict(sorted(kinds.items(), key=lambda item: item[1].status))


def from_engine(error: engine.CutoutError) -> ServiceError:
    """Translate an error of the engine."""
    kind = next((ENGINE_ERRORS[kind] for kind in type(error).__mro__ if kind in ENGINE_ERRORS), InternalError)
    retry_after = error.retry_after if isinstance(error, engine.Overloaded) else None
    return kind(str(error), retry_after=retry_after)


def describe(error: BaseException) -> tuple[str, str]:
    """Return the code and the detail of an error, as the response and the job's row have them.

    The message of an unexpected error is for the log alone.
    """
    if isinstance(error, engine.CutoutError):
        error = from_engine(error)
    if isinstance(error, ServiceError):
        return error.code, shorten(error.detail)
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", HUNG_UP
    return InternalError.code, UNEXPECTED


def shorten(text: str) -> str:
    """Return a text, or the beginning of one that is longer than a job's row keeps."""
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"


def _subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
