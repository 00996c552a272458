"""The photo of a job, as a browser shows it: whole, upright, and only to its owner."""

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from sqlalchemy import update

from cutout.app.core.shares import Shares
from cutout.app.db.tables import Job, now
from cutout.app.jobs import photos
from cutout.app.jobs.originals import ORIGINALS
from cutout.inference.imaging.browser import for_browsers
from cutout.inference.imaging.decode import decode
from tests.app.api_client import ANNA, API, BEN, ApiClient, opened_shop
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, files_below, open_picture, photo_bytes, wait_until
from tests.inference.files import encode, exif, scene

PHOTO = photo_bytes(120, 90)


@pytest.fixture
def rich(shop: ApiClient) -> ApiClient:
    shop.fund("anna", 100)
    return shop


def details(shop: ApiClient, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = shop.get(f"{API}/jobs/{job['jobId']}", ANNA).raise_for_status().json()
    return found


def test_a_result_that_is_no_longer_kept_has_no_url(rich: ApiClient) -> None:
    job = rich.remove(ANNA, PHOTO).raise_for_status().json()
    for day, is_kept in ((6, True), (8, False)):
        with rich.database.begin() as session:
            session.execute(update(Job).values(finished_at=now() - timedelta(days=day)))
        (listed,) = rich.get(f"{API}/jobs", ANNA).json()["jobs"]
        for one in (listed, details(rich, job)):
            assert one["status"] == "completed"
            assert (one["resultUrl"] is not None, one["thumbnailUrl"] is not None) == (is_kept, is_kept)


@on_both
def test_the_photo_is_its_owners(rich: ApiClient) -> None:
    job = rich.remove(ANNA, PHOTO).raise_for_status().json()
    again = rich.client.post(f"{API}/jobs/{job['jobId']}/refine", headers=ANNA, data={"drop": "50% 50%"})
    assert "photoUrl" not in job
    for one in (job, again.raise_for_status().json()):
        shown = details(rich, one)
        assert (shown["inPlace"], shown["name"], shown["status"]) == (True, "photo.png", "completed")
        path = f"{API}/jobs/{one['jobId']}/photo"
        assert shown["photoUrl"].startswith(f"{path}?expires=")
        answer = rich.get(shown["photoUrl"], {}).raise_for_status()
        assert (answer.content, answer.headers["content-type"]) == (PHOTO, "image/png")
        assert rich.get(path, ANNA).content == PHOTO
        assert rich.client.head(path, headers=ANNA).headers["content-length"] == str(len(PHOTO))
        problem(rich.get(path, {}), 401, "UNAUTHENTICATED")
        problem(rich.get(path, BEN), 404, "NOT_FOUND")
        problem(rich.get(f"{API}/jobs/{one['jobId']}", BEN), 404, "NOT_FOUND")
        problem(rich.get(shown["photoUrl"].replace("signature=", "signature=0"), {}), 404, "NOT_FOUND")
        problem(rich.get(one["resultUrl"].replace("/image", "/photo"), {}), 404, "NOT_FOUND")


def test_a_result_that_is_elsewhere_is_said(rich: ApiClient) -> None:
    places: list[tuple[dict[str, str], bool]] = [
        ({"trim": "true"}, False),
        ({"canvas": "50x50"}, False),
        ({"position": "0% 0%"}, False),
        ({"roi": "10% 10% 90% 90%", "maxMegapixels": "0.01"}, True),
        ({"maskOnly": "true"}, True),
    ]
    for fields, in_place in places:
        job = rich.remove(ANNA, PHOTO, **fields).raise_for_status().json()
        assert details(rich, job)["inPlace"] == in_place, fields
        again = rich.client.post(f"{API}/jobs/{job['jobId']}/refine", headers=ANNA)
        assert details(rich, again.raise_for_status().json())["inPlace"] == in_place, fields


def test_a_refinement_may_have_a_layout_of_its_own(rich: ApiClient) -> None:
    job = rich.remove(ANNA, PHOTO).raise_for_status().json()
    again = rich.client.post(f"{API}/jobs/{job['jobId']}/refine", headers=ANNA).raise_for_status().json()
    with rich.database.begin() as session:
        row = session.get_one(Job, uuid.UUID(again["jobId"]))
        assert row.options is not None
        row.options = row.options | {"layout": row.options["layout"] | {"trim": True}}
    assert details(rich, job)["inPlace"]
    assert not details(rich, again)["inPlace"]
    # As an older version has written it.
    with rich.database.begin() as session:
        session.get_one(Job, uuid.UUID(again["jobId"])).options = None
    assert details(rich, again)["inPlace"]
    assert details(rich, again)["corrected"]


def test_it_is_said_whether_a_refinement_corrects(rich: ApiClient) -> None:
    job = rich.remove(ANNA, PHOTO, keep="40% 50%").raise_for_status().json()
    assert not details(rich, job)["corrected"]
    for fields, corrected in (
        ({"keep": "40% 50%", "format": "jpg", "background": "white"}, False),
        ({"keep": "50% 50%"}, True),
        ({"format": "jpg"}, True),
    ):
        again = rich.client.post(f"{API}/jobs/{job['jobId']}/refine", headers=ANNA, data=fields)
        assert details(rich, again.raise_for_status().json())["corrected"] == corrected, fields


def test_one_users_photos_leave_room_for_those_of_others(
    rich: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich.fund("ben", 100)
    paths = {}
    for name, who in (("anna", ANNA), ("ben", BEN)):
        job = rich.remove(who, PHOTO).raise_for_status().json()
        paths[name] = rich.get(f"{API}/jobs/{job['jobId']}", who).json()["photoUrl"]
    may_go, asked, run = threading.Event(), 0, photos.READING.run

    async def wait(*told: Any) -> Any:
        nonlocal asked
        asked += 1
        assert await asyncio.to_thread(may_go.wait, PATIENCE)
        return await run(*told)

    monkeypatch.setattr(photos.READING, "run", wait)
    monkeypatch.setattr(photos, "SHARES", Shares(2, "Too many."))
    with ThreadPoolExecutor(3) as callers:
        held = [callers.submit(rich.get, paths["anna"], {}) for _ in range(2)]
        wait_until(lambda: asked == 2)
        problem(rich.get(paths["anna"], {}), 503, "OVERLOADED")
        other = callers.submit(rich.get, paths["ben"], {})
        wait_until(lambda: asked == 3)
        may_go.set()
        assert [one.result().status_code for one in (*held, other)] == [200] * 3
    assert rich.get(paths["anna"], {}).status_code == 200


def test_a_photo_that_is_not_kept_is_none(rich: ApiClient, database: Any, tmp_path: Path) -> None:
    job = rich.remove(ANNA, PHOTO).raise_for_status().json()
    url = details(rich, job)["photoUrl"]
    (kept,) = files_below(tmp_path / "data" / ORIGINALS)
    kept.write_bytes(b"damaged")
    problem(rich.get(url, {}), 404, "NOT_FOUND")
    kept.unlink()
    problem(rich.get(url, {}), 404, "NOT_FOUND")
    assert details(rich, job)["photoUrl"] is None
    assert details(rich, job)["inPlace"] is False
    rich.remove(ANNA, b"no photo")
    (failed,) = rich.get(f"{API}/jobs?status=failed", ANNA).json()["jobs"]
    assert details(rich, failed)["photoUrl"] is None
    problem(rich.get(f"{API}/jobs/{failed['jobId']}/photo", ANNA), 404, "NOT_FOUND")
    with opened_shop(database, tmp_path / "another", keep_photos=False) as shop:
        job = shop.remove(ANNA, PHOTO).raise_for_status().json()
        assert details(shop, job)["photoUrl"] is None
        problem(shop.get(f"{API}/jobs/{job['jobId']}/photo", ANNA), 404, "NOT_FOUND")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
def test_what_browsers_show_stays_as_it_is(file_format: str) -> None:
    data = encode(scene(), file_format)
    assert for_browsers(data) == (data, f"image/{file_format.lower()}")
    if file_format in ("JPEG", "PNG", "WEBP"):
        upright = encode(scene(), file_format, exif=exif(1))
        assert for_browsers(upright)[0] == upright


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_photo_is_upright(file_format: str, orientation: int) -> None:
    data = encode(scene(), file_format, exif=exif(orientation))
    shown, media_type = for_browsers(data)
    assert media_type == "image/jpeg"
    picture, wanted = open_picture(shown), decode(data).rgb
    assert picture.size == (wanted.shape[1], wanted.shape[0])
    assert picture.getexif() == {}
    assert np.abs(np.asarray(picture).astype(int) - wanted).mean() < 6


@pytest.mark.parametrize("file_format", ["HEIC", "TIFF", "BMP"])
def test_other_formats_become_a_jpeg(file_format: str) -> None:
    shown, media_type = for_browsers(encode(scene(), file_format))
    picture = open_picture(shown)
    assert (media_type, picture.format, picture.size) == ("image/jpeg", "JPEG", (48, 32))


def test_transparency_stays_and_an_animation_stands_still() -> None:
    half = Image.fromarray(scene()).convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    shown, media_type = for_browsers(encode(half, "TIFF"))
    assert media_type == "image/webp"
    assert np.array_equal(np.asarray(open_picture(shown))[..., 3], np.asarray(half)[..., 3])
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    moving = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    shown, media_type = for_browsers(moving)
    assert media_type == "image/jpeg"
    assert len(list(ImageSequence.all_frames(open_picture(shown)))) == 1
