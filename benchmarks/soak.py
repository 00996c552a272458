"""A service under mixed load for a long time: nothing breaks, grows or stays behind.

`python -m benchmarks soak --minutes 30` starts `cutout serve` with its queue and its worker and sends single photos of
all tiers and formats, refinements, batches, rubbish, and clients that hang up. Results are kept for some minutes only, so
that sweeps take part. Expected: no answer that its client does not ask for, no warning in the log; memory, descriptors
and threads of each process as large in the last quarter of the time as in the third; and once the load has ended,
nothing in work, nothing held, no file and no key left, and a ledger whose sums are right. The exit code is 1 otherwise.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from benchmarks.report import Table, publish
from benchmarks.soaking.files import Files
from benchmarks.soaking.load import Load, visits
from benchmarks.soaking.processes import Held, Running, held, roles, running
from benchmarks.soaking.traces import Traces, loud_lines
from benchmarks.soaking.watch import Course, as_rows, growth, not_given_back, thinned
from cutout.app.config.settings import DATABASE_FILE
from cutout.app.db import migrate
from cutout.app.db.session import Database
from tests.app.databases import start_postgresql

WARM_SHARE, LONGEST_WARM_SECONDS = 0.1, 90.0
TOLD_EVERY_SECONDS = 30
# The pauses in which memory is compared; freed memory is given back every five seconds during work, and once more after.
PAUSES = 8
REST_SECONDS = 12
REST_AT_MOST_SECONDS = 60
# For what is in work to end, beside the time that results are kept.
END_SECONDS = 300
CREDITS = 100_000_000


def main(arguments: Sequence[str]) -> int:
    """Run the load, print and save the results. Return 1 if something was not as it should be."""
    options = read(arguments)
    with service(options) as (place, traces):
        load, course, idle = asyncio.run(put_under(place, traces, options))
        left = rest(traces, options.kept)
        rows = traces.rows()
        after = held(roles(place.process))
        wrong = [
            *(f"{count} × {what}" for what, count in load.unexpected.items()),
            *growth(course),
            *not_given_back(idle, after),
            *course.restarts(),
            *left,
            *(
                f"{count} × {event} in the log"
                for event, count in loud_lines(place.log, place.log_start).items()
            ),
        ]
    print(*load.told, sep="\n")
    show(options, load, course, rows, wrong)
    print("\n".join(wrong) or "All as it should be.")
    return 1 if wrong else 0


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--engine", choices=("fake", "real"), default="fake")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--clients", type=int, help="at once; default: 6, and 2 with the real engine")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two visits of a client")
    parser.add_argument("--kept", type=float, help="seconds that results are kept; default: 400, and 600")
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--log", type=Path, help="copy the service's log to this file")
    parser.add_argument("--no-publish", action="store_true", help="print the results only")
    options = parser.parse_args(arguments)
    is_real = options.engine == "real"
    options.clients = options.clients or (2 if is_real else 6)
    # Longer than a batch may take on a busy host: a result that is swept before its batch is packed counts as lost.
    options.kept = options.kept or (600 if is_real else 400)
    return options


@contextmanager
def service(options: argparse.Namespace) -> Iterator[tuple[Running, Traces]]:
    """Run the service that the options describe."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.postgresql:
            with start_postgresql() as server:
                database = Database(server.get_uri())
                migrate.migrate(database)
                with started(folder, database, options, DATABASE_URL=server.get_uri()) as running_one:
                    yield running_one
        else:
            with started(folder, Database(f"sqlite:///{folder / DATABASE_FILE}"), options) as running_one:
                yield running_one


@contextmanager
def started(
    folder: Path, database: Database, options: argparse.Namespace, **settings: object
) -> Iterator[tuple[Running, Traces]]:
    """Run the service on a database."""
    network_ms = None if options.engine == "real" else 30
    try:
        with running(folder, network_ms=network_ms, kept_seconds=options.kept, **settings) as place:
            yield place, Traces(database, folder)
    finally:
        database.close()
        if options.log is not None:
            options.log.write_bytes((folder / "serve.log").read_bytes())


