"""Refining a result: other hints, the same masks, no network, and no second bill on the same day."""

import io
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from sqlalchemy import update

from cutout.app.db.tables import Job, now
from cutout.app.jobs.originals import ORIGINALS
from cutout.app.removals.form import NOT_REFINED, RefinementForm
from cutout.app.removals.refining import CHANGEABLE, CHANGEABLE_LAYOUT
from tests.app.api_client import ANNA, API, BEN, ApiClient, opened_shop
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import photo_bytes

PHOTO = photo_bytes(120, 90)
# Nothing of the fake network's disc is left.
DROP = {"drop": "50% 50%"}
# Of a form's fields; strokes are files.
HINTS = {"keep", "drop", "largest_only", "holes", "min_coverage", "within"}


@pytest.fixture
def rich(shop: ApiClient) -> ApiClient:
    shop.fund("anna", 100)
    return shop


def refine(shop: ApiClient, job: dict[str, Any], who: dict[str, str] = ANNA, **body: Any) -> httpx2.Response:
    """Send a refinement; `body` is what httpx takes: data, files or json."""
    answer: httpx2.Response = shop.client.post(f"{API}/jobs/{job['jobId']}/refine", headers=who, **body)
    return answer


def refined(shop: ApiClient, job: dict[str, Any], **fields: str) -> dict[str, Any]:
    made: dict[str, Any] = refine(shop, job, data=fields).raise_for_status().json()
    return made


def removed(shop: ApiClient, **fields: str) -> dict[str, Any]:
    made: dict[str, Any] = shop.remove(ANNA, PHOTO, **fields).raise_for_status().json()
    return made


def picture_of(shop: ApiClient, job: dict[str, Any]) -> bytes:
    data: bytes = shop.get(job["resultUrl"], {}).raise_for_status().content
    return data


def without_network(shop: ApiClient) -> None:
    def run() -> None:
        raise AssertionError("the network ran")

    shop.runner.before = run


@on_both
def test_a_refined_result_is_what_a_fresh_run_would_give(rich: ApiClient) -> None:
    first = removed(rich, tier="professional", trim="true", margin="5px")
    fresh = removed(rich, tier="professional", trim="true", margin="5px", format="webp", **DROP)
    without_network(rich)
    before = picture_of(rich, first)
    again = refined(rich, first, format="webp", **DROP)
    assert picture_of(rich, again) == picture_of(rich, fresh)
    assert again["noForeground"]
    assert (again["refinedFrom"], again["tier"], again["format"]) == (first["jobId"], "professional", "webp")
    assert (again["model"], again["backend"]) == (first["model"], first["backend"])
    assert (again["credits"], again["paidBy"]) == (0, "free")
    assert picture_of(rich, refined(rich, first)) == before == picture_of(rich, first)
    assert rich.balance(ANNA) == 100 - 2 * 15
    # A refinement of a refinement is one of the first result; hints that are not sent again are gone.
    back = refined(rich, again)
    assert (back["refinedFrom"], picture_of(rich, back)) == (first["jobId"], before)


def test_strokes_and_a_background_come_as_files(rich: ApiClient) -> None:
    first = removed(rich)
    without_network(rich)
    strokes, behind = io.BytesIO(), photo_bytes(20, 20, seed=3)
    Image.new("L", (8, 8), 255).save(strokes, "PNG")
    files = {"dropMask": ("strokes.png", strokes.getvalue()), "backgroundImage": ("behind.png", behind)}
    again = refine(rich, first, files=files).raise_for_status().json()
    fresh = rich.client.post(f"{API}/remove", headers=ANNA, files=files | {"image": ("a.png", PHOTO)})
    assert fresh.status_code == 500  # the network would have run
    rich.runner.before = lambda: None
    fresh = rich.client.post(f"{API}/remove", headers=ANNA, files=files | {"image": ("a.png", PHOTO)})
    assert picture_of(rich, again) == picture_of(rich, fresh.json())
    # The picture behind is not kept.
    told = problem(refine(rich, again | {"jobId": fresh.json()["jobId"]}), 400, "INVALID_INPUT")
    assert "backgroundImage" in told["detail"]
    assert refine(rich, fresh.json(), data={"background": "none"}).status_code == 200


