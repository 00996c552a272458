"""The view History and old results that are opened again, in a real browser and service, on a fake network."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import select, update

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.config.settings import DATABASE_FILE
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, Status, User, now
from cutout.app.jobs.originals import ORIGINALS
from cutout.inference.tiers import Tier
from tests.app.api_client import API
from tests.app.serving import served
from tests.app.system.chromium import accessible, answer_removals, drag, files, fits, keep, opened, until
from tests.app.system.test_readiness import CHROMIUM
from tests.app.system.test_single_photo import READY, shown, told
from tests.fakes import fake_engine, photo_bytes, thin_picture, wait_until
from tests.http import http

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

WINDOW: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
# Of one search: a page of the list, and two more.
PHOTOS = 26
CARD = "#history-list .card"


@dataclass
class Shop:
    """A service, its folder and its database, and the jobs of its photos by their names."""

    address: str
    folder: Path
    database: Database
    jobs: dict[str, str]

    def remove(self, name: str, photo: bytes | None = None, **fields: str) -> Any:
        sent = {"image": (name, thin_picture(300, 200) if photo is None else photo)}
        return http.post(f"{self.address}{API}/remove", files=sent, data=fields).json()

    def change(self, name: str, **columns: object) -> None:
        with self.database.begin() as session:
            session.execute(update(Job).where(Job.name == name).values(**columns))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("history")
    settings = app_settings.load(auth="off", data_dir=folder)
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        shop = Shop(address, folder, Database(f"sqlite:///{folder / DATABASE_FILE}"), {})
        for number in range(PHOTOS):
            shop.remove(f"part-{number}.png", photo_bytes(30, 20))
        shop.remove("old-lamp.png")
        shop.remove("catalogue.pdf", b"%PDF")
        shop.remove("stopped.png")
        shop.jobs["Red-Shoe.png"] = shop.remove("Red-Shoe.png")["jobId"]
        shop.remove("beret.png", tier="industry")
        shop.jobs["vase.png"] = shop.remove("vase.png", trim="true")["jobId"]
        shop.remove("preview.jpg", tier="preview")
        shop.change(
            "old-lamp.png", finished_at=now() - timedelta(days=8), created_at=now() - timedelta(days=8)
        )
        shop.change("stopped.png", status=Status.CANCELLED)
        shop.change("beret.png", needs_review=True)
        with shop.database.begin() as session:
            owner, batch_id = session.scalars(select(User.id)).one(), uuid.uuid4()
            session.add(
                Batch(
                    id=batch_id, user_id=owner, status=Status.PARTIAL, tier=Tier.STANDARD, images=40, credits=304, discount=16,
                    discount_percent=5, created_at=now(), finished_at=now(),
                )
            )  # fmt: skip
            session.flush()
            session.execute(update(Job).where(Job.name == "part-0.png").values(batch_id=batch_id, position=0))
        yield shop
        shop.database.close()


@pytest.fixture(scope="module")
def page(browser: Browser, shop: Shop) -> Iterator[Page]:
    """A page for several tests: each begins at an address."""
    with opened(browser, shop.address, **WINDOW) as page:
        yield page


def go(page: Page, shop: Shop, fragment: str, until_shown: str = f"{CARD} .name") -> None:
    page.goto("about:blank")
    page.goto(f"{shop.address}/#{fragment}")
    page.wait_for_selector(until_shown)


def names(page: Page) -> list[str]:
    return page.locator(f"{CARD} .name").all_text_contents()


def listed(page: Page, *wanted: str) -> None:
    wait_until(lambda: names(page) == list(wanted))
    until(page, "document.querySelector('#history-list').ariaBusy === 'false'")
    assert names(page) == list(wanted)


def fragment(page: Page) -> str:
    return page.url.partition("#")[2]


def test_photos_are_shown_with_what_became_of_them(page: Page, shop: Shop, browser: Browser) -> None:
    go(page, shop, "history")
    ours = ["vase.png", "beret.png", "stopped.png", "catalogue.pdf"]
    assert [name for name in names(page) if name in ours] == ours  # the newest first
    assert "preview.jpg" not in names(page)
    hat = page.locator(CARD, has_text="beret.png")
    assert "Industry" in str(hat.text_content())
    assert "25 credits · isnet-general" in str(hat.text_content())
    assert hat.locator("a.get").get_attribute("download") == "beret-cutout.png"
    until(page, f"document.querySelector('{CARD} img').naturalWidth > 0")
    assert "/thumbnail?" in str(hat.locator("img").get_attribute("src"))
    failed = str(page.locator(CARD, has_text="catalogue.pdf").text_content())
    assert "This file is not a picture that can be read. Send a JPEG" in failed
    assert "It cost nothing." in failed
    assert "Needs review" in str(page.locator(CARD, has_text="beret.png").text_content())
    assert "Cancelled" in str(page.locator(CARD, has_text="stopped.png").text_content())
    assert page.inner_text("#history-kept") == "Results are kept for 7 days."
    assert "1 photo" in page.inner_text("#history-batch-list a")
    assert str(page.get_attribute("#history-batch-list a", "href")).startswith("#batch=")
    go(page, shop, "history?search=lamp")
    assert "The result is no longer kept. Send the photo again" in str(page.locator(CARD).text_content())
    assert page.locator("#history-list a").count() == 0
    few = "history?search=e"
    go(page, shop, few)
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)
        page.wait_for_timeout(50)
        accessible(page)
        keep(page, f"history-{colours}")
    page.emulate_media(color_scheme="light")
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    with opened(browser, f"{shop.address}/#{few}", shows=f"{CARD} .name", **phone) as small:
        fits(small)
        accessible(small)
        keep(small, "history-phone")
        targets = """[...document.querySelectorAll("#view-history :is(a, button, select, input:not([type=checkbox]), .chip)")]
            .filter((one) => one.offsetParent && (one.offsetHeight < 44 || one.offsetWidth < 44)).map((one) => one.outerHTML)"""
        assert small.evaluate(targets) == []


def test_each_filter_is_in_the_address(page: Page, shop: Shop) -> None:
    go(page, shop, "history")
    assert page.is_hidden("#history-clear")
    page.select_option("#history-filters [name=status]", "cancelled")
    until(page, f"document.querySelectorAll('{CARD}').length === 1")
    listed(page, "stopped.png")
    assert fragment(page) == "history?status=cancelled"
    page.select_option("#history-filters [name=status]", "")
    page.check("#history-filters [name=needsReview]")
    until(page, "location.hash === '#history?needsReview=true'")
    # What other tests refine, in basic, needs a review too.
    wait_until(lambda: "beret.png" in names(page) and "stopped.png" not in names(page))
    page.select_option("#history-filters [name=tier]", "industry")
    until(page, "location.hash === '#history?tier=industry&needsReview=true'")
    listed(page, "beret.png")
    page.reload()
    page.wait_for_selector(f"{CARD} .name")
    listed(page, "beret.png")
    assert page.is_checked("#history-filters [name=needsReview]")
    assert page.input_value("#history-filters [name=tier]") == "industry"
    page.select_option("#history-filters [name=tier]", "professional")
    page.wait_for_selector("#history-told:has-text('No photo fits these filters.')")
    accessible(page)
    page.go_back()
    page.wait_for_selector(f"{CARD} .name")
    listed(page, "beret.png")
    page.click("#history-clear")
    until(page, f"document.querySelectorAll('{CARD}').length === 24")
    assert fragment(page) == "history"
    assert page.evaluate("document.activeElement.id") == "history-search"
    assert not page.is_checked("#history-filters [name=needsReview]")
    # A word replaces the address while it is typed; a browser's history of each letter would help nobody.
    entries = page.evaluate("history.length")
    page.keyboard.type("RED-s", delay=5)
    until(page, "location.hash === '#history?search=RED-s'")
    listed(page, "Red-Shoe.png")
    assert page.evaluate("history.length") == entries
    page.fill("#history-filters [name=search]", "%")
    page.wait_for_selector("#history-told:has-text('No photo fits')")
    go(page, shop, "history?until=2020-01-01", "#history-told:has-text('No photo fits')")
    go(
        page,
        shop,
        f"history?since={now().date() - timedelta(days=20)}&until={now().date() - timedelta(days=6)}",
    )
    listed(page, "old-lamp.png")


def test_more_are_shown_and_the_keyboard_goes_on(page: Page, shop: Shop) -> None:
    go(page, shop, "history?search=part-")
    assert page.locator(CARD).count() == 24
    page.focus("#history-more")
    page.keyboard.press("Enter")
    until(page, f"document.querySelectorAll('{CARD}').length === {PHOTOS}")
    assert len(set(names(page))) == PHOTOS
    assert page.is_hidden("#history-more")
    assert (
        page.evaluate("document.activeElement.closest('li').querySelector('.name').textContent")
        == names(page)[24]
    )
    # Back from a result, the keyboard is where it was, far below.
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    assert fragment(page).startswith("job=")
    page.go_back()
    until(page, "document.activeElement.matches?.('#history-list .what')")
    assert (
        page.evaluate("document.activeElement.closest('li').querySelector('.name').textContent")
        == names(page)[24]
    )
    assert page.locator(CARD).count() == PHOTOS


def test_an_old_result_is_as_it_was_after_its_removal(page: Page, shop: Shop, browser: Browser) -> None:
    first = shop.jobs["Red-Shoe.png"]
    go(page, shop, "history?search=shoe")
    page.click(f"{CARD} a.what")
    page.wait_for_selector(READY)
    assert fragment(page) == f"job={first}"
    assert page.evaluate("document.querySelector('#before').naturalWidth") == 300
    assert page.evaluate("document.querySelector('#after').naturalWidth") == 300
    assert page.is_enabled("#slider")
    assert page.get_attribute("#download", "download") == "Red-Shoe-cutout.png"
    keep(page, "reopened")
    page.click("#tool-drop")
    drag(page, (0.35, 0.5), (0.5, 0.5))
    told(page, "The strokes are applied.")
    refined = shown(page)
    assert refined != first
    assert fragment(page) == f"job={refined}"
    # A reload loses neither the result nor the strokes.
    page.reload()
    page.wait_for_selector(READY)
    assert shown(page) == refined
    assert page.is_enabled("#undo")
    page.click("#undo")
    told(page, "This is the first result again.")
    assert shown(page) == first
    page.click("#redo")
    until(page, f"document.querySelector('#after').src.includes('{refined}')")
    page.click("#tool-keep")
    drag(page, (0.6, 0.4), (0.6, 0.6))
    until(page, f"!location.hash.includes('{refined}')")
    both = shown(page)
    # In the list it is one photo, with its last result; the first result leads to that one too.
    go(page, shop, "history?search=shoe")
    assert page.locator(CARD).count() == 1
    assert page.get_attribute(f"{CARD} a.what", "href") == f"#job={both}"
    go(page, shop, f"job={first}", READY)
    assert shown(page) == both

    # Another browser does not know the strokes: it shows their result, and offers the first one to draw on.
    with opened(browser, f"{shop.address}/#job={both}", shows="#reopened:not([hidden])", **WINDOW) as another:
        assert shown(another) == both
        assert another.is_disabled("#tool-keep")
        assert another.is_hidden("#save")
        assert another.is_enabled("#slider")
        assert both in str(another.get_attribute("#reopened-download", "href"))
        accessible(another)
        keep(another, "reopened-elsewhere")
        another.click("#reopened-first")
        another.wait_for_selector(READY)
        assert shown(another) == first
        assert another.is_hidden("#reopened")


def test_a_file_that_was_made_of_a_result_leads_to_it(page: Page, shop: Shop) -> None:
    first = shop.remove("mug.png")["jobId"]
    made = http.post(
        f"{shop.address}{API}/jobs/{first}/refine", data={"format": "jpg", "background": "white"}
    ).json()
    go(page, shop, f"job={made['jobId']}", READY)
    assert shown(page) == first
    assert fragment(page) == f"job={first}"
    assert page.is_hidden("#reopened")
    assert page.is_enabled("#tool-keep")


def test_what_hinders_strokes_is_said(page: Page, shop: Shop) -> None:
    go(page, shop, f"job={shop.jobs['vase.png']}", "#reopened:not([hidden])")
    assert page.inner_text("#reopened-told") == "This result has a layout of its own."
    assert page.is_hidden("#reopened-first")
    assert page.is_disabled("#tool-drop")
    assert page.evaluate("document.querySelector('#before').src") == ""
    gone = shop.remove("gone.png")["jobId"]
    (shop.folder / ORIGINALS / gone).unlink()
    go(page, shop, f"job={gone}", "#reopened:not([hidden])")
    assert "The photo is no longer kept" in page.inner_text("#reopened-told")
    assert page.evaluate("document.querySelector('#after').naturalWidth") == 300
    packed = shop.remove("packed.png", format="zip")["jobId"]
    go(page, shop, f"job={packed}", "#reopened:not([hidden])")
    assert "ZIP" in page.inner_text("#reopened-told")
    assert page.evaluate("document.querySelector('#after').naturalWidth") == 300
    shop.change("packed.png", finished_at=now() - timedelta(days=8))
    go(page, shop, f"job={packed}", "#status.error")
    assert "no longer kept" in page.inner_text("#status")
    assert page.is_hidden("#result")


def test_a_removal_has_an_address(browser: Browser, shop: Shop) -> None:
    with opened(browser, shop.address, refusals=2, **WINDOW) as page:
        page.set_input_files("#file", files([thin_picture(300, 200)]))
        page.wait_for_selector(READY)
        job = shown(page)
        assert fragment(page) == f"job={job}"
        page.reload()
        page.wait_for_selector(READY)
        assert shown(page) == job
        # While the next photo is in work, a reload does not show the one before.
        answer_removals(page, lambda route: route.fulfill(status=400, json={"detail": "No."}))
        page.set_input_files("#file", files([thin_picture(300, 200)]))
        page.wait_for_selector("#status:has-text('No.')")
        page.unroute_all()
        assert fragment(page) == "remove"
        # What has nothing to do with the photo is tried again without choosing it anew.
        assert page.locator("#status button").count() == 0
        answer_removals(page, lambda route: route.abort())
        page.set_input_files("#file", files([thin_picture(300, 200)]))
        page.focus("#status button")
        page.unroute_all()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "remove-title"
        page.wait_for_selector(READY)
        assert page.get_attribute("#download", "download") == "photo-0-cutout.png"
        # A result that comes while another view is shown has its address on the way back.
        page.set_input_files("#file", files([thin_picture(300, 200)]))
        page.click("nav [data-to=history]")
        until(page, "document.querySelector('#save').hidden === false")
        page.go_back()
        page.wait_for_selector(READY)
        assert fragment(page) == f"job={shown(page)}"


def test_a_view_that_was_just_chosen_keeps_its_address(page: Page, shop: Shop) -> None:
    """A browser changes the address at once, and tells the page of it later: in between, a result may arrive."""
    go(page, shop, "remove", ".tier")
    # The last one leaves the name of a job that is not there.
    for change in ("replaceQuery(new URLSearchParams('a=1'))", "nameThing('#job=1')"):
        page.evaluate("location.hash = 'remove'")
        page.locator("#view-remove").wait_for()
        page.evaluate(
            f"""import(new URL("views.js", document.querySelector("script[type=module]").src)).then((views) => {{
                location.hash = "account";
                views.{change};
            }})"""
        )
        page.wait_for_selector("#plans li:visible")
        assert fragment(page) == "account"


def test_where_no_photo_is_kept_no_brush_is_offered(browser: Browser, tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path, keep_photos=False)
    service = create_app(settings, lambda _: fake_engine())
    with served(service, settings) as address, opened(browser, address, **WINDOW) as page:
        page.set_input_files("#file", files([thin_picture(300, 200)]))
        page.locator("#reopened-told", has_text="This service keeps no photos").wait_for()
        assert page.is_disabled("#tool-keep")
        assert page.is_hidden("#save")
        assert page.is_enabled("#slider")
        with page.expect_download() as download:
            page.click("#reopened-download")
        assert download.value.suggested_filename == "photo-0-cutout.png"
        accessible(page)
        page.reload()
        page.locator("#reopened-told", has_text="The photo is no longer kept").wait_for()


def test_a_view_that_is_left_and_taken_up_again_is_as_it_was(page: Page, shop: Shop) -> None:
    first = shop.remove("scarf.png")["jobId"]
    go(page, shop, f"job={first}", READY)
    page.click("#tool-drop")
    drag(page, (0.35, 0.5), (0.5, 0.5))
    told(page, "The strokes are applied.")
    page.click("#undo")
    told(page, "This is the first result again.")
    page.evaluate("document.querySelector('#after').mark = 'the same'")
    page.click("nav [data-to=history]")
    page.wait_for_selector(f"{CARD} .name")
    page.click("nav [data-to=remove]")
    page.wait_for_selector(READY)
    page.go_back()
    page.go_back()
    page.wait_for_selector(READY)
    assert page.evaluate("document.querySelector('#after').mark") == "the same"
    assert page.is_enabled("#redo")
    assert fragment(page) == f"job={first}"


def test_a_stroke_outlives_a_reload_that_comes_before_its_result(page: Page, shop: Shop) -> None:
    first = shop.remove("cap.png")["jobId"]
    go(page, shop, f"job={first}", READY)
    page.route("**/refine*", lambda _: None)  # it is never answered
    page.click("#tool-drop")
    with page.expect_request("**/refine*"):
        drag(page, (0.35, 0.5), (0.5, 0.5))
    page.unroute("**/refine*")
    page.reload()
    told(page, "The strokes are applied.")
    assert shown(page) != first
    assert page.is_enabled("#undo")
    page.reload()
    page.wait_for_selector(READY)
    assert shown(page) != first
    # What would cost is not made by a reload.
    shop.change("cap.png", finished_at=now() - timedelta(hours=25))
    page.route("**/refine*", lambda _: None)
    page.click("#tool-keep")
    with page.expect_request("**/refine*"):
        drag(page, (0.6, 0.4), (0.6, 0.6))
    page.unroute("**/refine*")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector(READY)
    page.wait_for_timeout(300)
    assert [url for url in asked if "/jobs/" in url and "/refine" in url] == []


def test_an_unknown_address_is_said(browser: Browser, shop: Shop) -> None:
    strange = f"{shop.address}/#job={uuid.uuid4()}"
    with opened(browser, strange, refusals=1, shows="#status.error", **WINDOW) as page:
        assert page.inner_text("#status") == "You have no job with this id."


def test_an_empty_history_says_what_to_do(browser: Browser, fake_service: str) -> None:
    with opened(browser, f"{fake_service}/#history", refusals=1, shows="#history-told p", **WINDOW) as page:
        assert "There is nothing here yet." in page.inner_text("#history-told")
        accessible(page)
        keep(page, "history-empty")
        page.route("**/jobs?*", lambda route: route.fulfill(status=503, json={"detail": "Wait."}), times=1)
        page.select_option("#history-filters [name=status]", "failed")
        page.wait_for_selector("#history-told:has-text('Wait.')")
        page.click("#history-told button")
        page.wait_for_selector("#history-told:has-text('No photo fits')")
        page.click("#history-clear")
        page.click("#history-told a")
        page.wait_for_selector("#drop")
