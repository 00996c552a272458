"""Errors of requests that were written for another API."""

from cutout.app.core.errors import InvalidInputError


class CompatInputError(InvalidInputError):
    """A request for another API cannot be used; `theirs` is that API's own code of the error."""

    def __init__(self, detail: str, theirs: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.theirs = theirs
        if status is not None:
            self.status = status