def test_the_answer_is_the_picture_where_accept_asks(rich: ApiClient) -> None:
    first = removed(rich)
    answer = refine(rich, first, ANNA | {"Accept": "image/webp"}, json={"maskOnly": True})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (120, 90)
    assert answer.headers["x-cutout-model"] == "isnet-general"
    as_mask = refine(rich, first, data={"format": "mask"}).raise_for_status().json()
    assert Image.open(io.BytesIO(picture_of(rich, as_mask))).mode == "L"


def test_what_the_network_was_shown_cannot_change(rich: ApiClient) -> None:
    first = removed(rich)
    for name, value in {
        "tier": "basic",
        "box": "0 0 50% 50%",
        "roi": "0 0 9 9",
        "maxMegapixels": "1",
        "keepProfile": "true",
    }.items():
        told = problem(refine(rich, first, data={name: value}), 400, "INVALID_INPUT")
        assert told["detail"].startswith(f"{name}: this stays")
    problem(refine(rich, first, data={"keep": "0 0"}), 400, "INVALID_INPUT")  # on no subject
    problem(refine(rich, first, data={"colour": "red"}), 400, "INVALID_INPUT")
    told = problem(refine(rich, first, files={"image": ("a.png", PHOTO)}), 400, "INVALID_INPUT")
    assert told["detail"].startswith("image: the photo is that of the first removal")
    assert rich.balance(ANNA) == 97


def test_each_option_either_changes_or_stays() -> None:
    changing = (
        CHANGEABLE
        | CHANGEABLE_LAYOUT
        | {"background_image_url", "shadow_opacity", "preset"}
        | {name for name in RefinementForm.model_fields if name in HINTS}
    )
    assert {*changing, *NOT_REFINED} == set(RefinementForm.model_fields)
    assert changing.isdisjoint(NOT_REFINED)


# What is sent first, what is sent to refine it, and what of both a new removal is sent.
LAYOUTS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "trimmed": ({}, {"trim": "true", "margin": "10%"}, {}),
    "no longer trimmed": ({"trim": "true", "margin": "10%"}, {"trim": "false"}, {"margin": "0"}),
    "another margin": ({"trim": "true", "margin": "10%"}, {"margin": "3px"}, {}),
    "on a canvas": ({}, {"canvas": "50x70", "position": "0% 100%", "scale": "40%"}, {}),
    "on none any more": ({"canvas": "50x70", "margin": "5%"}, {"canvas": "original"}, {"margin": "0"}),
    "with a shadow": ({"canvas": "64x64"}, {"shadow": "soft", "shadowOpacity": "60"}, {}),
    "another shadow": ({"shadow": "soft"}, {"keepShadow": "true"}, {"shadow": "none"}),
    "the first shadow again": ({"keepShadow": "true"}, {"shadow": "soft"}, {"keepShadow": "false"}),
    "as a mask": (
        {"shadow": "soft", "background": "red", "trim": "true"}, {"format": "mask"},
        {"shadow": "none", "background": "none"},
    ),
    "within a box": ({"trim": "true"}, {"within": "20% 0% 55% 100%", "trim": "true"}, {}),
    "with hints of the photo": ({"trim": "true"}, {"canvas": "64x50", "keep": "50% 50%", "holes": "fill"}, {}),
    "as a preset": ({"trim": "true", "margin": "5px", "shadow": "soft"}, {"preset": "avatar"}, {"trim": "false", "margin": "", "shadow": "none"}),
    "as a preset with other values": ({}, {"preset": "passport", "canvas": "60x90", "format": "png"}, {}),
}  # fmt: skip


def test_another_layout_is_that_of_a_fresh_run(rich: ApiClient) -> None:
    facts = "width", "height", "format", "subject", "coverage", "noForeground"
    for name, (first, change, both) in LAYOUTS.items():
        rich.runner.before = lambda: None
        made, fresh = removed(rich, **first), removed(rich, **first | change | both)
        without_network(rich)
        again = refined(rich, made, **change)
        assert picture_of(rich, again) == picture_of(rich, fresh) != picture_of(rich, made), name
        assert [again[fact] for fact in facts] == [fresh[fact] for fact in facts], name
        assert (again["credits"], again["tier"]) == (0, "basic")


