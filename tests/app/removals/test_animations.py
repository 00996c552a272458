"""Animations over HTTP: every frame has the price of the tier, in credits, held before the work and charged after it."""

from pathlib import Path
from zlib import crc32

import pytest

from cutout.app.billing import payments
from cutout.app.billing.payments import Item
from cutout.app.db.session import Database
from cutout.app.db.tables import User, now
from tests.animations import animation_of, durations_of, moving_disc
from tests.app.api_client import ANNA, API, ApiClient, opened_shop

GIF = animation_of(moving_disc(5), "GIF", duration=[40, 50, 60, 70, 80])


def test_every_frame_has_its_price(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    job = shop.remove(ANNA, GIF, tier="standard", animation="all").raise_for_status().json()
    assert (job["frames"], job["credits"], job["paidBy"], job["format"]) == (5, 40, "credits", "webp")
    assert job["notes"] == []
    assert shop.balance(ANNA) == 60
    picture = shop.client.get(job["resultUrl"])
    assert picture.headers["content-type"] == "image/webp"
    assert durations_of(picture.content) == [40, 50, 60, 70, 80]
    assert shop.get(f"{API}/jobs/{job['jobId']}", ANNA).json()["frames"] == 5
    assert shop.client.get(job["thumbnailUrl"]).status_code == 200
    wanted = {"tier": "standard", "imageCount": 1, "frames": 5}
    price = shop.client.post(f"{API}/pricing/calculate", json=wanted, headers=ANNA).json()
    assert (price["finalCredits"], price["frames"]) == (40, 5)


def test_without_being_asked_only_the_first_frame_is_cut_out_and_paid(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    job = shop.remove(ANNA, GIF).raise_for_status().json()
    assert (job["frames"], job["credits"], job["format"]) == (1, 3, "png")
    assert "animation=all" in job["notes"][0]


def test_the_quota_pays_for_single_pictures_alone(shop: ApiClient) -> None:
    owner = shop.fund("anna", 100)
    with shop.database.begin() as session:
        user = session.get_one(User, owner)
        payments.buy(session, user, Item(plan="pro"), "pay-1", settled=True, at=now())
    moving = shop.remove(ANNA, GIF, animation="all").raise_for_status().json()
    assert (moving["paidBy"], moving["credits"]) == ("credits", 15)
    still = shop.remove(ANNA, animation="all").raise_for_status().json()
    assert (still["paidBy"], still["credits"], still["frames"]) == ("quota", 0, 1)


def test_credits_for_all_frames_are_needed_before_the_work(shop: ApiClient) -> None:
    shop.fund("anna", 14)
    refused = shop.remove(ANNA, GIF, animation="all")
    assert (refused.status_code, refused.json()["code"]) == (402, "INSUFFICIENT_CREDITS")
    assert (refused.json()["required"], refused.json()["available"]) == (15, 14)
    assert shop.balance(ANNA) == 14


def test_what_fails_costs_nothing(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    whole = animation_of(moving_disc(3), "PNG")
    place = whole.rindex(b"fdAT")
    length = int.from_bytes(whole[place - 4 : place])
    # The file is whole, and the pixels of the last frame cannot be unpacked.
    body = b"fdAT" + whole[place + 4 : place + 8] + b"\xff" * (length - 4)
    damaged = whole[:place] + body + crc32(body).to_bytes(4) + whole[place + 4 + length + 4 :]
    for data in (damaged, GIF[: len(GIF) // 2]):
        refused = shop.remove(ANNA, data, animation="all")
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_IMAGE")
    assert shop.balance(ANNA) == 100


def test_more_frames_than_the_host_allows_are_refused(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, max_frames=4) as shop:
        shop.fund("anna", 100)
        refused = shop.remove(ANNA, GIF, animation="all")
        assert (refused.status_code, refused.json()["code"]) == (413, "IMAGE_TOO_LARGE")
        assert shop.balance(ANNA) == 100
        assert shop.remove(ANNA, GIF).status_code == 200
    with opened_shop(database, tmp_path, max_animation_megapixels=0.01) as shop:
        assert shop.remove(ANNA, GIF, animation="all").status_code == 413


def test_the_same_key_is_charged_once(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    who = ANNA | {"Idempotency-Key": "k-1"}
    first, second = (shop.remove(who, GIF, animation="all").raise_for_status().json() for _ in range(2))
    assert first["jobId"] == second["jobId"]
    assert shop.balance(ANNA) == 85
    assert shop.remove(who, GIF).status_code == 409


def test_an_animation_cannot_be_refined_and_a_still_picture_can(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    moving = shop.remove(ANNA, GIF, animation="all").raise_for_status().json()
    refused = shop.client.post(f"{API}/jobs/{moving['jobId']}/refine", json={}, headers=ANNA)
    assert (refused.status_code, refused.json()["code"]) == (409, "CONFLICT")
    assert "An animation cannot be refined" in refused.json()["detail"]
    still = shop.remove(ANNA, animation="all").raise_for_status().json()
    for wanted, status in (({"format": "jpg"}, 200), ({"animation": "all"}, 400)):
        answer = shop.client.post(f"{API}/jobs/{still['jobId']}/refine", json=wanted, headers=ANNA)
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"tier": "basic", "imageCount": 2, "frames": 3}, "first frame"),
        ({"tier": "preview", "imageCount": 1, "frames": 3}, "first frame"),
        ({"tier": "basic", "imageCount": 1, "frames": 0}, "frames"),
    ],
)
def test_what_has_no_frames_has_no_price_of_them(
    shop: ApiClient, wanted: dict[str, object], told: str
) -> None:
    answer = shop.client.post(f"{API}/pricing/calculate", json=wanted, headers=ANNA)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT")
    assert told in answer.json()["detail"]
