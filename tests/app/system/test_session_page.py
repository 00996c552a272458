"""Signing in and out on the page, and a session that ends in the middle of the work, in a real browser."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.app.system.chromium import accessible, files, fits, keep, opened, until
from tests.app.system.shop_page import (
    ANNA,
    BEN,
    PASSWORD,
    SIGN_IN,
    SIGNED_IN,
    ShopPage,
    opened_shop_page,
    sign_in,
)
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import photo_bytes
from tests.http import http
from tests.worker.worker_fixtures import small_photos

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

PHOTO = photo_bytes(60, 40)
READY = "#save:not([hidden])"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[ShopPage]:
    with opened_shop_page(tmp_path_factory.mktemp("shop"), redis_url=redis_url) as shop:
        yield shop


@pytest.fixture(autouse=True)
def _one_password(shop: ShopPage) -> Iterator[None]:
    yield
    shop.set_password(PASSWORD)


def holds_no_secret(page: Page) -> None:
    """Check that scripts find no session, and that the browser has one."""
    kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
    assert kept == '[{"tier":"basic"},{},""]'
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("cutout_session", True, "Strict")


def asked_again(page: Page) -> None:
    """Wait for the dialog over what is there."""
    page.locator(
        "#sign-in:modal", has_text="Your session has ended. Sign in to go on; nothing is lost."
    ).wait_for()


def test_a_person_signs_in_and_out(browser: Browser, shop: ShopPage) -> None:
    # Whoever is not signed in sees what it costs, and no call is refused.
    with opened(browser, shop.address, shows=SIGN_IN, refusals=2) as page:
        page.locator(".tier", has_text="Professional").wait_for()
        for hidden in ("#drop", "nav [data-to=account]", "nav [data-to=admin]", "#sign-out"):
            assert page.is_hidden(hidden)
        assert page.evaluate("document.activeElement.name") == "email"
        accessible(page)
        keep(page, "sign-in")
        for field, kind in (("email", "username"), ("password", "current-password")):
            assert page.get_attribute(f"#sign-in [name={field}]", "autocomplete") == kind

        sign_in(page, password="wrong password")
        page.locator(
            "#sign-in-told", has_text="The e-mail address or the password is wrong. Check both"
        ).wait_for()
        keep(page, "sign-in-wrong")
        page.route("**/session", lambda route: route.abort(), times=1)
        page.click("#sign-in-password button")
        page.locator("#sign-in-told", has_text="The service cannot be reached.").wait_for()
        sign_in(page)
        page.wait_for_selector(SIGNED_IN)
        assert page.inner_text("#who-name") == ANNA
        assert page.is_hidden(SIGN_IN)
        assert page.is_hidden("nav [data-to=admin]")
        holds_no_secret(page)
        page.set_input_files("#file", files([PHOTO]))
        page.wait_for_selector(READY)
        page.reload()
        page.wait_for_selector(SIGNED_IN)

        page.goto(f"{shop.address}/#account")
        page.locator("#ledger tr").first.wait_for()
        page.click("#sign-out")
        page.wait_for_selector(SIGN_IN)
        assert page.context.cookies() == []
        assert page.evaluate("location.hash") == ""


def test_too_many_attempts_are_said_with_the_time(browser: Browser, shop: ShopPage) -> None:
    body = {"email": "guessed@shop.example", "password": "wrong password"}
    for _ in range(5):
        http.post(f"{shop.address}/api/auth/login", json=body)
    with opened(browser, shop.address, shows=SIGN_IN, refusals=1) as page:
        sign_in(page, **body)
        page.locator("#sign-in-told", has_text="Too many attempts. Wait ").wait_for()
        assert int(page.inner_text("#sign-in-told").split()[4]) <= 60


def test_a_key_signs_in_on_a_phone_in_indonesian(browser: Browser, shop: ShopPage) -> None:
    login = {"email": BEN, "password": PASSWORD}
    token = http.post(f"{shop.address}/api/auth/login", json=login).json()["accessToken"]
    who = {"Authorization": f"Bearer {token}"}
    key = http.post(f"{shop.address}/api/auth/keys", json={"name": "phone"}, headers=who).json()["key"]
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "dark",
        "locale": "id-ID",
    }
    with opened(browser, f"{shop.address}/#history", shows=SIGN_IN, refusals=1, **phone) as page:
        page.wait_for_selector(".tier")
        page.click("#sign-in-other")
        page.fill("[name=apiKey]", key[:-1])
        page.keyboard.press("Enter")
        page.locator("#sign-in-told", has_text="Copy the whole key").wait_for()
        fits(page)
        accessible(page)
        keep(page, "sign-in-phone-dark")
        page.fill("[name=apiKey]", key)
        page.keyboard.press("Enter")
        page.locator("nav [data-to=admin]").wait_for()  # Ben is one
        assert page.is_visible("#view-history")
        fits(page)
        keep(page, "signed-in-phone-dark")
        holds_no_secret(page)
        small = """[...document.querySelectorAll("header :is(a, button, select)")]
            .filter((one) => one.offsetParent && one.offsetHeight < 44).map((one) => one.outerHTML)"""
        assert page.evaluate(small) == []


def test_a_chosen_photo_and_strokes_outlive_a_session(browser: Browser, shop: ShopPage) -> None:
    with opened(browser, shop.address, shows=SIGN_IN, refusals=3) as page:
        sign_in(page)
        page.wait_for_selector(SIGNED_IN)
        until(page, "document.activeElement.id === 'remove-title'")
        page.context.clear_cookies()
        page.set_input_files("#file", files([PHOTO]))
        asked_again(page)
        accessible(page)
        keep(page, "session-ended")
        sign_in(page)
        page.wait_for_selector(READY)
        first = page.get_attribute("#after", "src")

        shop.set_password("another password")
        page.click("#tool-drop")
        box = page.locator("#compare").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.up()
        asked_again(page)
        sign_in(page, password="another password")
        page.locator("#brush-told", has_text="The strokes are applied.").wait_for()
        assert page.get_attribute("#after", "src") != first


def test_a_batch_outlives_a_session(browser: Browser, shop: ShopPage) -> None:
    with opened(browser, shop.address, shows=SIGN_IN, refusals=5) as page:
        sign_in(page)
        page.wait_for_selector(SIGNED_IN)
        # Whoever does not sign in again at once can do so later.
        page.context.clear_cookies()
        page.set_input_files("#file", files(small_photos(2)))
        asked_again(page)
        page.keyboard.press("Escape")
        page.locator("#status.error", has_text="You are signed out. Sign in to go on.").wait_for()
        page.set_input_files("#file", files(small_photos(2)))
        asked_again(page)
        sign_in(page)
        page.locator("#batch-told", has_text="2 × 3 = 6 credits.").wait_for()
        # The upload is refused, and the events later.
        page.context.clear_cookies()
        page.click("#batch-start")
        asked_again(page)

        def end_session(route: Route) -> None:
            page.context.clear_cookies()
            route.fulfill(status=401)

        page.route("**/events", end_session, times=1)
        sign_in(page)
        page.locator("#batch-count", has_text="The connection was lost.").wait_for()
        asked_again(page)
        sign_in(page)
        shop.work_off()
        page.locator("#batch-told", has_text="All pictures were created. 6 credits were charged.").wait_for()


def test_another_user_sees_nothing_of_the_first(browser: Browser, shop: ShopPage) -> None:
    with opened(browser, shop.address, shows=SIGN_IN, refusals=2) as page:
        sign_in(page)
        page.wait_for_selector(SIGNED_IN)
        page.set_input_files("#file", files([PHOTO]))
        page.wait_for_selector(READY)
        image = page.evaluate("document.querySelector('#after').src.replace(/\\?.*/, '')")
        status = "async (url) => (await fetch(url)).status"
        assert page.evaluate(status, image) == 200
        page.context.clear_cookies()
        page.set_input_files("#file", files(small_photos(2)))
        asked_again(page)
        with page.expect_navigation():
            sign_in(page, BEN)
        page.locator("#who-name", has_text=BEN).wait_for()
        assert page.is_hidden("#result")
        assert page.is_hidden("#batch")
        assert page.get_attribute("#after", "src") is None
        # Nor out of the browser's cache.
        assert page.evaluate(status, image) == 404


def test_tabs_follow_each_other(browser: Browser, shop: ShopPage) -> None:
    with opened(browser, shop.address, shows=SIGN_IN) as page:
        with page.expect_popup() as opening:
            page.evaluate("void open(location.href)")
        other = opening.value
        other.wait_for_selector(SIGN_IN)
        sign_in(page)
        other.wait_for_selector(SIGNED_IN)
        other.click("#sign-out")
        page.wait_for_selector(SIGN_IN)
        other.close()


def test_without_accounts_there_is_nothing_to_sign_in_to(browser: Browser, fake_service: str) -> None:
    with opened(browser, fake_service) as page:
        page.locator("nav [data-to=admin]").wait_for()
        assert page.is_hidden("#sign-in")
        assert page.is_hidden("#sign-out")
        until(page, "document.querySelector('#who').hidden")
