"""Errors as remove.bg answers them: `{"errors": [{"title", "code", "detail"}]}`."""

import math
import time

from fastapi.responses import JSONResponse

from cutout.app.compat.errors import CompatInputError
from cutout.app.core.errors import ImageTooLargeError, ServiceError, shorten
from cutout.app.ratelimit.limits import RateLimited, WindowState

# Their status and code for ours; codes that are not here stay, in small letters, with their status.
CODES = {
    "UNAUTHENTICATED": (403, "auth_failed"),
    "FORBIDDEN": (403, "auth_failed"),
    "INSUFFICIENT_CREDITS": (402, "insufficient_credits"),
    "RATE_LIMITED": (429, "rate_limit_exceeded"),
    "INVALID_IMAGE": (400, "failed_to_read_image"),
    "UNSUPPORTED_FORMAT": (400, "invalid_file_type"),
    "IMAGE_TOO_LARGE": (400, "file_too_large"),
    "BODY_TOO_LARGE": (400, "file_too_large"),
    "INVALID_BACKGROUND": (400, "failed_bg_download"),
    "REGION_OUTSIDE": (400, "roi_exceeds_bounds"),
    "REGION_EMPTY": (400, "roi_region_empty"),
    "NO_SUBJECT": (400, "unknown_foreground"),
}
# A photo with too many pixels has the code of a file with too many bytes, and names the setting.
PIXELS = {
    "CUTOUT_MAX_MEGAPIXELS": (400, "resolution_too_high"),
    "CUTOUT_MAX_SIDE": (400, "invalid_dimensions"),
    "CUTOUT_MAX_RATIO": (400, "invalid_dimensions"),
}
# Sent where calls are not limited: clients read numbers.
UNLIMITED = 1_000_000


def remove_bg_error(error: ServiceError, request_id: str) -> JSONResponse:
    """Return the response of an error. The title is the whole sentence, because it is what their clients show."""
    status, code = their_code(error)
    headers = {name: value for name, value in error.headers.items() if name.lower() == "allow"}
    if status == 429:
        seconds = math.ceil(error.retry_after or 1)
        headers["Retry-After"] = str(seconds)
        if isinstance(error, RateLimited):
            headers |= rate_limit_headers(error.limit.calls, WindowState(0, seconds))
    problem = {"title": shorten(error.detail), "code": code, "detail": f"Request {request_id}"}
    return JSONResponse({"errors": [problem]}, status, headers)


def rate_limit_headers(calls: int | None, state: WindowState | None) -> dict[str, str]:
    """Return the headers about a caller's rate limit. The reset is in seconds since 1970, as theirs is."""
    if calls is None or state is None:
        calls, state = UNLIMITED, WindowState(UNLIMITED, 0)
    return {
        "X-RateLimit-Limit": str(calls),
        "X-RateLimit-Remaining": str(state.left),
        "X-RateLimit-Reset": str(math.ceil(time.time() + state.seconds)),
    }


def their_code(error: ServiceError) -> tuple[int, str]:
    """Return the status and the code with which remove.bg answers an error."""
    if isinstance(error, CompatInputError):
        return error.status, error.theirs
    if error.code == ImageTooLargeError.code:
        for setting, pixels in PIXELS.items():
            if setting in error.detail:
                return pixels
    return CODES.get(error.code, (error.status, error.code.lower()))
