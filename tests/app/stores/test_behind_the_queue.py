"""`storeUrl` where a worker makes the picture: the service that the caller waits for delivers it, once."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs.queue import Queue
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import UrlPolicy
from cutout.app.removals import service as removals
from cutout.app.storage.local import LocalStorage
from cutout.app.stores.service import ResultStores
from cutout.inference.options import Options
from tests.app.stores.store_fixtures import address, deliver, path_of
from tests.fakes import photo_bytes
from tests.web import PUBLIC, answer, open_web
from tests.worker.test_executors import balance, funded, place_of, working
from tests.worker.worker_fixtures import context_of


def test_a_worker_makes_it_and_the_service_delivers_it(
    database: Database, tmp_path: Path, queue: Queue, redis_url: str
) -> None:
    storage = LocalStorage(tmp_path / "files")
    user, place = funded(database), place_of(database, storage, queue)
    stores = ResultStores(database, storage, SafeHttpClient(UrlPolicy([ip_network(PUBLIC)])))
    with open_web() as web, context_of(database, storage, redis_url) as context, working(context):
        web.pages[path_of()] = answer()

        async def call() -> tuple[bytes, str | None]:
            job, picture = await removals.remove_one(
                place, user.id, photo_bytes(), Options(), None, address(web)
            )
            told = await stores.deliver_now(job, picture)
            return picture, None if told is None else told.status.value

        picture, status = asyncio.run(call())
        assert status == "stored"
        # Where the service dies before its own attempt, another one delivers.
        asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(), None, address(web)))
        assert deliver(stores) == 0
        at = now() + timedelta(minutes=2)
        assert deliver(replace(stores, clock=lambda: at)) == 1
        assert web.bodies == [picture, picture]
    assert balance(database, user) == 94
