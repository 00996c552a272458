"""A real browser on the page, and checks that hold for everything it does."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, FloatRect, Page, Route

from tests.app.system.test_readiness import PATIENCE_MS
from tests.fakes import wait_until

# A folder for screenshots, to be looked at; without one, none are taken.
SCREENSHOTS = os.environ.get("SCREENSHOTS")

UNTRANSLATED = """document.querySelector("#language")
    ? import(new URL("words.js", document.querySelector("script[type=module]").src)).then(({ missing }) => [...missing]) : []"""


@contextmanager
def opened(
    browser: Browser,
    address: str,
    refusals: int = 0,
    shows: str = ".tier",
    tier: str | None = "basic",
    **context: Any,
) -> Iterator[Page]:
    """Open a page, in a browser where `tier` was chosen before, if it is not None. At the end, check that it had no errors besides `refusals` refused calls, kept its content security
    policy, called no other host, and lacked no word of its language.
    """
    page = browser.new_page(**context)
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(
        """window.violations = [];
        addEventListener("securitypolicyviolation", (event) =>
            violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""
    )
    if tier:
        # A frame without an address has no storage.
        page.add_init_script(f"try {{ localStorage.tier ??= '{tier}'; }} catch {{}}")
    try:
        page.goto(address)
        page.wait_for_selector(shows)
        yield page
        violations = page.evaluate("violations")
        untranslated = page.evaluate(UNTRANSLATED)
    finally:
        page.close()
    assert untranslated == [], untranslated
    assert violations == []
    own = "{0.scheme}://{0.netloc}/".format(urlsplit(address))
    assert [url for url in asked if not url.startswith((own, f"blob:{own}", "data:"))] == []
    assert len(errors) == refusals, errors
    assert all("Failed to load resource" in error for error in errors), errors


def files(photos: list[bytes]) -> list[Any]:
    """Return photos as the files of an `<input>`."""
    return [
        {"name": f"photo-{number}.png", "mimeType": "image/png", "buffer": data}
        for number, data in enumerate(photos)
    ]


def answer_removals(page: Page, answer: Callable[[Route], None], *, previews: bool = False) -> None:
    """Answer the removals of single photos, or their previews, instead of the service. On a slow host the page sends a
    photo before its preview, so the order of the calls does not tell which is which.
    """

    def decide(route: Route) -> None:
        is_preview = b'name="tier"\r\n\r\npreview' in (route.request.post_data_buffer or b"")
        if is_preview == previews:
            answer(route)
        else:
            route.continue_()

    page.route("**/remove", decide)


def until(page: Page, holds: str) -> None:
    """Wait until a condition is true in the page; its policy forbids what `wait_for_function` does."""
    wait_until(lambda: bool(page.evaluate(holds)), PATIENCE_MS / 1000)


@cache
def axe() -> str:
    return (resources("axe_playwright_python") / "axe.min.js").read_text()


def accessible(page: Page) -> None:
    """Check that axe-core finds no violation in what the page shows now."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def fits(page: Page) -> None:
    """Check that nothing is wider than the window."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than its window"


def keep(page: Page, name: str) -> None:
    """Keep a screenshot of the whole page, if they are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"), full_page=True)


def box_of(page: Page, selector: str) -> FloatRect:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box


def drag(page: Page, *points: tuple[float, float]) -> None:
    """Drag over these points, shares of what is seen of the stage."""
    box = box_of(page, "#compare")
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=2)
    page.mouse.up()
