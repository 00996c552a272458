"""A real browser on the page, and checks that hold for everything it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

from tests.app.system.test_readiness import PATIENCE_MS
from tests.fakes import wait_until


@contextmanager
def opened(
    browser: Browser, address: str, refusals: int = 0, shows: str = ".tier", **context: Any
) -> Iterator[Page]:
    """Open a page. At the end, check that it had no errors besides `refusals` refused calls, kept its content security
    policy, and called no other host.
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
    page.goto(address)
    page.wait_for_selector(shows)
    yield page
    violations = page.evaluate("violations")
    page.close()
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


def until(page: Page, holds: str) -> None:
    """Wait until a condition is true in the page; its policy forbids what `wait_for_function` does."""
    wait_until(lambda: bool(page.evaluate(holds)), PATIENCE_MS / 1000)
