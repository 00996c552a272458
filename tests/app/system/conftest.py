"""A real browser for the tests of this folder, and a service for those of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from tests.app.serving import served
from tests.app.system.test_readiness import CHROMIUM, PATIENCE_MS, QUIET
from tests.fakes import fake_engine


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Start a browser for as long as tests of this folder run; each opens pages of its own.

    While it runs, this thread has a running event loop, which tests of other folders must not meet.
    """
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE_MS) as browser,
    ):
        yield browser


@pytest.fixture(scope="module")
def fake_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve without accounts, on a fake network; yield the address."""
    settings = app_settings.load(auth="off", data_dir=tmp_path_factory.mktemp("service"))
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        yield address
