"""remove.bg's API: the picture, its headers, JSON, the ZIP, the account, and what is charged."""

import base64
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutout.app.compat import form, photos
from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.app.db.session import Database
from cutout.app.db.tables import PaidBy
from cutout.inference.tiers import Tier
from tests.app.api_client import ADMIN, ANNA, API
from tests.app.compat.compat_client import (
    FUNDS,
    KINDS,
    CompatClient,
    key_of,
    nothing_charged,
    opened_compat,
    their_error,
)
from tests.conftest import DATA
from tests.fakes import open_picture, photo_bytes

PHOTO = photo_bytes(120, 90, seed=3)
LARGE = photo_bytes(800, 600, "JPEG")


def test_the_headers_of_a_picture(compat: CompatClient) -> None:
    before = compat.balance()
    done = compat.send({"size": "full", "format": "png"}, photo=PHOTO)
    assert done.status_code == 200
    picture = open_picture(done.content)
    told = done.headers
    assert told["Content-Type"] == "image/png"
    assert (int(told["X-Width"]), int(told["X-Height"])) == picture.size == (120, 90)
    assert told["X-Type"] == "other"
    assert int(told["X-Credits-Charged"]) == 15 == before - compat.balance()
    sides = ("Left", "Top", "Width", "Height")
    left, top, width, height = (int(told[f"X-Foreground-{side}"]) for side in sides)
    box = picture.getchannel("A").getbbox()
    assert box == (left, top, left + width, top + height)
    assert 0 < left < 60 < left + width < 120
    assert int(told["X-RateLimit-Limit"]) >= int(told["X-RateLimit-Remaining"]) > 0
    assert abs(int(told["X-RateLimit-Reset"]) - time.time()) < 3600
    assert "Retry-After" not in told
    # As the service's own API, so that a substitute is never silent.
    assert told["X-Cutout-Model"] == "isnet-general"
    assert told["X-Cutout-Backend"] == "fake"
    assert told["X-Cutout-Substitute"] == "true"
    assert compat.job(done).credits == 15


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("application/json, image/png", True),
        ("image/png, application/json", False),
        # What axios sends by itself, also where it wants bytes.
        ("application/json, text/plain, */*", False),
        ("*/*", False),
        ("image/*", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_accept(compat: CompatClient, accept: str, is_json: bool) -> None:
    done = compat.send({"crop": "1"}, headers={"Accept": accept}, photo=PHOTO)
    assert done.status_code == 200
    assert done.headers["Vary"] == "Accept"
    if not is_json:
        assert open_picture(done.content).format == "PNG"
        return
    assert done.headers["Content-Type"] == "application/json"
    data = done.json()["data"]
    assert set(data) == {"result_b64", *(f"foreground_{side}" for side in ("top", "left", "width", "height"))}
    picture = open_picture(base64.b64decode(data["result_b64"], validate=True))
    assert (data["foreground_left"], data["foreground_top"]) == (0, 0)
    assert (data["foreground_width"], data["foreground_height"]) == picture.size
    assert done.headers["X-Width"] == str(picture.width)


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [
        ({}, "image/png"),
        ({"format": "auto", "bg_color": "fff"}, "image/jpeg"),
        ({"format": "auto", "bg_color": "ffffff80"}, "image/png"),
        ({"format": "jpg"}, "image/jpeg"),
        ({"format": "webp"}, "image/webp"),
        ({"channels": "alpha"}, "image/png"),
    ],
)
def test_formats(compat: CompatClient, fields: dict[str, str], media_type: str) -> None:
    done = compat.send(fields, photo=PHOTO)
    assert done.headers["Content-Type"] == media_type
    picture = open_picture(done.content)
    assert Image.MIME[picture.format or ""] == media_type
    assert (picture.mode == "L") == ("channels" in fields)


def test_the_zips_parts_make_the_png(compat: CompatClient) -> None:
    """As clients do that ask for a ZIP instead of a PNG."""
    photo = (DATA / "chelsea.jpg").read_bytes()
    packed = compat.send({"format": "zip", "size": "full"}, photo=photo)
    assert packed.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert sorted(archive.namelist()) == ["alpha.png", "color.jpg"]
        colour = open_picture(archive.read("color.jpg"))
        alpha = open_picture(archive.read("alpha.png"))
    assert (colour.mode, alpha.mode) == ("RGB", "L")
    colour.putalpha(alpha)
    png = compat.send({"format": "png", "size": "full"}, photo=photo)
    joined, whole = np.asarray(colour, np.float32), np.asarray(open_picture(png.content), np.float32)
    assert joined.shape == whole.shape
    np.testing.assert_array_equal(joined[..., 3], whole[..., 3])
    seen = whole[..., 3] > 0  # what is transparent has no colour
    differences = np.abs(joined[..., :3] - whole[..., :3])[seen]
    # A JPEG of the best quality still rounds in another colour space.
    assert np.percentile(differences, 99) <= 2
    assert differences.max() <= 4
    sides = [f"X-Foreground-{side}" for side in ("Left", "Top", "Width", "Height")]
    assert [packed.headers[side] for side in sides] == [png.headers[side] for side in sides]


