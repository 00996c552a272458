"""A database that several API processes share, and one that dies at the worst moment: balances stay correct."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection, event, text

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.removals import lost_jobs
from tests.app.api_client import ANNA, API, opened_shop
from tests.app.databases import start_postgresql
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, photo_bytes, wait_until
from tests.forked import ModuleProcess
from tests.processes import wait_ready

pytestmark = pytest.mark.slow

PROCESSES, CALLS, ENOUGH_FOR = 4, 100, 25


def funded(database: Database, credits_: int) -> None:
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, credits_, "grant:anna")


@contextmanager
def processes(databases: list[Database], folder: Path) -> Iterator[list[list[str]]]:
    """Start API processes, each serving every database at its own address; yield the addresses by process."""
    urls = [database.engine.url.render_as_string(hide_password=False) for database in databases]
    with ExitStack() as opened:
        started = []
        for number in range(PROCESSES):
            log = folder / f"api-{number}.log"
            process = ModuleProcess(log, os.environ, "tests.app.api_process", str(folder), *urls)
            opened.callback(process.wait)
            opened.callback(process.terminate)
            started.append((log, process))
        yield [addresses(log, process, len(urls)) for log, process in started]


def addresses(log: Path, process: ModuleProcess, count: int) -> list[str]:
    """Return the addresses that a process has printed, once all are there."""

    def printed() -> list[str]:
        return re.findall(r"^http://\S+$", log.read_text() if log.exists() else "", re.MULTILINE)

    wait_ready(process, lambda: len(printed()) == count, log)
    return printed()


async def buy_at_once(addresses: list[str]) -> Counter[int]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=5 * PATIENCE, limits=limits) as client:
        calls = [
            client.post(
                f"{addresses[number % len(addresses)]}{API}/remove",
                files={"image": ("photo.png", photo_bytes())},
                headers=ANNA,
            )
            for number in range(CALLS)
        ]
        return Counter(answer.status_code for answer in await asyncio.gather(*calls))


def test_removals_at_once_over_four_processes_cost_what_they_cost(
    postgresql: Database, tmp_path: Path
) -> None:
    sqlite = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    migrate.migrate(sqlite)
    with postgresql.begin() as session:
        session.execute(text("TRUNCATE users CASCADE"))
    databases = [sqlite, postgresql]
    for database in databases:
        funded(database, 3 * ENOUGH_FOR)
    with processes(databases, tmp_path) as addresses:
        assert len(addresses) == PROCESSES
        for number, database in enumerate(databases):
            statuses = asyncio.run(buy_at_once([of_one[number] for of_one in addresses]))
            assert statuses == {200: ENOUGH_FOR, 402: CALLS - ENOUGH_FOR}
            with database.begin() as session:
                user = accounts.get_or_create_user(session, Claims("anna"))
                assert ledger.balance(session, user.id) == 0
                assert ledger.discrepancies(session) == {}
    sqlite.close()


def test_postgresql_killed_at_the_commit_is_said_and_costs_nothing(tmp_path: Path) -> None:
    with start_postgresql() as server:
        database = Database(server.get_uri())
        migrate.migrate(database)
        with opened_shop(database, tmp_path) as shop:
            shop.fund("anna", 6)
            own: Database = shop.state.get(Database)
            client, runner = shop.client, shop.runner
            at_commit: list[Any] = []
            runner.before = lambda: at_commit.append(server.get_pid())

            # Called before the driver commits: when a photo's network has run, the transaction is its charge.
            @event.listens_for(own.engine, "commit")
            def kill(_: Connection) -> None:
                if at_commit:
                    pid = at_commit.pop()
                    runner.before = lambda: None
                    os.kill(pid, signal.SIGQUIT)  # It dies at once, with its children.
                    with suppress(ProcessLookupError):
                        while True:
                            os.kill(pid, 0)
                            time.sleep(0.01)

            problem(shop.remove(ANNA | {"Idempotency-Key": "order-1"}), 503, "DATABASE_UNAVAILABLE")
            problem(shop.get(f"{API}/credits", ANNA), 503, "DATABASE_UNAVAILABLE")
            assert client.get("/api/health").status_code == 503

            server.ensure_postgres_running()
            assert client.get("/api/health").status_code == 200
            # Credits held for the commit that failed are released automatically.
            wait_until(lambda: shop.balance(ANNA) == 6, 60)
            (job,) = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
            assert (job["status"], job["resultUrl"]) == ("failed", None)
            assert lost_jobs.fail_lost_jobs(database) == 0

            again = shop.remove(ANNA | {"Idempotency-Key": "order-1"}).raise_for_status().json()
            assert again["status"] == "completed"
            assert again["jobId"] != job["jobId"]
            assert shop.balance(ANNA) == 3
        database.close()
