"""Shares of what few callers can have at once, so that no caller takes all of it."""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cutout.app.core.errors import OverloadedError


class Shares:
    """Limits how many places each user has at once. For one event loop."""

    def __init__(self, most: int, refusal: str) -> None:
        """Give each user `most` places; `refusal` tells a user who would have more what to do."""
        self._most = most
        self._refusal = refusal
        self._taken = Counter[uuid.UUID]()

    @contextmanager
    def one(self, user_id: uuid.UUID) -> Iterator[None]:
        """Take a place for a user until the end of the block.

        Raises:
            OverloadedError: the user has their share.

        """
        if self._taken[user_id] >= self._most:
            raise OverloadedError(self._refusal)
        self._taken[user_id] += 1
        try:
            yield
        finally:
            self._taken[user_id] -= 1
            if not self._taken[user_id]:
                del self._taken[user_id]
