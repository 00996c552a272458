"""The codes by which errors of the engine are told: in answers, in job rows, in a batch's manifest."""

from inference import errors as engine

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
    if isinstance(error, Coded):
        return error.code
    return next((ENGINE_CODES[kind] for kind in type(error).__mro__ if kind in ENGINE_CODES), "INTERNAL")