def test_sizes_scale_down_and_never_up(compat: CompatClient) -> None:
    small = compat.send({"size": "preview", "format": "jpg"}, photo=LARGE)
    width, height = int(small.headers["X-Width"]), int(small.headers["X-Height"])
    assert 245_000 < width * height <= 250_000
    assert abs(width / height - 4 / 3) < 0.01
    kept = compat.send({"size": "medium", "format": "jpg"}, photo=LARGE)
    assert (kept.headers["X-Width"], kept.headers["X-Height"]) == ("800", "600")


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_photo_and_a_large_picture(compat: CompatClient, kind: str) -> None:
    """They are decoded and encoded beside the requests of others."""
    assert len(LARGE) * 4 / 3 > form.MOST_AT_ONCE_BYTES
    how = {"size": "full", "format": "png"}
    plain = compat.send(how, photo=LARGE, kind=kind)
    in_json = compat.send(how, photo=LARGE, kind=kind, headers={"Accept": "application/json"})
    assert len(plain.content) > photos.MOST_AT_ONCE_BYTES
    assert base64.b64decode(in_json.json()["data"]["result_b64"]) == plain.content


def test_a_region_is_of_the_photo_that_was_sent(compat: CompatClient) -> None:
    done = compat.send({"size": "preview", "roi": "0 0 400px 600px"}, photo=LARGE)
    assert done.status_code == 200
    right = int(done.headers["X-Foreground-Left"]) + int(done.headers["X-Foreground-Width"])
    assert right <= int(done.headers["X-Width"]) / 2 + 1


def test_the_account_has_exactly_their_keys(compat: CompatClient) -> None:
    call = compat.shop.client
    key = {"X-Api-Key": key_of(compat.shop, "dora")}
    compat.shop.fund("dora", 42)

    def account() -> dict[str, object]:
        answer = call.get("/v1.0/account", headers=key)
        assert answer.status_code == 200
        body: dict[str, object] = answer.json()
        return body

    def expected(balance: int, free: int) -> dict[str, object]:
        credits = {"total": balance, "subscription": 0, "payg": balance, "enterprise": 0}
        api = {"free_calls": free, "sizes": "all"}
        return {"data": {"attributes": {"credits": credits, "api": api}}}

    assert account() == expected(42, 0)
    bought = call.post(f"{API}/subscription", json={"plan": "starter", "paymentId": "dora-1"}, headers=key)
    call.post(f"{API}/admin/payments/{bought.json()['id']}/confirm", headers=ADMIN).raise_for_status()
    assert account() == expected(42, 50)
    by_quota = compat.send(headers=key)
    assert by_quota.headers["X-Credits-Charged"] == "0"
    assert compat.job(by_quota).paid_by is PaidBy.QUOTA
    assert account() == expected(42, 49)
    by_credits = compat.send({"size": "full"}, headers=key)  # whose tier this plan does not have
    assert by_credits.headers["X-Credits-Charged"] == "15"
    assert account() == expected(27, 49)


def test_improve_keeps_nothing(compat: CompatClient, database: Database, tmp_path: Path) -> None:
    url = compat.url
    compat.url = "/v1.0/improve"
    try:
        with nothing_charged(compat):
            for kind in ("multipart", "form", "json"):
                answer = compat.send({"tag": "cars"}, kind=kind)
                assert answer.status_code == 200
                assert list(answer.json()) == ["id"]
                assert len(answer.json()["id"]) == 36
            their_error(compat.send(photo=bytes(1_700_000)), 400, "file_too_large")
            their_error(compat.send(headers={"X-Api-Key": "x"}), 403)
    finally:
        compat.url = url
    with opened_compat(database, tmp_path, compat_improve=False) as client:
        client.url = "/v1.0/improve"
        their_error(client.send(), 404)


def test_the_tier_of_a_size_is_a_setting(database: Database, tmp_path: Path) -> None:
    chosen = "preview=standard, 50MP=industry"
    with opened_compat(database, tmp_path, compat_tiers=chosen) as client:
        charged = {}
        for size in ("preview", "small", "full", "50MP"):
            done = client.send({"size": size})
            charged[size] = int(done.headers["X-Credits-Charged"])
        assert charged == {"preview": 8, "small": 3, "full": 15, "50MP": 25}
        assert client.balance() == FUNDS - sum(charged.values())
    for wrong in ("preview", "preview=gold", "tiny=basic", "=basic"):
        with pytest.raises(SettingsError, match="CUTOUT_COMPAT_TIERS"):
            app_settings.load(compat_tiers=wrong)
    assert app_settings.load().compat_tiers["hd"] is Tier.PROFESSIONAL


def test_each_removal_is_a_job_of_its_user(compat: CompatClient) -> None:
    done = compat.send({"format": "jpg", "size": "hd"})
    (job,) = compat.shop.get(f"{API}/jobs?limit=1", ANNA).json()["jobs"]
    assert job["jobId"] == done.headers["X-Cutout-Job"]
    assert (job["status"], job["tier"], job["format"]) == ("completed", "professional", "jpg")
    assert compat.shop.get(job["resultUrl"], {}).content == done.content
