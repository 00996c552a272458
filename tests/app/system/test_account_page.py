"""The view Account: balance, purchases, plan, movements and API keys, in a real browser."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from cutout.app.billing import ledger, payments, subscriptions
from cutout.app.db.tables import Payment, now
from cutout.inference.tiers import Tier
from tests.app.api_client import API
from tests.app.system.chromium import accessible, files, fits, keep, opened, until
from tests.app.system.shop_page import BEN, SIGN_IN, SIGNED_IN, ShopPage, opened_shop_page, sign_in
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import photo_bytes
from tests.http import http

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopPage]:
    with opened_shop_page(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def signed_in(browser: Browser, shop: ShopPage) -> Iterator[Page]:
    """Sign Anna in."""
    with opened(browser, f"{shop.address}/#account", shows=SIGN_IN, timezone_id="Asia/Jakarta") as page:
        sign_in(page)
        page.wait_for_selector(SIGNED_IN)
        yield page


@pytest.fixture
def page(signed_in: Page) -> Page:
    """Load Anna's account anew."""
    signed_in.reload()
    signed_in.locator("#ledger tr").first.wait_for()
    return signed_in


def confirm_all(shop: ShopPage) -> None:
    """Confirm each payment, as an admin does."""
    ben = shop.user(BEN)
    with shop.database.begin() as session:
        for payment in session.query(Payment).all():
            payments.confirm(session, payment.id, ben, now())


def told(page: Page, text: str) -> None:
    page.locator("#account-told", has_text=text).wait_for()


def test_credits_are_ordered_and_wait_for_a_confirmation(page: Page, shop: ShopPage) -> None:
    before = page.inner_text("#balance")
    credits = int(before.partition(" ")[0].replace(",", ""))
    page.fill("#credits-count", "0")
    assert page.inner_text("#credits-price") == "Choose between 1 and 1,000,000 credits."
    page.fill("#credits-count", "1500")
    assert page.inner_text("#credits-price") == "1,500 credits cost Rp 150,000."
    page.keyboard.press("Enter")
    page.wait_for_selector("#buy[open]")
    assert "write this reference on your payment" in page.inner_text("#buy-how")
    reference = page.input_value("#buy-reference")
    assert reference.startswith("CUT-")
    accessible(page)
    keep(page, "account-order")
    page.click("#buy-send")
    told(page, "Your order is noted. It counts as soon as your payment is confirmed.")
    assert f"1,500 credits Rp 150,000 · reference {reference}" in page.inner_text("#pending")
    assert page.inner_text("#balance") == before
    # The same reference again buys nothing more, and one of another purchase is refused.
    confirm_all(shop)
    page.reload()
    page.locator("#balance", has_text=f"{credits + 1500:,} credits").wait_for()
    assert page.is_hidden("#pending-section")
    row = page.locator("#ledger tr", has_text="Credits bought")
    assert row.locator(".count").inner_text() == "+1,500"


def test_a_plan_is_bought_used_and_cancelled(page: Page, shop: ShopPage) -> None:
    assert page.inner_text("#plan-name") == "No plan"
    pro = page.locator("#plans li", has_text="Pro")
    assert (
        "200 removals a day · Basic, Standard, Professional · at most 50 a day in Professional"
        in pro.inner_text()
    )
    page.get_by_role("button", name="Choose Pro").click()
    assert page.inner_text("#buy-price") == "Rp 299,000"
    page.fill("#buy-reference", "inv 7")
    page.click("#buy-send")
    assert page.is_visible("#buy")  # no spaces
    page.fill("#buy-reference", "inv-7")
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.dblclick("#buy-send")
    told(page, "Your order is noted.")
    assert len(sent) == 1
    assert page.evaluate("document.activeElement.closest('#view-account') !== null")
    assert "A month of Pro Rp 299,000 · reference inv-7" in page.inner_text("#pending")
    confirm_all(shop)
    anna = shop.user().id
    with shop.database.begin() as session:
        for tier in [Tier.BASIC] * 9 + [Tier.PROFESSIONAL] * 3:
            assert subscriptions.reserve(session, anna, tier, now())
    page.reload()
    page.locator("#plan-name", has_text="Pro").wait_for()
    assert page.inner_text("#quota-told") == "12 of 200 removals used today"
    assert page.inner_text("#professional-told") == "3 of 50 in the tier Professional"
    assert page.evaluate("document.querySelector('#quota-used').position") == pytest.approx(12 / 200)
    assert "7:00" in page.inner_text("#quota-resets")  # in the reader's zone
    assert page.inner_text("#plan-extend") == "Another month for Rp 299,000"
    keep(page, "account")

    page.click("#plan-cancel")
    assert "Nothing is paid back." in page.inner_text("#cancelling-until")
    keep(page, "account-cancel")
    page.fill("#cancelling-reason", "too dear")
    page.locator("#cancelling-form button[type=submit]").click()
    told(page, "Pro is cancelled. You can use it until ")
    assert page.inner_text("#plan-until").startswith("Cancelled. It stays active until ")
    assert page.is_hidden("#plan-cancel")
    assert page.evaluate("document.activeElement.id") == "plan-title"  # the button that had the focus is gone
    with shop.database.read() as session:
        month = subscriptions.present(session, anna, now())
        assert month is not None
        assert (month.cancel_reason, month.cancelled_at is not None) == ("too dear", True)
    assert str(month.ends_at.year) in page.inner_text("#plan-until")


