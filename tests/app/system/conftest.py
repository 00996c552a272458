"""A real browser for the tests of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.app.system.test_readiness import CHROMIUM, PATIENCE_MS, QUIET


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE_MS) as browser,
    ):
        yield browser