def test_what_does_not_go_together_is_said_of_the_whole(rich: ApiClient) -> None:
    trimmed, plain = removed(rich, trim="true"), removed(rich)
    assert (
        refined(rich, trimmed, margin="5px")["width"] < 120
    )  # a margin alone is none of a removal's options
    told = problem(refine(rich, plain, data={"margin": "5px"}), 400, "INVALID_INPUT")
    assert "needs trim" in told["detail"]
    problem(refine(rich, plain, data={"canvas": "30000x30000"}), 400, "INVALID_INPUT")
    told = problem(refine(rich, plain, data={"preset": "amazone"}), 400, "INVALID_INPUT")
    assert "Did you mean amazon?" in told["detail"]
    problem(refine(rich, plain, data={"requireSubject": "true", **DROP}), 400, "NO_SUBJECT")


def test_a_preset_decides_all_that_can_change(rich: ApiClient) -> None:
    behind = {"backgroundImage": ("behind.png", photo_bytes(20, 20, seed=3)), "image": ("a.png", PHOTO)}
    made = rich.client.post(f"{API}/remove", headers=ANNA, files=behind).raise_for_status().json()
    again = refined(rich, made, preset="sticker")  # it has no picture behind
    assert (again["width"], again["height"], again["format"]) == (512, 512, "webp")
    first = removed(rich, tier="standard", canvas="40x40", margin="5px")
    assert refined(rich, first, preset="ebay")["tier"] == "standard"
    problem(refine(rich, removed(rich), data={"preset": "passport", **DROP}), 400, "NO_SUBJECT")


def test_an_own_preset_may_not_change_what_the_network_was_shown(database: Any, tmp_path: Path) -> None:
    own = tmp_path / "presets.toml"
    own.write_text('[narrow]\nroi = "0% 0% 90% 100%"\nmax_megapixels = 1\ncanvas = "70x50"\n')
    with opened_shop(database, tmp_path, presets=own) as shop:
        shop.fund("anna", 100)
        told = problem(refine(shop, removed(shop), data={"preset": "narrow"}), 400, "INVALID_INPUT")
        assert told["detail"].startswith("preset: narrow sets roi, which stays")
        same = removed(shop, roi="0% 0% 90% 100%", maxMegapixels="1")
        assert refined(shop, same, preset="narrow")["width"] == 70
        names = [one["name"] for one in shop.client.get(f"{API}/presets").json()["presets"]]
        assert names[-1] == "narrow"


def test_presets_are_listed_for_anyone(rich: ApiClient) -> None:
    found = {
        one["name"]: one for one in rich.client.get(f"{API}/presets").raise_for_status().json()["presets"]
    }
    amazon, sticker, walmart = found["amazon"], found["sticker"], found["walmart"]
    assert (amazon["width"], amazon["height"], amazon["background"]) == (2000, 2000, "white")
    assert amazon["options"]["margin"] == "5%"
    assert (amazon["verified"], walmart["verified"], sticker["verified"]) == (False, True, None)
    assert (sticker["source"], sticker["background"]) == (None, None)
    assert found["passport"]["options"]["requireSubject"] is True


def test_hints_within_a_box_hold_as_in_a_fresh_run(rich: ApiClient) -> None:
    # Small enough that the network was not shown the whole photo.
    box = {"box": "25% 25% 75% 75%"}
    first, fresh = removed(rich, **box), removed(rich, **box, **DROP)
    without_network(rich)
    assert picture_of(rich, refined(rich, first)) == picture_of(rich, first)
    assert picture_of(rich, refined(rich, first, **DROP)) == picture_of(rich, fresh)


def test_strokes_may_be_as_large_as_an_upload(rich: ApiClient) -> None:
    strokes = io.BytesIO()
    Image.new("L", (500, 500), 255).save(strokes, "BMP")
    assert len(strokes.getvalue()) > 200_000  # more than the body of a call without files may have
    again = refine(rich, removed(rich), files={"dropMask": ("strokes.bmp", strokes.getvalue())})
    assert again.raise_for_status().json()["noForeground"]


