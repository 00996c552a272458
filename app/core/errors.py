"""Base classes of the errors that the API returns to clients, and the mapping of engine errors to them.

To add a kind of error, define a subclass of `ServiceError`, or of a class in this module, in the module that raises it.
Its response, its entry in OpenAPI and what a worker writes into a job's row all follow from the class.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from cutout.inference import errors as engine

# A detail may quote a field of the request, which may be long.
LONGEST_DETAIL = 1000
UNEXPECTED = "Something went wrong on our side. Try again; if it persists, report it with the requestId."
# Stored in the job's row; the client closed the connection and gets no response.
HUNG_UP = "The connection was closed before the picture was ready. Nothing was charged; send the photo again."


class OperatorError(Exception):
    """An error for the operator of the host; the message says what is wrong and what to do."""


class ServiceError(Exception):
    """An error for the client: a stable code, an HTTP status code, and a detail that says what to do.

    A subclass sets `code`, `status` and `example`, a detail that OpenAPI shows. `retry_after`, in seconds, and
    `headers` are sent with the response. `extra` holds additional fields of the response; `example_extra` is an example
    of them.
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
        """Create an error. `reason` is only logged; `extra` are additional fields of the response."""
        super().__init__(detail)
        self.detail = detail
        self.reason = reason
        self.extra = extra
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidInputError(ServiceError):
    """A field, a header or the body of a request cannot be used."""

    code, status = "INVALID_INPUT", 400
    example = "tier: Input should be 'basic', 'standard', 'professional', 'industry' or 'preview'"


class InvalidImageError(ServiceError):
    """The bytes are not a complete image."""

    code, status = "INVALID_IMAGE", 400
    example = "The file is empty. Send the picture's bytes."


class InvalidBackgroundError(InvalidInputError):
    """The picture for the background cannot be read or fetched."""

    code = "INVALID_BACKGROUND"
    example = "backgroundImage: The file is damaged or incomplete. Send another picture."


class RegionOutsideError(InvalidInputError):
    """The region of interest reaches beyond the photo."""

    code = "REGION_OUTSIDE"
    example = (
        "The region ends at 900 × 600, and the photo has 800 × 600 pixels. Give a region within the photo."
    )


class RegionEmptyError(InvalidInputError):
    """The region of interest has no pixels."""

    code = "REGION_EMPTY"
    example = (
        "The region has no pixels. Give its left, top, right and bottom, each further than the one opposite."
    )


class NoSubjectError(ServiceError):
    """The photo shows no subject, and the request requires one."""

    code, status = "NO_SUBJECT", 400
    example = "No subject was found in this photo. Try another photo, or another region of it."


class UnauthenticatedError(ServiceError):
    """The request has no valid credentials."""

    code, status = "UNAUTHENTICATED", 401
    example = "Send an API key (X-Api-Key) or a token (Authorization: Bearer)."
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    """The caller is authenticated but may not do this."""

    code, status = "FORBIDDEN", 403
    example = "Only an admin may do this."


class NotFoundError(ServiceError):
    """The resource does not exist, or it belongs to another user."""

    code, status = "NOT_FOUND", 404
    example = "You have no job with this id."


class MethodNotAllowedError(ServiceError):
    """The path exists but does not support this method."""

    code, status = "METHOD_NOT_ALLOWED", 405
    example = "Method Not Allowed"


class BodyTooSlowError(ServiceError):
    """The body did not arrive in time."""

    code, status = "BODY_TOO_SLOW", 408
    example = "The body was not received within 120 s. Send it again."


class ConflictError(ServiceError):
    """The request conflicts with the current state."""

    code, status = "CONFLICT", 409
    example = "This paymentId was already used for another purchase. Use a new one for each purchase."


class ImageTooLargeError(ServiceError):
    """An image has too many bytes or too many pixels."""

    code, status = "IMAGE_TOO_LARGE", 413
    example = "The upload is larger than 30 MB. Send a smaller file."


