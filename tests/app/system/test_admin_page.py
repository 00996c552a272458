"""The view Admin in a real browser, on a service with a history, users, purchases and a queue."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route
from sqlalchemy import select

from cutout.app.app import create_app
from cutout.app.billing import ledger
from cutout.app.config import settings as app_settings
from cutout.app.db.session import Database
from cutout.app.db.tables import (
    Batch,
    Job,
    LedgerEntry,
    PaidBy,
    Payment,
    PaymentStatus,
    Role,
    Status,
    Subscription,
    User,
    now,
)
from cutout.app.http.state import state_of
from cutout.app.jobs.queue import Queue
from cutout.inference.tiers import SOLD, Tier
from tests.app.api_client import API, bearer, settings_of
from tests.app.jobs.test_queue_stats import WORKER
from tests.app.serving import served
from tests.app.system.chromium import accessible, fits, keep, opened, until
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import fake_engine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

USERS = 43
PHONE: Any = {"width": 360, "height": 740}


@dataclass
class Place:
    """A service, and what is behind it."""

    address: str
    database: Database
    queue: Queue

    def stats(self, days: int) -> dict[str, Any]:
        since = now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
        answer = httpx2.get(f"{self.address}{API}/admin/stats", params={"since": since.isoformat()})
        told: dict[str, Any] = answer.raise_for_status().json()
        return told

    def user(self, email: str) -> User:
        with self.database.read() as session:
            return session.scalars(select(User).where(User.email == email)).one()

    def ledger(self, user: User) -> list[tuple[int, str]]:
        with self.database.read() as session:
            rows = session.scalars(select(LedgerEntry).where(LedgerEntry.user_id == user.id))
            return [(row.credits, row.note) for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Place]:
    settings = app_settings.load(auth="off", data_dir=tmp_path_factory.mktemp("admin"), redis_url=redis_url)
    service = create_app(settings, lambda _: fake_engine())
    with served(service, settings) as address:
        state = state_of(service)
        database, queue = state.get(Database), state.get(Queue)
        assert queue.connection is not None
        queue.connection.flushdb()
        fill(database)
        yield Place(address, database, queue)


def fill(database: Database) -> None:
    """Write users, sixty days of work, plans and purchases."""
    chance = random.Random(7)
    with database.begin() as session:
        users = [
            User(
                subject=f"local:user{number}@shop.example",
                email=f"user{number}@shop.example",
                role=Role.ADMIN if number == 1 else Role.USER,
                balance=0,
                created_at=now() - timedelta(days=1 + number),
            )
            for number in range(USERS - 1)  # and the local admin
        ]
        session.add_all(users)
        session.flush()
        for day in range(60):
            for tier in SOLD:
                for _ in range(chance.randrange(7)):
                    failed = chance.random() < 0.07
                    session.add(
                        Job(
                            user_id=users[chance.randrange(8)].id,
                            tier=tier,
                            status=Status.FAILED if failed else Status.COMPLETED,
                            credits=0 if failed else 8,
                            paid_by=PaidBy.CREDITS,
                            format="png",
                            milliseconds=None
                            if failed
                            else chance.randrange(180, 900) * (1 + SOLD.index(tier)),
                            created_at=now() - timedelta(days=day, minutes=1),
                        )
                    )
        for number in range(6):
            payment = Payment(
                payment_id=f"paid-{number}",
                user_id=users[number].id,
                plan="starter",
                rupiah=99_000,
                status=PaymentStatus.CONFIRMED,
                confirmed_at=now() - timedelta(days=4 * number, minutes=1),
            )
            session.add(payment)
            session.flush()
            session.add(
                Subscription(
                    id=payment.id,
                    user_id=users[number].id,
                    plan="starter",
                    day=1,
                    starts_at=now() - timedelta(days=1),
                    ends_at=now() + timedelta(days=20),
                )
            )
        waiting: list[dict[str, Any]] = [
            {"plan": "pro", "rupiah": 299_000},
            {"credits": 500, "rupiah": 50_000},
        ]
        waiting.append({"plan": "starter", "rupiah": 99_000})
        for number, item in enumerate(waiting):
            user = users[0 if number == 0 else 10 + number]
            payment = Payment(payment_id=f"waits-{number}", user_id=user.id, **item)
            payment.created_at = now() - timedelta(hours=5 - number)
            session.add(payment)


@pytest.fixture(scope="module")
def tab(browser: Browser, place: Place) -> Iterator[Page]:
    with opened(browser, f"{place.address}/#admin", shows="#users li") as page:
        yield page


@pytest.fixture
def page(tab: Page) -> Page:
    """Return a page on which the view has just been opened; its calls are never refused."""
    for name in ("remove", "admin"):
        tab.evaluate(f"location.hash = '#{name}'")
        tab.wait_for_selector(f"#view-{name}")
    tab.wait_for_selector("#figures[aria-busy=false]:not([hidden])")
    tab.wait_for_selector("#users-count:text('1–10')")
    return tab


@contextmanager
def refused_page(browser: Browser, place: Place) -> Iterator[Page]:
    """Open the view on a page of which one call is refused."""
    with opened(browser, f"{place.address}/#admin", refusals=1, shows="#users li") as page:
        yield page


def rows_of(page: Page, chart: str) -> list[list[str]]:
    """Return the texts of the table below a chart."""
    rows: list[list[str]] = page.evaluate(
        f"""[...document.querySelectorAll("#{chart} tbody tr")].map(
            (row) => [...row.children].map((cell) => cell.textContent))"""
    )
    return rows


def number(text: str) -> int:
    return int(text.removeprefix("Rp ").replace(",", ""))


def test_figures_are_those_of_the_service(page: Page, place: Place) -> None:
    for days in (30, 7):
        page.check(f"#span [value='{days}']", force=True)
        until(page, f"document.querySelectorAll('#chart-removals tbody tr').length === {days}")
        stats = place.stats(days)
        tiles = page.locator("#tiles dd:nth-of-type(1)").all_inner_texts()
        assert [number(tiles[index]) for index in (0, 2, 3, 4)] == [
            stats[name] for name in ("removals", "revenueRupiah", "costRupiah", "marginRupiah")
        ]
        assert tiles[1] == f"{100 * stats['successRate']:.1f}".removesuffix(".0") + "%"
        assert number(tiles[5]) == sum(stats["activePlans"].values())
        removals = rows_of(page, "chart-removals")
        assert sum(number(text) for row in removals for text in row[1:-1]) == stats["removals"]
        assert sum(number(row[-1]) for row in removals) == stats["failed"]
        revenue = rows_of(page, "chart-revenue")
        assert sum(number(text) for row in revenue for text in row[1:]) == stats["revenueRupiah"]
        assert [row[1:] for row in rows_of(page, "chart-times")] == [
            [f"{stats['tiers'][tier][name]:,} ms" for name in ("medianMs", "p95Ms")] for tier in SOLD
        ]
        shown = page.locator("#by-tier tr").all_inner_texts()
        assert all(
            f"{stats['tiers'][tier]['revenueRupiah']:,}" in row
            for tier, row in zip(SOLD, shown, strict=False)
        )
    assert page.url.endswith("#admin?days=7")
    page.reload()
    page.wait_for_selector("#figures:not([hidden])")
    assert page.is_checked("#span [value='7']")
    assert len(rows_of(page, "chart-removals")) == 7


def test_a_chart_is_read_by_mouse_and_by_keys(page: Page) -> None:
    table = rows_of(page, "chart-removals")
    plot, tip = page.locator("#chart-removals .plot"), page.locator("#chart-removals .tip")
    bars = page.locator("#chart-removals .part")
    assert bars.count() == sum(text != "0" for row in table for text in row[1:])
    plot.focus()
    assert tip.inner_text().startswith(table[-1][0])
    for key, row in (("ArrowLeft", -2), ("Home", 0), ("ArrowRight", 1), ("End", -1)):
        page.keyboard.press(key)
        assert tip.inner_text().startswith(table[row][0]), key
        said = tip.locator("li b").all_inner_texts()
        assert said == [text for text in table[row][1:] if text != "0"]
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 60)
    assert tip.inner_text().startswith(table[-1][0])
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_users_are_found_as_one_types(page: Page) -> None:
    assert page.inner_text("#users-count") == f"1–10 of {USERS}"
    for first in (11, 21, 31, 41):
        page.click("#users-next")
        page.wait_for_selector(f"#users-count:text('{first}–')")
    page.wait_for_selector(f"#users-count:text('41–43 of {USERS}')")
    page.click("#users-next", force=True)  # there is no more
    assert page.url.endswith("#admin?page=5")
    page.locator("#users-search").press_sequentially("USER12@")
    page.wait_for_selector("#users-count:text('1–1 of 1')")
    assert page.url.endswith("#admin?search=USER12%40")
    assert page.locator("#users b").all_inner_texts() == ["user12@shop.example"]
    page.fill("#users-search", "nobody")
    page.wait_for_selector("#users-count:text('No user matches.')")
    assert page.evaluate("document.activeElement.id") == "users-search"


def found(page: Page, email: str) -> None:
    """Search for a user, who is then the only one in the list."""
    page.fill("#users-search", email)
    page.wait_for_selector(f"#users li:only-child:has(b:text-is('{email}'))")


def test_credits_are_granted_once(browser: Browser, place: Place) -> None:
    with refused_page(browser, place) as page:
        found(page, "user20@shop.example")
        page.click("#users .grants")
        page.fill("#grant-credits", "500")
        page.fill("#grant-note", "a gift")
        page.dblclick("#grant-send")
        page.wait_for_selector("#users-told.done")
        assert (
            page.inner_text("#users-told")
            == "500 credits were granted to user20@shop.example, who has 500 now."
        )
        page.wait_for_selector("#users li:has-text('500 credits')")
        user = place.user("user20@shop.example")
        assert place.ledger(user) == [(500, "a gift")]

        # The service grants them, but its answer does not arrive.
        def lose(route: Route) -> None:
            route.fetch()
            route.abort()

        page.click("#users .grants")
        assert page.input_value("#grant-credits") == ""
        page.fill("#grant-credits", "30")
        page.route("**/admin/credits", lose, times=1)
        page.keyboard.press("Enter")
        page.wait_for_selector("#grant-told:text('cannot be reached')")
        page.click("#grant-send")
        page.wait_for_selector("#users-told:text('had arrived already')")
        assert place.ledger(user) == [(500, "a gift"), (30, "")]
        with place.database.read() as session:
            assert ledger.balance(session, user.id) == 530


def test_an_account_is_disabled_after_a_question(page: Page, place: Place) -> None:
    found(page, "user21@shop.example")
    button = page.locator("#users .switches")
    button.click()
    page.keyboard.press("Escape")
    assert place.user("user21@shop.example").disabled_at is None
    assert page.evaluate("document.activeElement.ariaLabel") == "Disable user21@shop.example"
    button.click()
    assert "stop working at once" in page.inner_text("#switch")
    accessible(page)
    page.click("#switch-send")
    page.wait_for_selector("#users li.disabled")
    assert place.user("user21@shop.example").disabled_at is not None
    assert page.evaluate("document.activeElement.ariaLabel") == "Enable user21@shop.example"
    button.click()
    page.click("#switch-send")
    page.wait_for_selector("#users li:not(.disabled)")
    assert place.user("user21@shop.example").disabled_at is None


def test_purchases_are_confirmed_with_one_click(browser: Browser, place: Place) -> None:
    with refused_page(browser, place) as page:
        waiting = page.locator("#waiting li")
        assert [text.split("\n")[0] for text in waiting.all_inner_texts()] == [
            f"user{number}@shop.example" for number in (0, 11, 12)
        ], "who has waited longest comes first"
        waiting.first.locator("button").click()  # this user has another plan
        page.wait_for_selector("#waiting-told.error:text('The plan starter is paid until')")
        waiting.nth(1).locator("button").dblclick()
        page.wait_for_selector("#waiting-told.done:text('user11@shop.example has got 500 credits')")
        assert place.ledger(place.user("user11@shop.example")) == [(500, "bought")]
        until(
            page, "document.activeElement.ariaLabel === 'Confirm a month of starter for user12@shop.example'"
        )
        page.keyboard.press("Enter")
        page.wait_for_selector("#waiting-told.done:text('user12@shop.example has the plan starter until')")
        assert waiting.count() == 1
        user = place.user("user12@shop.example")
        with place.database.read() as session:
            month = session.scalars(select(Subscription).where(Subscription.user_id == user.id)).one()
            assert month.plan == "starter"


def photos_wait(database: Database) -> None:
    """Write a batch with a photo that no worker has taken."""
    with database.begin() as session:
        user = session.scalars(select(User).limit(1)).one()
        kind: dict[str, Any] = {
            "user_id": user.id,
            "tier": Tier.BASIC,
            "status": Status.PENDING,
            "credits": 3,
        }
        batch = Batch(**kind, images=1, discount=0, discount_percent=0)
        session.add(batch)
        session.flush()
        session.add(Job(**kind, batch_id=batch.id, position=0, format="png"))


def test_health_is_kept_up_to_date(browser: Browser, place: Place) -> None:
    page = browser.new_page()
    page.clock.install()
    page.goto(f"{place.address}/#admin")
    page.wait_for_selector("#health-state.good:text('Everything works.')")
    assert "0 workers alive" in page.inner_text("#health-queue")
    photos_wait(place.database)
    page.clock.fast_forward(5100)
    page.wait_for_selector("#health-problems li:has-text('NO_WORKER')")
    assert "Start one with: cutout worker" in page.inner_text("#health-problems")
    assert page.get_attribute("#health-state", "class") == "bad"
    keep(page, "admin-problem")

    page.focus("#users-search")
    place.queue.announce(WORKER)
    page.clock.fast_forward(5100)
    page.wait_for_selector("#health-workers li")
    assert page.locator("#health-problems li").count() == 0
    text = page.inner_text("#health-workers li")
    for part in ("gpu-7-4711", "cuda", "version 0.1.0", "interactive, batch", "isnet-general for rmbg-1.4"):
        assert part in text
    page.evaluate("document.querySelector('#health-workers li').marked = true")
    page.context.set_offline(True)
    page.clock.fast_forward(5100)
    page.wait_for_selector("#health-state.bad:text('The service does not answer.')")
    page.context.set_offline(False)
    page.clock.fast_forward(5100)
    page.wait_for_selector("#health-state.good")
    assert page.evaluate("document.querySelector('#health-workers li').marked"), "changed in place"
    assert page.evaluate("document.activeElement.id") == "users-search"

    # Nobody looks.
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.click("nav [data-to=remove]")
    page.clock.fast_forward(60_000)
    assert page.is_hidden("#health-state")
    assert [url for url in asked if "/api/" in url] == []
    with page.expect_response("**/api/health"):
        page.click("nav [data-to=admin]")
    page.close()


def test_a_user_is_refused_and_sees_nothing(browser: Browser, database: Database, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path)
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        shown = "#admin-refused:text-is('Only an admin may do this.')"
        who: Any = {"extra_http_headers": bearer("anna")}
        with opened(browser, f"{address}/#admin", refusals=1, shows=shown, **who) as page:
            assert page.is_hidden("#admin-parts")
            assert page.locator("#users li, #tiles *, #waiting li").count() == 0
            accessible(page)


def test_it_looks_right(browser: Browser, place: Place) -> None:
    with opened(browser, f"{place.address}/#admin?days=90", shows="#users li") as page:
        look_at(page, "admin-desk-light")
        page.emulate_media(color_scheme="dark")
        keep(page, "admin-desk-dark")
        page.set_viewport_size(PHONE)
        page.emulate_media(color_scheme="light")
        fits(page)
        keep(page, "admin-phone-light")


def test_it_looks_right_in_indonesian_in_the_dark_on_a_phone(browser: Browser, place: Place) -> None:
    phone: dict[str, Any] = {"viewport": PHONE, "has_touch": True, "color_scheme": "dark", "locale": "id-ID"}
    with opened(browser, f"{place.address}/#admin?days=7", shows="#users li", **phone) as page:
        look_at(page, "admin-phone-dark")
        page.locator("#users .grants").first.tap()
        assert page.inner_text("#grant-title") == "Beri kredit"
        fits(page)


def look_at(page: Page, name: str) -> None:
    """Check that all can use what is shown, with a chart read, its table open, and each target large enough."""
    page.wait_for_selector("#chart-times svg")
    page.focus("#chart-removals .plot")
    page.keyboard.press("ArrowLeft")
    keep(page, name)
    page.locator("#view-admin summary").first.click()
    accessible(page)
    fits(page)
    small = page.evaluate(
        """[...document.querySelectorAll("#view-admin :is(button, input:not([type=radio]), summary, .choices label)")]
        .filter((one) => one.getClientRects().length && one.getBoundingClientRect().height < 44)
        .map((one) => one.outerHTML)"""
    )
    assert small == []
