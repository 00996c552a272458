"""What the APIs of others have in common: photos from files or URLs, and pictures as bytes or in JSON."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cutout.app.compat.errors import CompatInputError
from cutout.app.compat.fields import LONGEST_URL, Fields
from cutout.app.net.image_fetcher import FetchedTooLarge, ImageFetcher, NotFetched
from cutout.app.removals.remote import RemotePhoto

# Writing more than this as base64 is not done between the requests of others.
MOST_AT_ONCE_BYTES = 500_000


def photo_of(fields: Fields, files: Sequence[str], url: str, fetcher: ImageFetcher) -> bytes | RemotePhoto:
    """Return the photo of a request: one of its `files`, or what its field `url` leads to.

    Raises:
        CompatInputError: there is none, or more than one; or the URL is malformed.

    """
    # A file's name with a text is none: such a field is for forms with files.
    sent = [*(name for name in files if name in fields.files), *({url} & fields.texts.keys())]
    if len(sent) > 1 or fields.repeated.intersection(files):
        raise CompatInputError(f"Send only one photo: {', '.join(files)} or {url}.", "multiple_sources")
    if not sent:
        raise CompatInputError(f"Send a photo: {', '.join(files)} or {url}.", "missing_source")
    if sent[0] in fields.files:
        return fields.files[sent[0]]
    address = checked_url(fields, url, fetcher)
    return RemotePhoto(address, fetching(fetcher, url, "failed_image_download"))


def checked_url(fields: Fields, name: str, fetcher: ImageFetcher) -> str:
    """Return the URL in a field, which is set, after checking how it is written.

    Raises:
        CompatInputError: it is malformed, too long, or contains a password.

    """
    url = fields.texts[name].strip()
    if len(url) > LONGEST_URL:
        raise CompatInputError(f"{name}: send at most {LONGEST_URL} characters.", f"invalid_{name}")
    try:
        fetcher.check(url)
    except NotFetched as error:
        raise CompatInputError(_named(error.detail, name), f"invalid_{name}") from None
    return url


def fetching(fetcher: ImageFetcher, name: str, failed: str) -> Callable[[str], Awaitable[bytes]]:
    """Return a function that fetches what the URL in a field leads to.

    The function raises CompatInputError, with the code `failed` where it cannot be fetched.
    """

    async def fetch(url: str) -> bytes:
        try:
            return await fetcher.fetch(url)
        except NotFetched as error:
            raise CompatInputError(_named(error.detail, name), failed) from None
        except FetchedTooLarge as error:
            raise CompatInputError(_named(error.detail, name), "file_too_large") from None

    return fetch


def wants_json(accept: str) -> bool:
    """Tell whether an `Accept` header asks for JSON before any picture.

    A client that takes anything gets the picture: `application/json, text/plain, */*` is what axios sends by itself, also
    where it wants bytes.
    """
    types = [entry.split(";")[0].strip() for entry in accept.lower().split(",")]
    if "*/*" in types:
        return False
    return next(
        (entry for entry in types if entry.startswith(("application/json", "image/"))), ""
    ).startswith("application/json")


async def json_with_picture(document: dict[str, Any], key: str, picture: bytes) -> bytes:
    """Return a JSON document, to whose innermost object the picture is added as base64."""

    def write() -> bytes:
        start, end = json.dumps(document)[:-1], "}"
        while start.endswith("}"):
            start, end = start[:-1], f"{end}}}"
        comma = "" if start.endswith("{") else ", "
        head = f'{start}{comma}"{key}": "'.encode()
        return b"".join((head, base64.b64encode(picture), f'"{end}'.encode()))

    return await asyncio.to_thread(write) if len(picture) > MOST_AT_ONCE_BYTES else write()


def _named(detail: str, name: str) -> str:
    """Name the field as their clients know it."""
    return detail.replace("imageUrl: ", f"{name}: ")