class BodyTooLargeError(ServiceError):
    """The body as a whole is too large."""

    code, status = "BODY_TOO_LARGE", 413
    example = "The body is larger than 100 kB. Send less."


class UnsupportedFormatError(ServiceError):
    """The file format is not supported."""

    code, status = "UNSUPPORTED_FORMAT", 415
    example = (
        "This file is not a picture that can be read. Send a JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF."
    )


class InternalError(ServiceError):
    """A fault of the service itself."""

    code, status = "INTERNAL", 500
    example = UNEXPECTED


class ModelUnavailableError(ServiceError):
    """The models are not available on this host, so it cannot process photos."""

    code, status = "MODEL_UNAVAILABLE", 503
    example = "The models are still loading. Try again in a moment."


class OverloadedError(ServiceError):
    """The service is at its capacity limit."""

    code, status = "OVERLOADED", 503
    example = "64 photos are already waiting. Try again in a moment."
    retry_after = 5


class DeadlineExceededError(ServiceError):
    """A photo was not processed in time."""

    code, status = "DEADLINE_EXCEEDED", 504
    example = "The photo was not processed in time. Try again in a moment."


class JobFailedError(ServiceError):
    """A job failed in another process; the code and the detail come from its row."""

    def __init__(self, code: str, detail: str) -> None:
        kind = kinds_by_code().get(code, InternalError)
        super().__init__(detail, retry_after=kind.retry_after)
        self.code = code
        self.status = kind.status
        self.headers = kind.headers


# The first class in the error's MRO that is listed here decides, so a subclass can have its own code.
ENGINE_ERRORS: dict[type[BaseException], type[ServiceError]] = {
    engine.UnsupportedFormat: UnsupportedFormatError,
    engine.PhotoTooLarge: ImageTooLargeError,
    engine.InvalidPhoto: InvalidImageError,
    engine.InvalidOptions: InvalidInputError,
    engine.RegionOutside: RegionOutsideError,
    engine.RegionEmpty: RegionEmptyError,
    engine.InvalidBackground: InvalidBackgroundError,
    engine.MasksUnusable: ConflictError,
    engine.NoSubject: NoSubjectError,
    engine.Overloaded: OverloadedError,
    engine.DeadlineExceeded: DeadlineExceededError,
    engine.NetworkFailed: InternalError,
    engine.ModelUnavailable: ModelUnavailableError,
}


def kinds_by_code() -> dict[str, type[ServiceError]]:
    """Return the class that defines each code, ordered by status code."""
    kinds = {kind.code: kind for kind in _subclasses(ServiceError) if "code" in vars(kind)}
    return dict(sorted(kinds.items(), key=lambda item: item[1].status))


def from_engine(error: engine.CutoutError) -> ServiceError:
    """Translate an error of the engine into a `ServiceError`."""
    kind = next((ENGINE_ERRORS[kind] for kind in type(error).__mro__ if kind in ENGINE_ERRORS), InternalError)
    retry_after = error.retry_after if isinstance(error, engine.Overloaded) else None
    return kind(str(error), retry_after=retry_after)


def server_faults() -> list[str]:
    """Return the codes of all known errors that are the service's own fault, with a status of 500 or more, sorted."""

    def below(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    return sorted({kind.code for kind in below(ServiceError) if getattr(kind, "status", 0) >= 500})


def describe(error: BaseException) -> tuple[str, str]:
    """Return the code and the detail of an error, as used in the response and in the job's row.

    The message of an unexpected error is not included; it is only for the log.
    """
    if isinstance(error, engine.CutoutError):
        error = from_engine(error)
    if isinstance(error, ServiceError):
        return error.code, shorten(error.detail)
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", HUNG_UP
    return InternalError.code, UNEXPECTED


def shorten(text: str) -> str:
    """Return a text, truncated with "…" to `LONGEST_DETAIL` characters if it is longer."""
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"


def _subclasses(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
