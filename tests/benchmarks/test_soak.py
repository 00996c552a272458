"""The soak benchmark sees what it is meant to see, and its clients still know the service's answers."""

import asyncio
import json
import random
from pathlib import Path

import httpx2
import pytest

from benchmarks.crowd import Round, note
from benchmarks.soaking.files import Files
from benchmarks.soaking.load import Load, cancelled, reads, rubbish, single
from benchmarks.soaking.processes import Held
from benchmarks.soaking.traces import Traces, loud_lines
from benchmarks.soaking.watch import Course, growth, not_given_back
from cutout.app.app import create_app
from cutout.app.billing import ledger
from cutout.app.config import settings as app_settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.inference.tiers import Tier
from tests.app.databases import new_user
from tests.app.serving import served
from tests.fakes import fake_engine


def course(*held: Held) -> Course:
    found = Course(processes={"API": {1}})
    for number in range(40):
        found.samples.append({"API": held[len(held) * number // 40]})
    for number in range(8):
        found.at_rest.append({"API": held[len(held) * number // 8]})
    return found


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (Held(104, 20, 30), []),
        (Held(104, 24, 34), []),
        (Held(110, 20, 30), ["API: 100 MB at rest in the third quarter, 110 in the last"]),
        (Held(100, 40, 30), ["API: 20 descriptors in the third quarter, 40 in the last"]),
        (Held(100, 20, 60), ["API: 30 threads in the third quarter, 60 in the last"]),
    ],
)
def test_growth_in_the_last_quarter_is_told(last: Held, told: list[str]) -> None:
    # The first half may grow: pools and caches fill.
    assert growth(course(Held(50, 1, 1), Held(80, 10, 10), Held(100, 20, 30), last)) == told


def test_memory_that_follows_the_load_is_no_growth() -> None:
    busier = course(Held(100, 20, 30))
    busier.samples[20:] = [{"API": Held(200 + 10 * number, 20, 30)} for number in range(20)]
    assert growth(busier) == []


def test_descriptors_that_an_idle_service_keeps_are_told() -> None:
    before, after = {"API": Held(100, 20, 30)}, {"API": Held(100, 40, 30)}
    assert not_given_back(before, before) == []
    assert not_given_back(before, after) == ["API: 20 descriptors when idle before, 40 after"]


def test_what_is_left_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    migrate.migrate(database)
    traces = Traces(database, tmp_path)
    keys: list[str] = []
    monkeypatch.setattr(Traces, "keys", lambda _: keys)
    user = new_user(database, "soak")
    with database.begin() as session:
        ledger.grant(session, user.id, 100, "grant")
        ledger.hold(session, user.id, 10, "job:settled")
        ledger.release(session, "job:settled")
    assert traces.left_behind() == []
    assert traces.in_work() == 0
    with database.begin() as session:
        session.add(Job(user_id=user.id, tier=Tier.BASIC, status=Status.PROCESSING, credits=0, format="png"))
    assert traces.in_work() == 1

    with database.begin() as session:
        ledger.hold(session, user.id, 10, "job:1")
    (tmp_path / "uploads/a").mkdir(parents=True)
    (tmp_path / "uploads/a/photo").touch()
    (tmp_path / "results").mkdir()
    (tmp_path / f"results/.cutout-{32 * '0'}").touch()
    keys += [f"rq:{number}" for number in range(50)]
    told = "\n".join(traces.left_behind())
    for what in (
        "1 uploads files",
        "1 temporary files",
        "50 keys in the queue",
        "1 holds that are not settled, such as job:1",
        "10 credits paid for results of 0",
    ):
        assert what in told
    database.close()


def test_warnings_in_the_log_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [{"level": level, "event": "x"} for level in ("error", "info", "warning", "error")]
    log.write_text("\n".join([*map(json.dumps, lines), "Traceback (most recent call last):"]))
    told = loud_lines(log, len(json.dumps(lines[0])))
    assert told == {"warning: x": 1, "error: x": 1, "a traceback outside the log": 1}


def test_answers_of_a_crowd_are_judged() -> None:
    outcome = Round("at once", idle_mb=100, peak_mb=200, after_mb=100)
    picture = b"\x89PNG"
    note(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + picture, outcome)
    refused = b'\r\nContent-Type: application/problem+json\r\n\r\n{"code": "OVERLOADED"}'
    note(b"HTTP/1.1 503 Unavailable\r\nRetry-After: 5" + refused, outcome)
    assert outcome.judge() == []
    note(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + picture, outcome)
    note(b"HTTP/1.1 503 Unavailable" + refused, outcome)
    note(b"HTTP/1.1 504 Late\r\nRetry-After: 5" + refused, outcome)
    note(b"", outcome)
    outcome.peak_mb = 5000
    assert outcome.judge() == [
        "at once: 1 × a picture is incomplete",
        "at once: 1 × 503 without Retry-After or code",
        "at once: 1 × 504 OVERLOADED",
        "at once: 1 × no answer: connection closed",
        "at once: 4900 MB above idle",
    ]


@pytest.mark.slow
def test_the_clients_of_the_load_know_the_answers(tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path)

    async def load(address: str) -> Load:
        async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
            load = Load(client, Files((0.002,)), random.Random(1))
            for act in (*4 * [single], *12 * [rubbish], cancelled, reads):
                await act(load)
            return load

    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        done = asyncio.run(load(address))
    # There is no queue here, so a batch of one photo is refused for that.
    assert [one for one in done.told if "QUEUE_UNAVAILABLE" not in one] == []
    assert done.answers["refine", "200"] > 0
    assert {outcome for act, outcome in done.answers if act == "rubbish"} > {"415 UNSUPPORTED_FORMAT"}