def test_a_key_is_made_used_and_revoked(page: Page, shop: ShopPage) -> None:
    page.fill("#api-key-name", "<b>till</b>")
    page.dblclick("#api-key-form button")  # it is made once
    page.wait_for_selector("#api-key-new:not([hidden])")
    key = page.input_value("#api-key-value")
    assert page.evaluate("document.activeElement.id") == "api-key-value"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#api-key-copy")
    page.locator("#api-key-copied", has_text="Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == key
    mine = {"X-Api-Key": key}
    assert http.get(f"{shop.address}{API}/credits", headers=mine).json()["balance"] > 0
    accessible(page)
    keep(page, "account-key")

    # It is shown once, and kept nowhere.
    page.click("nav [data-to=remove]")
    page.click("nav [data-to=account]")
    row = page.locator("#api-keys li", has_text="<b>till</b>")
    row.wait_for()
    assert row.count() == 1
    assert page.is_hidden("#api-key-new")
    kept = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.body.innerHTML])"
    assert key not in page.evaluate(kept)
    assert key[:11] in row.inner_text()
    row.get_by_role("button", name="Revoke").click()
    assert "stop working at once" in page.inner_text("#revoking")
    page.click("#revoking-close")
    assert http.get(f"{shop.address}{API}/credits", headers=mine).status_code == 200
    row.get_by_role("button", name="Revoke").click()
    page.locator("#revoking-form button[type=submit]").click()
    page.locator("#api-keys-told", has_text="<b>till</b> is revoked.").wait_for()
    assert http.get(f"{shop.address}{API}/credits", headers=mine).status_code == 401
    page.click("#api-keys-revoked summary")
    assert "revoked on" in page.locator("#api-keys-old li").inner_text()


def test_movements_are_read_by_pages_and_in_words(page: Page, shop: ShopPage) -> None:
    anna = shop.user().id
    with shop.database.begin() as session:
        for number in range(12):
            key = f"{'batch' if number % 2 else 'job'}:{uuid.uuid4()}"
            ledger.hold(session, anna, 8, key)
            ledger.charge(session, key) if number % 3 else ledger.release(session, key)
    page.reload()
    page.locator("#ledger tr", has_text="Set aside for a batch").first.wait_for()
    assert page.locator("#ledger tr").count() == 20
    text = page.inner_text("#ledger")
    for words in (
        "Set aside for a photo",
        "Photo done: what was set aside is paid",
        "Batch done: what was set aside is paid",
        "Given back: the photo was not made",
        "Given back: photos of a batch were not made",
    ):
        assert words in text
    assert (page.locator("#ledger a").first.get_attribute("href") or "").startswith("#batch=")
    page.click("#ledger-more")
    page.locator("#ledger tr", has_text="Credits received welcome").wait_for()
    assert page.is_hidden("#ledger-more")
    assert page.evaluate("document.activeElement.id") == "ledger-title"
    assert page.locator("#ledger tr").count() >= 25


def test_it_fits_a_phone_in_indonesian_and_dark(browser: Browser, shop: ShopPage) -> None:
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "dark",
        "locale": "id-ID",
    }
    with opened(browser, f"{shop.address}/#account", shows=SIGN_IN, **phone) as page:
        sign_in(page)
        page.locator("#ledger tr").first.wait_for()
        page.locator("#balance", has_text="kredit").wait_for()
        fits(page)
        accessible(page)
        keep(page, "account-phone-dark")
        page.click("#credits-form button")
        page.wait_for_selector("#buy[open]")
        fits(page)
        keep(page, "account-order-phone-dark")
        small = """[...document.querySelectorAll("#view-account :is(button, input, summary)")]
            .filter((one) => one.offsetParent && one.offsetHeight < 44).map((one) => one.outerHTML)"""
        page.click("#buy-close")
        assert page.evaluate(small) == []


def test_who_has_no_credits_is_led_here(browser: Browser, shop: ShopPage) -> None:
    with opened(browser, shop.address, shows=SIGN_IN, refusals=1) as page:
        sign_in(page, BEN)
        page.wait_for_selector(SIGNED_IN)
        page.set_input_files("#file", files([photo_bytes(30, 20)]))
        page.locator("#status.error", has_text="This costs 3 credits, but you have 0.").wait_for()
        page.click("#status a")
        page.locator("#balance", has_text="0 credits").wait_for()


def test_without_accounts_a_purchase_counts_at_once(browser: Browser, fake_service: str) -> None:
    with opened(browser, f"{fake_service}/#account", refusals=1, shows="#plans li") as page:
        page.route("**/subscription", lambda route: route.abort(), times=1)
        page.click("nav [data-to=remove]")
        page.click("nav [data-to=account]")
        page.click("#account-told button")
        until(page, "document.querySelector('#account-told').textContent === ''")
        assert page.is_hidden("#api-keys-section")
        page.get_by_role("button", name="Choose Starter").click()
        assert page.is_hidden("#buy-reference")
        page.click("#buy-send")
        told(page, "Starter is active.")
        assert page.inner_text("#quota-told") == "0 of 50 removals used today"
        assert page.is_hidden("#quota-professional")
        page.fill("#credits-count", "100")
        page.click("#credits-form button")
        page.click("#buy-send")
        told(page, "The credits are in your balance.")
        assert page.inner_text("#balance") == "1,000,100 credits"


def test_where_a_platform_sells_nothing_is_offered(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    signed = {"payments": "signed", "payments_secret": "the platform's secret for payments, long enough"}
    with (
        opened_shop_page(tmp_path_factory.mktemp("signed"), **signed) as shop,
        opened(browser, f"{shop.address}/#account", shows=SIGN_IN) as page,
    ):
        sign_in(page)
        page.locator("#balance", has_text="1,000 credits").wait_for()
        assert "bought on the platform" in page.inner_text("#buy-elsewhere")
        assert page.locator("#plans li").count() == 2
        for button in ("Buy", "Choose Pro"):
            assert page.get_by_role("button", name=button).count() == 0
