"""A service whose users have stores: a web server that takes a PUT, and buckets of a real S3 server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import obstore
from obstore.store import S3Store
from sqlalchemy import select

from cutout.app.db.session import Database
from cutout.app.db.tables import StoreDelivery, now
from cutout.app.stores.service import ResultStores
from tests.app.api_client import ANNA, API, ApiClient
from tests.app.s3_fixtures import S3Server
from tests.fakes import PATIENCE, photo_bytes
from tests.http import http
from tests.web import PUBLIC, Page, Visit, Web

SIGNATURE = "X-Amz-Signature=not-to-be-told"
STORE_KEY, STORE_SECRET = "the-store-key", "not-to-be-told-either"


def stores_file(folder: Path, endpoint: str, **changes: str) -> Path:
    """Write a file with a store for Anna and one for Ben; `changes` are further lines of Anna's."""
    keys = f'endpoint = "{endpoint}"\nsecret_access_key = "{STORE_SECRET}"\n'
    more = "".join(f"{name} = {value}\n" for name, value in changes.items())
    path = folder / "stores.toml"
    path.write_text(
        f'[[store]]\nurl = "s3://shop-a/cutouts/"\nusers = ["anna"]\naccess_key_id = "{STORE_KEY}"\n{keys}{more}'
        f'[[store]]\nurl = "s3://shop-b/"\nusers = ["ben"]\naccess_key_id = "key-of-b"\n{keys}'
    )
    return path


def make_buckets(s3: S3Server) -> None:
    for bucket in ("shop-a", "shop-b"):
        http.put(f"{s3.address}/{bucket}").raise_for_status()


def bucket_of(s3: S3Server, bucket: str) -> S3Store:
    """Open a bucket as its owner."""
    return S3Store(
        bucket,
        endpoint=s3.address,
        region="us-east-1",
        access_key_id="owner",
        secret_access_key="secret",
        client_options={"allow_http": True},
    )


def object_of(s3: S3Server, bucket: str, key: str) -> tuple[bytes, str]:
    """Return the content and the media type of an object."""
    found = obstore.get(bucket_of(s3, bucket), key)
    return bytes(found.bytes()), found.attributes["Content-Type"]


def keys_of(s3: S3Server, bucket: str) -> list[str]:
    return sorted(one["path"] for page in obstore.list(bucket_of(s3, bucket)) for one in page)


def address(web: Web, path: str = "/put/picture.png") -> str:
    return f"http://{PUBLIC}:{web.port}{path}?{SIGNATURE}"


def path_of(path: str = "/put/picture.png") -> str:
    return f"{path}?{SIGNATURE}"


def puts(web: Web) -> list[str]:
    return [path for _, path, _ in web.seen]


def remove(shop: ApiClient, url: str, headers: dict[str, str] = ANNA, **fields: str) -> httpx2.Response:
    return shop.remove(headers, photo_bytes(), storeUrl=url, **fields)


def rows(database: Database) -> list[StoreDelivery]:
    with database.read() as session:
        return list(session.scalars(select(StoreDelivery).order_by(StoreDelivery.created_at)))


def later(shop: ApiClient, wait: timedelta, **changes: Any) -> ResultStores:
    """Return the stores as another process of the service has them, after some time."""
    at = now() + wait
    usual: dict[str, Any] = {"clock": lambda: at, "chance": lambda: 0.0}
    return replace(shop.state.get(ResultStores), **(usual | changes))


def deliver(stores: ResultStores) -> int:
    async def due() -> int:
        async with asyncio.timeout(PATIENCE):
            return await stores.deliver_due()

    return asyncio.run(due())


def job_of(shop: ApiClient, job_id: str, who: dict[str, str] = ANNA) -> dict[str, Any]:
    found: dict[str, Any] = shop.get(f"{API}/jobs/{job_id}", who).raise_for_status().json()
    return found


def hang_up(visit: Visit) -> None:
    """Close the connection without an answer."""


@contextmanager
def pages(web: Web, path: str, *some: Page) -> Iterator[None]:
    """Answer the calls of a path with these pages in turn; the last one is repeated."""
    left = list(some)

    def page(visit: Visit) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(visit)

    web.pages[path] = page
    yield
