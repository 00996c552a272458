"""A view shows how a refinement would look: a small picture, no job, and no bill."""

import io
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update

from cutout.app.db.session import Database
from cutout.app.db.tables import Job, now
from cutout.app.removals.executors import LocalExecutor, QueueExecutor
from tests.app.api_client import ANNA, API, BEN, ApiClient
from tests.app.http.test_api import problem
from tests.fakes import files_below, photo_bytes, stroke_mask

PHOTO = photo_bytes(300, 200)


@pytest.fixture
def rich(shop: ApiClient) -> ApiClient:
    shop.fund("anna", 100)
    return shop


def view(shop: ApiClient, job: dict[str, Any], who: dict[str, str] = ANNA, **body: Any) -> httpx2.Response:
    answer: httpx2.Response = shop.client.post(f"{API}/jobs/{job['jobId']}/refine/view", headers=who, **body)
    return answer


def removed(shop: ApiClient, **fields: str) -> dict[str, Any]:
    made: dict[str, Any] = shop.remove(ANNA, PHOTO, **fields).raise_for_status().json()
    return made


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_a_view_is_small_and_neither_kept_nor_billed(rich: ApiClient, tmp_path: Path) -> None:
    first = removed(rich, tier="professional")

    def run() -> None:
        raise AssertionError("the network ran")

    rich.runner.before = run
    kept, count, balance = files_below(tmp_path / "data"), jobs(rich.database), rich.balance(ANNA)
    whole = view(rich, first, json={"viewMegapixels": 0.015}).raise_for_status()
    strokes = {"dropMask": ("strokes.png", stroke_mask(0, 0, 100, 100))}
    emptied = view(rich, first, files=strokes, data={"viewMegapixels": "0.015"}).raise_for_status()
    pictures = [Image.open(io.BytesIO(answer.content)) for answer in (whole, emptied)]
    assert [(picture.size, picture.mode) for picture in pictures] == [((150, 100), "RGBA")] * 2
    assert [np.asarray(picture)[50, 75, 3] for picture in pictures] == [255, 0]
    assert whole.headers["content-type"] == "image/png"
    # Without a size it has half a megapixel, and no photo is enlarged.
    assert Image.open(io.BytesIO(view(rich, first).content)).size == (300, 200)
    as_mask = view(rich, first, data={"format": "mask"}).raise_for_status()
    assert Image.open(io.BytesIO(as_mask.content)).mode == "L"
    assert (files_below(tmp_path / "data"), jobs(rich.database), rich.balance(ANNA)) == (kept, count, balance)
    assert view(rich, first, BEN).status_code == 404


def test_a_view_of_a_zip_is_a_picture(rich: ApiClient) -> None:
    assert view(rich, removed(rich, format="zip")).headers["content-type"] == "image/png"


def test_a_size_beyond_the_limits_is_refused(rich: ApiClient) -> None:
    first = removed(rich)
    for megapixels in (0, 2.5, "much"):
        told = problem(view(rich, first, data={"viewMegapixels": str(megapixels)}), 400, "INVALID_INPUT")
        assert told["detail"].startswith("viewMegapixels")
    told = problem(view(rich, first, data={"tier": "basic"}), 400, "INVALID_INPUT")
    assert told["detail"].startswith("tier: this stays")


def test_there_is_no_view_of_what_costs_something(rich: ApiClient) -> None:
    first = removed(rich)
    with rich.database.begin() as session:
        session.execute(update(Job).values(finished_at=now() - timedelta(hours=25)))
    told = problem(view(rich, first), 409, "CONFLICT")
    assert told["detail"].endswith("Refine it.")
    problem(view(rich, {"jobId": uuid.uuid4()}), 404, "NOT_FOUND")
    assert rich.balance(ANNA) == 97


def test_there_is_no_view_where_workers_make_the_pictures(
    rich: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = removed(rich)
    monkeypatch.setattr(LocalExecutor, "show", QueueExecutor.show)
    told = problem(view(rich, first), 409, "CONFLICT")
    assert told["detail"].startswith("Workers make the pictures")
