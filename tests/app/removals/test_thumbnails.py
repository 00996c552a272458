"""Thumbnails: small copies of results that are made when they are asked for and go when their result goes."""

import io
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cutout.app import user_deletion
from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.jobs import thumbnails
from cutout.app.jobs.thumbnails import THUMBNAILS, delete_old_results
from cutout.app.jobs.urls import JobUrls
from cutout.app.storage.local import LocalStorage
from cutout.inference.imaging import thumbnail as small
from cutout.inference.imaging.encode import Format
from tests.app.api_client import ANNA, API, BEN, ApiClient
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, files_below, open_picture, photo_bytes, thin_picture, wait_until

WIDTH, HEIGHT = 900, 600


@pytest.fixture
def rich(shop: ApiClient) -> ApiClient:
    shop.fund("anna", 100)
    return shop


def removed(shop: ApiClient, **fields: str) -> dict[str, Any]:
    photo = thin_picture(WIDTH, HEIGHT)
    made: dict[str, Any] = shop.remove(ANNA, photo, **fields).raise_for_status().json()
    return made


@on_both
def test_a_thumbnail_is_made_when_it_is_asked_for(rich: ApiClient, tmp_path: Path) -> None:
    job = removed(rich)
    assert not (tmp_path / "data" / THUMBNAILS).exists()
    path = f"{API}/jobs/{job['jobId']}/thumbnail"
    problem(rich.get(path, {}), 401, "UNAUTHENTICATED")
    problem(rich.get(path, BEN), 404, "NOT_FOUND")
    problem(rich.get(job["thumbnailUrl"].replace("signature=", "signature=0"), {}), 404, "NOT_FOUND")
    problem(rich.get(job["resultUrl"].replace("/image", "/thumbnail"), {}), 404, "NOT_FOUND")
    assert not (tmp_path / "data" / THUMBNAILS).exists()
    answer = rich.get(job["thumbnailUrl"], {}).raise_for_status()
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"] == "private, max-age=3600"
    assert rich.get(path, ANNA).content == answer.content
    assert rich.client.head(job["thumbnailUrl"]).headers["content-length"] == str(len(answer.content))
    picture = open_picture(answer.content)
    assert (picture.mode, picture.size) == ("RGBA", (320, 213))
    alpha = np.asarray(picture)[..., 3]
    assert (alpha[0, 0], alpha[106, 160]) == (0, 255)


def test_the_url_is_the_same_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    hour, kept = 1_800_000_000, timedelta(days=7)
    assert hour % 3600 == 0
    urls = []
    for second in (1, 3600, 3601):
        monkeypatch.setattr(time, "time", lambda at=hour + second: float(at))
        urls.append(JobUrls.of(uuid.UUID(int=1), ServiceSecret("secret"), kept))
    assert urls[0].thumbnail == urls[1].thumbnail != urls[2].thumbnail
    assert f"expires={hour + 3600 + 7 * 86400}&" in urls[0].thumbnail
    assert len({one.result for one in urls}) == 3


def test_every_format_has_thumbnails(rich: ApiClient) -> None:
    for name in ("png", "webp", "jpg", "avif", "zip", "mask"):
        job = removed(rich, format=name)
        picture = open_picture(rich.get(job["thumbnailUrl"], {}).raise_for_status().content)
        pixels = np.asarray(picture.convert("RGBA")).astype(int)
        assert picture.size == (320, 213), name
        assert pixels[0, 0, 3] == (0 if name in ("png", "webp", "avif", "zip") else 255), name
        assert np.abs(pixels[106, 160] - (255 if name == "mask" else 90, *pixels[106, 160, 1:])).max() < 6, (
            name
        )


