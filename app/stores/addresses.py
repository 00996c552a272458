"""Addresses of stores as users give them: `https://…` for a PUT or `s3://…`, with placeholders for names."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from cutout.app.config.stores import SCHEME, read_s3_url
from cutout.app.core.errors import InvalidInputError
from cutout.app.db.tables import Job, StoreDelivery
from cutout.app.net.url_policy import NotAllowed, UrlPolicy

LONGEST_URL = 4096
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
# The names of placeholders, and whether their values differ between the photos of a batch.
KNOWN = {"{name}": True, "{position}": True, "{jobId}": True, "{format}": False}
IN_BATCHES = ("{name}", "{position}")
# A photo's name may have what `read_s3_url` refuses, because a server behind another one may decode or cut it.
NOT_IN_KEYS = re.compile(r"[%?#\\]")


class CannotStore(InvalidInputError):
    """A result cannot be stored at the address in the request; the message says why, without the address."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"storeUrl: {reason}")


def is_s3(url: str) -> bool:
    return url.startswith(SCHEME)


def read_address(url: str, destinations: UrlPolicy, *, in_batch: bool) -> str:
    """Return an address of a store if its form is valid; `s3://…/` gets the placeholders of a name.

    Raises:
        CannotStore: it is malformed, has an unknown placeholder, or has one before its path.

    """
    if len(url) > LONGEST_URL:
        raise CannotStore(f"The address is longer than {LONGEST_URL} characters.")
    allowed = [name for name in KNOWN if in_batch or name not in IN_BATCHES]
    if any(found not in allowed for found in PLACEHOLDER.findall(url)) or re.search(
        "[{}]", PLACEHOLDER.sub("", url)
    ):
        raise CannotStore(f"The placeholders in an address may be {', '.join(allowed)}; encode other braces.")
    if is_s3(url):
        if url.endswith("/"):
            url += "{name}" if in_batch else "{jobId}.{format}"
        try:
            bucket, key = read_s3_url(url)
        except ValueError as error:
            raise CannotStore(f"This is no name in a bucket: {error}.") from None
        if "{" in bucket or not key:
            raise CannotStore("The name of the bucket must have no placeholder.")
        return url
    scheme, _, rest = url.partition("://")
    if "{" in scheme + re.split(r"[/?#\\]", rest)[0]:
        raise CannotStore("Placeholders may stand in the path and the query of an address only.")
    try:
        destinations.read(PLACEHOLDER.sub("0", url))
    except NotAllowed as error:
        raise CannotStore(f"{error} Give a signed address for a PUT, or s3://bucket/prefix/.") from None
    return url


def assign(addresses: Sequence[str], photos: int) -> list[str]:
    """Return the address of each photo of a batch, from one for all or one for each, in order.

    Raises:
        CannotStore: there are too few or too many, or two photos would have the same address.

    """
    if len(addresses) == 1:
        if not _tells_photos_apart(addresses[0]):
            raise CannotStore(
                f"One address cannot hold {photos} photos. Give s3://bucket/prefix/, or an address with {{name}} or"
                " {position} in it, or the field once for each photo, in the order of images."
            )
        return list(addresses) * photos
    if len(addresses) != photos:
        raise CannotStore(
            f"{len(addresses)} addresses were received for {photos} photos. Give one for all of them, or the field once"
            " for each photo, in the order of images."
        )
    fixed = [url for url in addresses if not _tells_photos_apart(url)]
    if len(set(fixed)) < len(fixed):
        raise CannotStore("Two photos have the same address, so one would overwrite the other.")
    return list(addresses)


def names_for(addresses: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names of photos as they may be filled in: in a bucket's key, what it may not have becomes `_`."""
    if not any(map(is_s3, addresses)):
        return list(names)
    return [NOT_IN_KEYS.sub("_", name) for name in names]


def filled(delivery: StoreDelivery, job: Job) -> str:
    """Return the address with its placeholders filled in for a completed job; names are percent-encoded in a URL."""
    name = f"{delivery.stem or job.id}.{job.format}"
    values: Mapping[str, str] = {
        "{name}": name if is_s3(delivery.target) else quote(name, safe=""),
        "{position}": str(job.position or 0),
        "{jobId}": str(job.id),
        "{format}": job.format,
    }
    # In one pass, since a photo's name may look like a placeholder.
    return PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), delivery.target)


def without_signature(url: str) -> str:
    """Return an address without its query, in which signatures are."""
    return url if is_s3(url) else re.split(r"[?#]", url, maxsplit=1)[0]


def _tells_photos_apart(url: str) -> bool:
    return any(name in url for name, differs in KNOWN.items() if differs)