async def put_under(
    place: Running, traces: Traces, options: argparse.Namespace
) -> tuple[Load, Course, dict[str, Held]]:
    """Send the load. Return it, the course of the processes, and what they held when idle after a first while."""
    is_real = options.engine == "real"
    files = Files((0.05, 0.3) if is_real else (0.01, 0.1, 0.5))
    limits = httpx2.Limits(max_connections=4 * options.clients)
    async with httpx2.AsyncClient(base_url=place.address, timeout=600, limits=limits) as client:
        load = Load(client, files, random.Random(options.seed), 5 if is_real else 50)
        await grant(load)
        # Fills the pools and caches that stay.
        await for_seconds(load, min(LONGEST_WARM_SECONDS, WARM_SHARE * 60 * options.minutes), options)
        await asyncio.sleep(5)
        idle = held(roles(place.process))
        course = Course()
        beside = [
            asyncio.create_task(course.follow(place.process)),
            asyncio.create_task(tell(load, course, traces)),
        ]
        for _ in range(PAUSES):
            await for_seconds(load, 60 * options.minutes / PAUSES, options)
            await come_to_rest(traces)
            course.rest(place.process)
        for task in beside:
            task.cancel()
        for ended in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
    return load, course, idle


async def come_to_rest(traces: Traces) -> None:
    """Wait until nothing is in work, and freed memory has been given back."""
    end = time.monotonic() + REST_AT_MOST_SECONDS
    while await asyncio.to_thread(traces.in_work) and time.monotonic() < end:
        await asyncio.sleep(1)
    await asyncio.sleep(REST_SECONDS)


async def grant(load: Load) -> None:
    """Give the user credits for the whole load."""
    user = (await load.client.get("/api/auth/session")).raise_for_status().json()["user"]["id"]
    body = {"userId": user, "credits": CREDITS, "key": "soak"}
    (await load.client.post("/api/background-remover/admin/credits", json=body)).raise_for_status()


async def for_seconds(load: Load, seconds: float, options: argparse.Namespace) -> None:
    """Let the clients come for a while."""
    until = time.monotonic() + seconds
    await asyncio.gather(*(visits(load, until, options.pause) for _ in range(options.clients)))


async def tell(load: Load, course: Course, traces: Traces) -> None:
    """Print a line now and then until cancelled."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(TOLD_EVERY_SECONDS)
        rows, files, keys = await asyncio.to_thread(lambda: (traces.rows(), traces.files(), traces.keys()))
        now = ", ".join(
            f"{role} {one.pss_mb:.0f} MB {one.descriptors} fd {one.threads} thr"
            for role, one in sorted(course.samples[-1].items())
        )
        print(
            f"{datetime.now(UTC):%H:%M:%S} {time.monotonic() - began:.0f} s: {load.answers.total()} answers,"
            f" {load.unexpected.total()} unexpected; {now}; jobs {rows['background_removal_jobs']}, batches"
            f" {rows['background_removal_batches']}; files {files}; {len(keys)} keys",
            flush=True,
        )


def rest(traces: Traces, kept: float) -> list[str]:
    """Wait until the service is idle and has swept; return what is left."""
    end = time.monotonic() + 2 * kept + END_SECONDS
    while True:
        left = traces.left_behind()
        if not left or time.monotonic() > end:
            return left
        print(f"resting: {'; '.join(left)}", flush=True)
        time.sleep(10)


def show(
    options: argparse.Namespace, load: Load, course: Course, rows: dict[str, int], wrong: list[str]
) -> None:
    """Print the results, and save them unless that is not wanted."""
    acts: dict[str, Counter[str]] = {}
    for (act, outcome), count in load.answers.items():
        acts.setdefault(act, Counter())[outcome] += count
    database = "PostgreSQL" if options.postgresql else "SQLite"
    title = f"{options.minutes:g} minutes, {options.clients} clients, {options.engine} engine, {database}"
    tables = [
        Table(
            f"{title}: each quarter of the time, memory in pauses. Not as it should be: {len(wrong) or 'nothing'}",
            ["process", "holds", "first", "second", "third", "fourth"],
            as_rows(course),
        ),
        Table(
            "Calls, and their answers",
            ["call", "answers"],
            [
                [act, ", ".join(f"{count} × {outcome}" for outcome, count in answers.most_common())]
                for act, answers in sorted(acts.items())
            ],
        ),
    ]
    if options.no_publish:
        for table in tables:
            print(*table.rows, sep="\n")
        return
    figures = {"wrong": wrong, "unexpected": load.told, "rows": rows, "samples": thinned(course)}
    publish(f"soak-{options.engine}{'-postgresql' if options.postgresql else ''}", tables, figures)
