"""The events that tell of single photos of a batch."""

import asyncio
import json
import threading
import uuid
from typing import Any

import pytest
from sqlalchemy import update

from cutout.app.batches import progress
from cutout.app.db.tables import Batch, Job, Status, now
from tests.app.api_client import ANNA
from tests.app.batch_client import BATCH, BatchClient, at_work, photos, studio
from tests.fakes import PATIENCE, FakeRunner, held_until, wait_until

__all__ = ["studio"]

BROKEN = ("broken.png", b"no picture")


@pytest.fixture
def rich(studio: BatchClient) -> BatchClient:
    studio.fund("anna", 10_000)
    return studio


def events(
    studio: BatchClient, batch_id: str, seen: str | None = None
) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the events of a batch: kind, id, and data. `seen` is the id of the last one that the client has."""
    headers = ANNA if seen is None else ANNA | {"Last-Event-ID": seen}
    text = studio.get(f"{BATCH}/{batch_id}/events", headers).text
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], lines.get("id", ""), json.loads(lines["data"])))
    return found


def test_each_change_of_a_photo_is_told_once(rich: BatchClient) -> None:
    go_on = threading.Event()
    runner = FakeRunner(before=lambda: held_until(go_on))
    runner.before, hold = (lambda: None), runner.before  # The engine warms up.
    batch_id = rich.accepted(ANNA, [*photos(5), BROKEN])
    seen: list[tuple[str, str, dict[str, Any]]] = []
    watching = threading.Thread(target=lambda: seen.extend(events(rich, batch_id)))
    runner.before = hold
    with at_work(rich.database, rich.storage, runner):
        watching.start()
        wait_until(lambda: rich.batch(ANNA, batch_id)["counts"]["processing"] > 0)
        go_on.set()
        watching.join(PATIENCE)
    assert not watching.is_alive()

    statuses = ["pending"] * 6
    for event, _, data in seen:
        if event == "photos":
            for photo in data["photos"]:
                assert photo["status"] != statuses[photo["position"]]
                statuses[photo["position"]] = photo["status"]
        else:
            counts = {status: count for status, count in data["counts"].items() if count}
            assert counts == {status: statuses.count(status) for status in statuses}
    assert statuses == ["completed"] * 5 + ["failed"]
    told = {
        photo["position"]: photo for event, _, data in seen if event == "photos" for photo in data["photos"]
    }
    shown = rich.batch(ANNA, batch_id)["photos"]
    for photo in shown:
        assert photo.pop("store") is None
        assert (told[photo["position"]].pop("resultUrl") is None) == (photo.pop("resultUrl") is None)
        assert told[photo["position"]] == photo
    assert told[5]["error"]["code"] == "UNSUPPORTED_FORMAT"


def test_a_client_that_reconnects_is_told_what_it_lacks(rich: BatchClient) -> None:
    batch_id = rich.accepted(ANNA, [*photos(3), BROKEN])
    rich.work_off()

    def lacking(seen: str | None) -> list[int]:
        told = events(rich, batch_id, seen)
        assert [event for event, _, _ in told if event != "photos"] == ["progress", "end"]
        return [photo["position"] for event, _, data in told if event == "photos" for photo in data["photos"]]

    first = events(rich, batch_id)[0]
    assert first[:2] == ("photos", "cccf")
    assert lacking(None) == lacking("") == lacking("wwww") == [0, 1, 2, 3]
    assert lacking("cwcp") == [1, 3]
    assert lacking("cccf") == []
    # Not an id of this batch: too short, too long, no letters of statuses.
    assert lacking("c") == [1, 2, 3]
    assert lacking("cccfcccc") == []
    assert lacking("0:1-?") == [0, 1, 2, 3]


def test_cancelled_photos_are_told(rich: BatchClient) -> None:
    batch_id = rich.accepted(ANNA, photos(2))
    rich.client.delete(f"{BATCH}/{batch_id}", headers=ANNA).raise_for_status()
    rich.work_off()
    told = events(rich, batch_id)[0][2]["photos"]
    assert [(photo["status"], photo["resultUrl"], photo["error"]) for photo in told] == 2 * [
        ("cancelled", None, None)
    ]


def test_an_event_has_only_what_is_new(rich: BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_AGAIN_SECONDS", 0.01)
    batch_id = uuid.UUID(rich.accepted(ANNA, photos(3)))

    def end(position: int) -> None:
        with rich.database.begin() as session:
            mine = update(Job).where(Job.batch_id == batch_id, Job.position == position)
            session.execute(mine.values(status=Status.FAILED))
            if position == 2:
                session.execute(update(Batch).where(Batch.id == batch_id).values(finished_at=now()))

    async def watched() -> list[list[int]]:
        seen = []
        async for change in progress.watch(rich.database, batch_id, "", asyncio.Event()):
            seen.append([photo.position for photo in change.photos])
            if len(seen) <= 3:
                await asyncio.to_thread(end, len(seen) - 1)
        return seen

    assert asyncio.run(watched()) == [[], [0], [1], [2]]
