"""Pictures that a request names by their URLs. They are fetched after its idempotency key, before anything is held."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cutout.inference.imaging.backgrounds import Picture


@dataclass(frozen=True)
class RemotePhoto:
    """A photo at a URL."""

    # A signed URL is a key to the photo, so it stays out of logs.
    url: str = field(repr=False)
    fetch: Callable[[str], Awaitable[bytes]] = field(repr=False)


@dataclass(frozen=True)
class RemoteBackground:
    """A picture at a URL, to put behind the subject."""

    url: str = field(repr=False)
    fetch: Callable[[str], Awaitable[Picture]] = field(repr=False)

    @property
    def stand_in(self) -> Picture:
        """What stands for the picture in options until it is fetched: it names the URL, not the picture."""
        return Picture(hashlib.sha256(b"backgroundImageUrl\n" + self.url.encode()).hexdigest())
