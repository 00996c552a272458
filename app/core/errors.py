"""The codes by which errors of the engine are told: in answers, in job rows, in a batch's manifest."""

import asyncio

from cutout.inference import errors as engine

# A detail may repeat what was sent, which may be long.
LONGEST_DETAIL = 1000
UNEXPECTED = "Something went wrong on our side. Try again, and name the requestId if it persists."
# Nobody is there to be answered so: it stands in the job's row.
HUNG_UP = "The connection was closed before the picture was there. Nothing was charged; send the photo again."

# The nearest class in the error's own ancestry decides, so a more special one stands for itself.
ENGINE_CODES: dict[type[BaseException], str] = {
    engine.UnsupportedFormat: "UNSUPPORTED_FORMAT",
    engine.PhotoTooLarge: "IMAGE_TOO_LARGE",
    engine.InvalidPhoto: "INVALID_IMAGE",
    engine.InvalidOptions: "INVALID_INPUT",
    engine.Overloaded: "OVERLOADED",
    engine.DeadlineExceeded: "DEADLINE_EXCEEDED",
    engine.NetworkFailed: "INTERNAL",
    engine.ModelUnavailable: "MODEL_UNAVAILABLE",
}


class Explained(Exception):
    """An error that says to the host's owner what is wrong and what to do."""


class Coded(Exception):
    """An error that came from elsewhere by its code and its words."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def code_of(error: BaseException) -> str:
    """Return an error's code; what is not known is our own fault."""
    return describe(error)[0]


def describe(error: BaseException) -> tuple[str, str]:
    """Return the code and the words by which an error is told: in the answer, and the same in the job's row.

    The words of an error that nobody has thought of are for the log alone.
    """
    if isinstance(error, Coded):
        return error.code, shorten(str(error))
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", HUNG_UP
    code = next((ENGINE_CODES[kind] for kind in type(error).__mro__ if kind in ENGINE_CODES), None)
    if code is not None:
        return code, shorten(str(error))
    if isinstance(error, engine.CutoutError):
        return "INTERNAL", shorten(str(error))
    return "INTERNAL", UNEXPECTED


def shorten(text: str) -> str:
    """Return a text, or the beginning of one that is longer than a job's row keeps."""
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"
