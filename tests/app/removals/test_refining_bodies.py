"""Bodies of refinements that careless callers send, and settings of careless operators."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from cutout.app.config.base import SettingsError
from cutout.app.core.errors import OverloadedError
from cutout.app.http.middleware import BodyMemory
from cutout.app.removals.refining import RefinementSlots
from cutout.app.storage.base import Storage
from tests.app.api_client import ANNA, API, ApiClient, opened_shop, service_settings
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, photo_bytes, wait_until

HINTS = b'{"drop": "50% 50%"}'


@pytest.fixture
def refine(shop: ApiClient) -> Any:
    """Return a function that sends a refinement of a result."""
    shop.fund("anna", 100)
    first = shop.remove(ANNA, photo_bytes()).raise_for_status().json()

    def send(kind: str, content: bytes) -> Any:
        headers = ANNA | ({"Content-Type": kind} if kind else {})
        return shop.client.post(f"{API}/jobs/{first['jobId']}/refine", headers=headers, content=content)

    return send


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
def test_a_body_of_another_kind_is_refused_and_not_ignored(refine: Any, kind: str) -> None:
    assert "Content-Type: application/json" in problem(refine(kind, HINTS), 400, "INVALID_INPUT")["detail"]
    assert refine(kind, b"").json()["refinedFrom"]


def test_json_sent_as_a_form_is_refused(refine: Any) -> None:
    """As `curl -d` sends it."""
    told = problem(refine("application/x-www-form-urlencoded", HINTS), 400, "INVALID_INPUT")
    assert "there is no such field" in told["detail"]
    told = problem(refine("application/x-www-form-urlencoded", HINTS * 1000), 400, "INVALID_INPUT")
    assert len(told["detail"]) < 200
    answer = refine("application/x-www-form-urlencoded", b"drop=50%25+50%25&keep=")
    assert answer.raise_for_status().json()["noForeground"]


def test_a_broken_form_is_told_how_hints_are_sent(refine: Any) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=a"):
        detail = problem(refine(kind, HINTS), 400, "INVALID_INPUT")["detail"]
        assert "dropMask=@strokes.png" in detail
        assert "image=@" not in detail


def test_only_so_many_kept_photos_are_in_memory_at_once(database: Any, tmp_path: Any) -> None:
    """Each as large as an upload may be."""
    with opened_shop(database, tmp_path, uploads_at_once_mb=2, deadline_seconds=PATIENCE) as shop:
        shop.fund("anna", 100)
        first = shop.remove(ANNA, photo_bytes()).raise_for_status().json()
        going, get = threading.Event(), shop.state.get(Storage).get
        reading: list[str] = []

        def wait(key: str) -> bytes | None:
            reading.append(key)
            assert going.wait(PATIENCE)
            return get(key)

        shop.state.get(Storage).get = wait  # type: ignore[method-assign]

        def refine() -> int:
            return int(shop.client.post(f"{API}/jobs/{first['jobId']}/refine", headers=ANNA).status_code)

        with ThreadPoolExecutor(2) as callers:
            held = [callers.submit(refine) for _ in range(2)]
            wait_until(lambda: len(reading) == 2, PATIENCE)
            one_more = shop.client.post(f"{API}/jobs/{first['jobId']}/refine", headers=ANNA)
            going.set()
            assert [one.result() for one in held] == [200, 200]
        problem(one_more, 503, "OVERLOADED")
        assert refine() == 200
        # Also after what failed.
        for _ in range(3):
            problem(shop.client.post(f"{API}/jobs/{uuid.uuid4()}/refine", headers=ANNA), 404, "NOT_FOUND")
        assert refine() == 200


def test_one_user_leaves_slots_for_the_others() -> None:
    slots, anna, ben = RefinementSlots(12), uuid.uuid4(), uuid.uuid4()
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(slots.one(anna))
        with pytest.raises(OverloadedError, match="of your results"), slots.one(anna):
            pass
        with slots.one(ben):
            pass
    with slots.one(anna):
        pass


@pytest.mark.parametrize("path", ["refine", "refine/view"])
def test_a_picture_may_be_as_large_as_an_upload(database: Any, tmp_path: Any, path: str) -> None:
    """And the pictures of all callers have one memory."""
    large = photo_bytes(500, 400)
    with opened_shop(database, tmp_path, uploads_at_once_mb=1) as shop:
        shop.fund("anna", 100)
        first = shop.remove(ANNA, photo_bytes()).raise_for_status().json()

        def send(data: bytes) -> Any:
            files = {"backgroundImage": ("wall.png", data)}
            return shop.client.post(f"{API}/jobs/{first['jobId']}/{path}", headers=ANNA, files=files)

        assert 500_000 < len(large) < 1_000_000
        assert send(large).status_code == 200
        problem(send(b"x" * 1_200_000), 413, "IMAGE_TOO_LARGE")
        # As if uploads of others had taken the rest.
        memory: Any = shop.client.app
        memory = memory.middleware_stack
        while not isinstance(memory, BodyMemory):
            memory = memory.app
        memory.left -= 500_000
        problem(send(large), 503, "OVERLOADED")


@pytest.mark.parametrize("hours", ["inf", "nan", "1e12", "-1"])
def test_a_time_without_end_is_refused_at_the_start(hours: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="CUTOUT_FREE_REFINE_HOURS"):
        service_settings("sqlite://", tmp_path, free_refine_hours=hours)
