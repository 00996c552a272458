"""Many photos on the page: a card for each, live, in a real browser."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.app.batch_client import BATCH
from tests.app.system.chromium import accessible, files, fits, keep, opened, until
from tests.app.system.test_readiness import CHROMIUM, PATIENCE_MS
from tests.fakes import photo_bytes, wait_until
from tests.http import http
from tests.worker.killing import Deployment, site
from tests.worker.worker_fixtures import HOLD, LEASE_SECONDS, small_photos

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

BROKEN = photo_bytes(file_format="JPEG")[:200]
STATUSES = "[...document.querySelectorAll('.photo')].map((card) => card.dataset.status)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("site")
    with site(folder, False, workers=1, milliseconds=100, lease=LEASE_SECONDS) as place:
        yield place


@pytest.fixture
def page(browser: Browser, place: Deployment) -> Iterator[Page]:
    with opened(browser, place.address) as page:
        yield page


@pytest.fixture
def held(place: Deployment) -> Iterator[Any]:
    """Yield a file; while it exists, the worker waits."""
    hold = place.storage.root / HOLD
    yield hold
    hold.unlink(missing_ok=True)


def told(page: Page, text: str) -> None:
    """Wait until the page shows this text about its batch."""
    page.locator("#batch-told", has_text=text).wait_for()


def start(page: Page, photos: list[bytes]) -> None:
    page.set_input_files("#file", files(photos))
    page.click("#batch-start:enabled")


def test_each_of_ten_photos_shows_what_becomes_of_it(page: Page) -> None:
    page.evaluate(
        f"""() => {{
            window.seen = [];
            new MutationObserver(() => seen.push({STATUSES})).observe(document.querySelector("#batch-photos"),
                {{ subtree: true, attributes: true, attributeFilter: ["data-status"] }});
        }}"""
    )
    page.set_input_files("#file", files([*small_photos(9), BROKEN]))
    told(page, "10 × 3 = 30 credits.")
    # The photos are shown before they are sent; the broken one cannot be.
    until(page, "document.querySelectorAll('.photo .own').length === 9")
    assert set(page.evaluate(STATUSES)) == {"ready"}
    assert page.is_hidden("#batch-filters")
    keep(page, "batch-offer")
    page.focus("#batch-start")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "batch"  # the button is gone
    told(page, "9 of 10 pictures were created. 27 credits were charged.")
    assert page.evaluate(STATUSES) == ["completed"] * 9 + ["failed"]
    seen = page.evaluate("seen")
    assert any(
        {"completed", "pending"} <= set(one) or {"completed", "processing"} <= set(one) for one in seen
    )
    assert all(one[9] != "completed" for one in seen)

    until(
        page,
        "[...document.querySelectorAll('.photo img')].filter((image) => image.naturalWidth).length === 9",
    )
    failed = page.locator(".photo[data-status=failed]")
    assert failed.locator(".name").inner_text() == "photo-9.png"
    assert failed.locator(".state").inner_text() == "Failed"
    assert "truncated" in failed.locator(".advice").inner_text()
    assert "1 file would fail again." in page.inner_text("#batch-advice")
    assert page.is_hidden("#batch-again")
    assert page.inner_text("#batch-count").startswith("The ZIP holds 9 pictures")
    accessible(page)
    keep(page, "batch-done")

    page.click("#batch-filters [data-show=failed]")
    assert page.locator(".photo:visible").count() == 1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator(".photo:visible").count() == 10
    # A card leads to the brush, and Back to the batch.
    page.locator(".photo .picture").first.click()
    page.wait_for_selector("#save:not([hidden])")
    assert page.evaluate("location.hash").startswith("#job=")
    page.go_back()
    told(page, "9 of 10 pictures were created.")


def test_it_fits_a_phone_in_both_colours(browser: Browser, place: Deployment, held: Any) -> None:
    narrow: dict[str, Any] = {"viewport": {"width": 360, "height": 700}, "reduced_motion": "reduce"}

    def looks_right(page: Page, state: str) -> None:
        fits(page)
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            accessible(page)
            keep(page, f"batch-phone-{colours}{state}")

    with opened(browser, place.address, locale="id-ID", **narrow) as page:
        held.touch()
        start(page, [*small_photos(3), BROKEN, photo_bytes(30, 200)])
        page.locator(".photo[data-status=processing]").first.wait_for()
        looks_right(page, "")
        held.unlink()
        told(page, "4 dari 5 gambar dibuat.")
        looks_right(page, "-done")


def test_failed_photos_are_tried_again(browser: Browser, place: Deployment) -> None:
    def blame(*, service: set[int]) -> Any:
        def change(route: Route) -> None:
            """Let photos fail for a reason of the service."""
            answer = route.fetch()
            batch = answer.json()
            if "photos" in batch:
                for photo in batch["photos"]:
                    photo["needsReview"] = photo["status"] == "completed"
                    if photo["position"] in service:
                        photo |= {"status": "failed", "resultUrl": None, "needsReview": None}
                        photo["error"] = {"code": "DEADLINE_EXCEEDED", "detail": "It took too long."}
            route.fulfill(response=answer, body=json.dumps(batch))

        return change

    with opened(browser, place.address) as page:
        one = blame(service={1, 2})
        page.route(f"**{BATCH}/*", one)
        start(page, [*small_photos(3), BROKEN])
        told(page, "pictures were created")
        assert page.inner_text("#batch-again") == "Try the 2 failed photos again"
        page.click("#batch-filters [data-show=review]")
        assert page.locator(".photo:visible").all_inner_texts() == ["photo-0.png\nDone Needs review"]
        keep(page, "batch-retry")
        assert "1 file would fail again." in page.inner_text("#batch-advice")
        first = page.evaluate("location.hash")
        page.reload()
        # The page has no files any more, and says which ones to choose.
        page.locator(
            "#batch-advice", has_text="choose these files once more: photo-1.png, photo-2.png."
        ).wait_for()
        assert page.is_hidden("#batch-again")

        start(page, [*small_photos(3), BROKEN])
        told(page, "pictures were created")
        page.unroute(f"**{BATCH}/*", one)
        page.click("#batch-again")
        told(page, "All pictures were created. 6 credits were charged.")
        assert page.locator(".photo .name").all_inner_texts() == ["photo-1.png", "photo-2.png"]
        assert page.evaluate("location.hash") != first
        page.go_back()
        told(page, "3 of 4 pictures were created.")
        assert page.is_hidden("#batch-filters [data-show=review]")
        # A single one is done at once, and its batch stays.
        page.route(f"**{BATCH}/*", blame(service={0}))
        start(page, [*small_photos(2)])
        page.locator("#batch-again", has_text="Try the failed photo again").click()
        page.wait_for_selector("#save:not([hidden])")
        assert page.locator(".photo:visible").count() == 2


def test_a_refusal_for_a_while_is_waited_for(browser: Browser, place: Deployment) -> None:
    refused = {"status": 429, "headers": {"Retry-After": "1"}}
    problem = {"code": "RATE_LIMITED", "detail": "Too many batches."}
    with opened(browser, place.address, refusals=2) as page:
        for pattern in (f"**{BATCH}", f"**{BATCH}/*"):
            page.route(pattern, lambda route: route.fulfill(**refused, json=problem), times=1)
        keys: list[str] = []
        page.on(
            "request",
            lambda request: (
                keys.append(request.headers["idempotency-key"])
                if request.method == "POST" and request.url.endswith(BATCH)
                else None
            ),
        )
        start(page, small_photos(2))
        page.locator("#status.busy", has_text="Too many batches. Trying again in 1 second").wait_for()
        told(page, "All pictures were created.")
        assert page.is_hidden("#status")
        assert len(keys) == 2
        assert len(set(keys)) == 1


def test_the_service_restarts_and_the_page_goes_on(browser: Browser, place: Deployment, held: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(place.address)
    held.touch()
    start(page, small_photos(8))
    page.locator(".photo[data-status=processing]").first.wait_for()
    starts = place.api.starts
    place.api.kill()
    page.locator("#batch-count", has_text="The connection was lost.").wait_for()
    wait_until(lambda: place.api.starts > starts and place.answers(), PATIENCE_MS / 1000)
    held.unlink()
    told(page, "All pictures were created.")
    assert set(page.evaluate(STATUSES)) == {"completed"}
    page.close()


def test_an_old_result_takes_the_place_of_a_batch_that_runs(page: Page, held: Any) -> None:
    page.set_input_files("#file", files(small_photos(1)))
    page.wait_for_selector("#save:not([hidden])")
    job = page.evaluate("location.hash")
    held.touch()
    start(page, small_photos(2))
    told(page, "Removing the backgrounds")
    batch = page.evaluate("location.hash")
    page.click("nav [data-to=history]")
    page.click(f"#history-list a.what[href='{job}']")
    page.wait_for_selector("#save:not([hidden])")
    assert page.is_hidden("#batch")
    assert page.evaluate("location.hash") == job
    # The batch is found again, alone.
    page.click("nav [data-to=history]")
    page.click(f"#history-batch-list a[href='{batch}']")
    told(page, "Removing the backgrounds")
    assert page.is_hidden("#result")
    held.unlink()
    told(page, "All pictures were created.")
    # An offer is not replaced by what was shown before it.
    page.set_input_files("#file", files(small_photos(3)))
    told(page, "3 × 3 = 9 credits.")
    page.click("nav [data-to=history]")
    page.click("nav [data-to=remove]")
    told(page, "3 × 3 = 9 credits.")
    assert page.evaluate("location.hash") == "#remove"
    # Nor is a batch that is opened replaced by the offer.
    page.goto(page.url.partition("#")[0] + batch)
    told(page, "All pictures were created.")
    page.locator(".tier", has_text="Standard").click()
    assert page.inner_text("#batch-title") == "2 photos"
    page.locator(".tier", has_text="Basic").click()


def test_presets_and_formats_are_chosen(page: Page, place: Deployment) -> None:
    listed = [{"name": "amazon", "title": "Amazon"}]
    page.route("**/presets", lambda route: route.fulfill(json={"presets": listed}))
    page.set_input_files("#file", files(small_photos(2)))
    page.click("#batch-options summary")
    page.select_option("#batch-preset", "amazon")
    assert page.input_value("#batch-format") == ""
    page.select_option("#batch-preset", "")
    assert page.input_value("#batch-format") == "png"
    page.select_option("#batch-format", "webp")
    accessible(page)
    keep(page, "batch-options")
    # The style of another view's choices is not theirs.
    style = "getComputedStyle(document.querySelector('#batch-options .choices')).borderTopStyle"
    assert page.evaluate(style) == "none"
    page.click("#batch-start:enabled")
    told(page, "All pictures were created.")
    batch_id = page.evaluate("location.hash").removeprefix("#batch=")
    [photo, _] = http.get(f"{place.address}{BATCH}/{batch_id}").json()["photos"]
    assert http.get(place.address + photo["resultUrl"]).headers["content-type"] == "image/webp"


def test_only_photos_that_are_near_get_pictures(page: Page) -> None:
    page.set_input_files("#file", files(small_photos(10) * 30))
    until(page, "document.querySelectorAll('.photo').length === 300")
    until(page, "document.querySelectorAll('.photo .own').length > 5")
    assert page.locator(".photo .own").count() < 150
    page.locator(".photo").last.scroll_into_view_if_needed()
    page.locator(".photo").last.locator(".own").wait_for()
    assert page.locator(".photo .own").count() < 200
