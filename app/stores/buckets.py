"""Buckets that the operator has assigned to users, and storing a result in one."""

import asyncio
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from cutout.app.config.stores import SCHEME, AssignedStore
from cutout.app.db.tables import User
from cutout.app.notifications.errors import NotDelivered

if TYPE_CHECKING:
    from obstore.store import S3Credential

CONNECT_SECONDS = 5
# What a refusal means, by the code of S3, for the operator to mend.
REFUSED = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "its key may not write there",
    "InvalidAccessKeyId": "its key is not known there",
    "SignatureDoesNotMatch": "its key is wrong",
}
NOT_ASSIGNED = (
    "No bucket with this prefix is assigned to you. Ask the operator of this service to assign it (CUTOUT_STORES), or"
    " give a signed address for a PUT."
)


class Buckets:
    """The stores of `CUTOUT_STORES`. Each is written with its own key; no key of the host or the service is used."""

    def __init__(self, stores: Iterable[AssignedStore] = ()) -> None:
        self._stores = tuple(stores)
        self._clients: dict[int, S3Store] = {}

    def find(self, user: User, url: str) -> AssignedStore | None:
        """Return the store of a user in which `s3://bucket/key` is: the one with the longest prefix; None without one."""
        names = {name for name in (str(user.id), user.subject, user.email) if name}
        mine = [
            store
            for store in self._stores
            # A prefix is empty or ends with a slash, so that it ends where a segment does.
            if url.startswith(f"{SCHEME}{store.bucket}/{store.prefix}") and names & set(store.users)
        ]
        return max(mine, key=lambda store: len(store.prefix), default=None)

    async def put(self, user: User, url: str, data: bytes, media_type: str, seconds: float) -> None:
        """Store a result at `s3://bucket/key`.

        Raises:
            NotDelivered: no such store is assigned to the user any more, or it does not take the result.

        """
        store = self.find(user, url)
        if store is None:
            raise NotDelivered(NOT_ASSIGNED, final=True)
        key = url.removeprefix(f"{SCHEME}{store.bucket}/")
        try:
            async with asyncio.timeout(seconds):
                await obstore.put_async(
                    self._client(store),
                    key,
                    data,
                    attributes={"Content-Type": media_type},
                    use_multipart=False,
                )
        except TimeoutError:
            raise NotDelivered(f"The store did not answer within {seconds:g} s.") from None
        except (BaseError, FileNotFoundError, PermissionError) as error:
            raise NotDelivered(_reason(error)) from None
        except ValueError:
            raise NotDelivered("S3 cannot store an object of this name.", final=True) from None

    def _client(self, store: AssignedStore) -> S3Store:
        number = self._stores.index(store)
        if number not in self._clients:
            self._clients[number] = _open(store)
        return self._clients[number]


def _open(store: AssignedStore) -> S3Store:
    credentials: S3Credential = {
        "access_key_id": store.access_key_id,
        "secret_access_key": store.secret_access_key.get_secret_value(),
        "token": None,
        "expires_at": None,
    }
    # All is named, since obstore takes from the host's environment what is not: its endpoint, keys and tokens.
    return S3Store(
        store.bucket,
        endpoint=store.endpoint or f"https://s3.{store.region}.amazonaws.com",
        region=store.region,
        skip_signature=False,
        virtual_hosted_style_request=False,
        credential_provider=lambda: credentials,
        client_options={"allow_http": True, "connect_timeout": f"{CONNECT_SECONDS}s", "timeout": "300s"},
        # Callers set their own limits on the time; the outbox repeats what fails.
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=CONNECT_SECONDS)},
    )


def _reason(error: Exception) -> str:
    """Return why a bucket does not take a result, in this module's own words."""
    found = re.search("<Code>([A-Za-z]+)</Code>", str(error))
    told = REFUSED.get(found[1]) if found else None
    if told is not None:
        return f"The store refuses the result: {told}. The operator of this service can mend that (CUTOUT_STORES)."
    return "The store does not answer as expected."
