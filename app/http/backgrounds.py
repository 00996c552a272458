"""The picture behind a cut-out, as a request sends it: a part of a form, or a URL."""

import asyncio

from cutout.app.core.errors import InvalidBackgroundError, InvalidInputError
from cutout.app.net.image_fetcher import FetchedTooLarge, ImageFetcher, NotFetched
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.limits import SizeLimits
from cutout.inference.option_values import as_background

# The part with the file, and the field with the URL.
PART, URL = "backgroundImage", "backgroundImageUrl"


def require_one(background: str | None, url: str | None, *, has_part: bool) -> None:
    """Return if a request has at most one background.

    Raises:
        InvalidInputError: it has several.

    """
    if (background is not None) + (url is not None) + has_part > 1:
        raise InvalidInputError(f"Send only one of background, {PART} and {URL}.")


def too_large(limit_bytes: int) -> InvalidBackgroundError:
    """Return the error for a picture that exceeds the size limit of an upload."""
    return InvalidBackgroundError(
        f"{PART}: The picture is larger than {limit_bytes // 1_000_000} MB. Send a smaller one."
    )


async def read_part(part: bytes, sizes: SizeLimits) -> Picture:
    """Return the picture that a request sends as a part, after a look at its header.

    Raises:
        InvalidBackground: it is none, or is too large.

    """
    return await asyncio.to_thread(as_background, part, PART, sizes)


async def fetch_background(url: str, fetcher: ImageFetcher, sizes: SizeLimits) -> Picture:
    """Fetch the picture that a request names by its URL, and look at its header.

    Raises:
        InvalidBackgroundError, InvalidBackground: the picture cannot be fetched, or is none, or is too large.
        Overloaded: too many pictures are being fetched.

    """
    try:
        data = await fetcher.fetch(url)
    except NotFetched as error:
        raise InvalidBackgroundError(f"{URL}: {error.why} Check the address, or send a file.") from None
    except FetchedTooLarge as error:
        raise InvalidBackgroundError(f"{URL}: {error.why}") from None
    return await asyncio.to_thread(as_background, data, URL, sizes)
