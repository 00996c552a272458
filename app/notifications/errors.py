"""Errors shared by the notification channels, webhook and e-mail."""

from datetime import timedelta

from cutout.app.core.errors import InvalidInputError


class CannotNotify(InvalidInputError):
    """No notification can be sent to the address in the request; the message says why."""


class NotDelivered(Exception):
    """A delivery attempt failed. The message says why, and contains nothing that the remote server sent.

    `status` is the HTTP status code of a webhook's response. `final` means that a retry is useless. `retry_after` is
    how long the server asks to wait before the next attempt.
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