def test_the_stored_one_is_sent_again(rich: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job = removed(rich)
    first = rich.get(job["thumbnailUrl"], {}).raise_for_status().content

    def make(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(thumbnails, "small_copy", make)
    assert rich.get(job["thumbnailUrl"], {}).raise_for_status().content == first


@on_both
def test_thumbnails_go_with_their_results(rich: ApiClient, tmp_path: Path) -> None:
    old, new, unseen = (removed(rich) for _ in range(3))
    for job in (old, new):
        rich.get(job["thumbnailUrl"], {}).raise_for_status()
    storage = LocalStorage(tmp_path / "data")
    for job in (old, unseen):
        os.utime(tmp_path / f"data/results/{job['jobId']}.png", (0, 0))
    left = storage.root / THUMBNAILS / f"{uuid.uuid4()}.webp"
    left.write_bytes(b"of a result that is gone")
    os.utime(left, (0, 0))
    assert delete_old_results(storage, timedelta(days=1)) == 2
    assert [file.name for file in files_below(storage.root / THUMBNAILS)] == [f"{new['jobId']}.webp"]
    for job in (old, unseen):
        problem(rich.get(job["thumbnailUrl"], {}), 404, "NOT_FOUND")
    user_deletion.delete_user(rich.database, storage, rich.fund("anna", 1))
    assert files_below(storage.root / THUMBNAILS) == []
    problem(rich.get(new["thumbnailUrl"], {}), 404, "NOT_FOUND")


def test_one_that_is_made_while_its_result_is_deleted_is_not_kept(
    rich: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = removed(rich)
    result = tmp_path / f"data/results/{job['jobId']}.png"
    making = small.small_copy

    def make(*told: Any) -> bytes:
        made = making(*told)
        result.unlink()
        return made

    monkeypatch.setattr(thumbnails, "small_copy", make)
    problem(rich.get(job["thumbnailUrl"], {}), 404, "NOT_FOUND")
    assert files_below(tmp_path / "data" / THUMBNAILS) == []


def test_without_a_result_that_can_be_read_there_is_none(rich: ApiClient, tmp_path: Path) -> None:
    job = removed(rich)
    result = tmp_path / f"data/results/{job['jobId']}.png"
    whole = result.read_bytes()
    for damaged in (b"", b"no picture", whole[:200]):
        result.write_bytes(damaged)
        problem(rich.get(job["thumbnailUrl"], {}), 404, "NOT_FOUND")
    rich.remove(ANNA, b"no photo")
    (failed,) = rich.get(f"{API}/jobs?status=failed", ANNA).json()["jobs"]
    assert failed["thumbnailUrl"] is failed["resultUrl"] is None
    problem(rich.get(f"{API}/jobs/{failed['jobId']}/thumbnail", ANNA), 404, "NOT_FOUND")


def test_large_ones_are_made_one_by_one_and_the_service_answers_meanwhile(
    rich: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [removed(rich) for _ in range(3)]
    monkeypatch.setattr(thumbnails, "MOST_PIXELS_AT_ONCE", WIDTH * HEIGHT - 1)
    may_go, at_once, most = threading.Event(), 0, 0
    making = small.small_copy

    def make(*told: Any) -> bytes:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert may_go.wait(PATIENCE)
        at_once -= 1
        return making(*told)

    monkeypatch.setattr(thumbnails, "small_copy", make)
    statuses: list[int] = []
    asking = [
        threading.Thread(
            target=lambda url=job["thumbnailUrl"]: statuses.append(rich.get(url, {}).status_code)
        )
        for job in jobs
    ]
    for thread in asking:
        thread.start()
    assert rich.get(jobs[0]["resultUrl"], {}).status_code == 200
    may_go.set()
    for thread in asking:
        thread.join(PATIENCE)
    assert statuses == [200, 200, 200]
    assert most == 1


def test_a_large_one_that_several_ask_for_is_made_once(
    rich: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = removed(rich)
    monkeypatch.setattr(thumbnails, "MOST_PIXELS_AT_ONCE", WIDTH * HEIGHT - 1)
    may_go, making, run = threading.Event(), small.small_copy, thumbnails.MAKING.run
    asked, made = 0, 0

    async def wait(*told: Any) -> Any:
        nonlocal asked
        asked += 1
        return await run(*told)

    def make(*told: Any) -> bytes:
        nonlocal made
        made += 1
        assert may_go.wait(PATIENCE)
        return making(*told)

    monkeypatch.setattr(thumbnails.MAKING, "run", wait)
    monkeypatch.setattr(thumbnails, "small_copy", make)
    with ThreadPoolExecutor(4) as callers:
        asking = [callers.submit(rich.get, job["thumbnailUrl"], {}) for _ in range(4)]
        wait_until(lambda: asked == 4)
        may_go.set()
        assert len({one.result().raise_for_status().content for one in asking}) == 1
    assert made == 1


def test_the_means_of_a_large_picture_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (1301, 1999, 4), dtype=np.uint8))
    assert np.array_equal(np.asarray(small._reduced(picture)), np.asarray(picture.reduce(3)))
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    assert open_picture(small.small_copy(out.getvalue(), Format.PNG)).size == (320, 208)
    assert open_picture(small.small_copy(photo_bytes(30, 20), Format.PNG)).size == (30, 20)