@on_both
def test_later_a_refinement_has_the_price_of_its_tier(rich: ApiClient) -> None:
    first = removed(rich, tier="standard")
    with rich.database.begin() as session:
        session.execute(update(Job).values(finished_at=now() - timedelta(hours=25)))
    assert rich.balance(ANNA) == 92
    again = refined(rich, first, **DROP)
    assert (again["credits"], again["paidBy"]) == (8, "credits")
    problem(refine(rich, first, data={"keep": "0 0"}), 400, "INVALID_INPUT")
    assert rich.balance(ANNA) == 84
    stats = rich.get(f"{API}/stats", ANNA).json()
    assert stats["tiers"]["standard"]["removals"] == 2


def test_a_free_refinement_counts_as_no_removal(rich: ApiClient) -> None:
    refined(rich, removed(rich))
    assert rich.get(f"{API}/stats", ANNA).json()["tiers"]["basic"]["removals"] == 1


@on_both
def test_only_its_owner_can_refine_a_result(rich: ApiClient) -> None:
    first = removed(rich)
    problem(refine(rich, first, BEN), 404, "NOT_FOUND")
    problem(refine(rich, {"jobId": "0b9c7a3e-0000-4000-8000-000000000000"}), 404, "NOT_FOUND")
    problem(refine(rich, {"jobId": "no-id"}), 400, "INVALID_INPUT")
    problem(refine(rich, first, {}), 401, "UNAUTHENTICATED")


def test_what_has_no_result_or_no_photo_cannot_be_refined(rich: ApiClient, tmp_path: Path) -> None:
    first = removed(rich)
    problem(rich.remove(ANNA, b"no picture"), 415, "UNSUPPORTED_FORMAT")
    (failed,) = rich.get(f"{API}/jobs?status=failed", ANNA).json()["jobs"]
    assert "no result" in problem(refine(rich, failed), 409, "CONFLICT")["detail"]
    with rich.database.begin() as session:
        good = session.get_one(Job, uuid.UUID(first["jobId"])).options
        session.execute(update(Job).values(options={"tier": "of another version"}))
    assert "another version" in problem(refine(rich, first), 409, "CONFLICT")["detail"]
    with rich.database.begin() as session:
        session.execute(update(Job).values(options=good))
    (kept,) = (tmp_path / "data" / ORIGINALS).iterdir()
    kept.write_bytes(b"damaged")
    assert "Send the photo again" in problem(refine(rich, first), 409, "CONFLICT")["detail"]
    kept.unlink()
    assert "Send it again" in problem(refine(rich, first), 409, "CONFLICT")["detail"]
    assert rich.balance(ANNA) == 97


def test_an_operator_may_keep_no_photos(database: Any, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, keep_photos=False) as shop:
        shop.fund("anna", 100)
        problem(refine(shop, removed(shop)), 409, "CONFLICT")
        assert not (tmp_path / "data" / ORIGINALS).exists()


def test_a_photo_that_cannot_be_kept_is_no_failure(rich: ApiClient, tmp_path: Path) -> None:
    blocking = tmp_path / "data" / ORIGINALS.strip("/")
    blocking.write_bytes(b"a file where a folder should be")
    first = removed(rich)
    assert first["status"] == "completed"
    blocking.unlink()
    problem(refine(rich, first), 409, "CONFLICT")


def test_the_same_key_is_one_refinement(rich: ApiClient) -> None:
    first = removed(rich)
    keyed = ANNA | {"Idempotency-Key": "correction-1"}
    one, two = (refine(rich, first, keyed, data=DROP).raise_for_status().json() for _ in range(2))
    assert one["jobId"] == two["jobId"]
    problem(refine(rich, first, keyed), 409, "CONFLICT")
    problem(refine(rich, removed(rich), keyed, data=DROP), 409, "CONFLICT")


def test_refinements_have_a_limit_of_their_own(database: Any, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, refine_per_minute=2, remove_per_minute=1) as shop:
        shop.fund("anna", 100)
        first = removed(shop)
        answers = [refine(shop, first) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "refinements" in answers[2].json()["detail"]


def test_a_kept_photo_is_the_services_alone(rich: ApiClient, tmp_path: Path) -> None:
    removed(rich)
    (kept,) = (tmp_path / "data" / ORIGINALS).iterdir()
    assert kept.stat().st_mode & 0o077 == 0
