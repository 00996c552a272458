"""What web addresses and mail have in common, by which a batch's end is told: how they refuse, and how they fail."""

from datetime import timedelta

from cutout.app.core.errors import InvalidInputError


class CannotNotify(InvalidInputError):
    """Nobody can be told at an address that a caller gives; the message says why."""


class NotDelivered(Exception):
    """Word did not arrive; the message says why, and repeats nothing that a server said.

    `status` is what a web address answered. `final`: another attempt is no use. `retry_after`: how long it asks to be
    left alone.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        final: bool = False,
        retry_after: timedelta = timedelta(0),
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.final = final
        self.retry_after = retry_after
