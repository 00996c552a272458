"""The page and the documentation of the API below a path of a proxy, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.app.system.chromium import files, opened, until
from tests.app.system.reverse_proxy import proxied
from tests.app.system.test_readiness import CHROMIUM
from tests.worker.killing import site
from tests.worker.worker_fixtures import small_photos

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

PREFIX = "/tools/cutout"
CALL = "/api/background-remover/pricing"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a service that knows its path, with a worker; yield its address."""
    folder, url = tmp_path_factory.mktemp("site"), f"https://shop.example{PREFIX}"
    with site(folder, False, workers=1, public_url=url) as place:
        yield place.address


def do_one(page: Page) -> None:
    """Remove the background of a photo, and download the picture."""
    page.set_input_files("#file", files(small_photos(1)))
    page.wait_for_selector("#save:not([hidden])")
    until(page, "document.querySelector('#after').naturalWidth > 0")
    with page.expect_download() as download:
        page.click("#download")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def do_many(page: Page) -> None:
    """Remove the backgrounds of three photos, and download the ZIP."""
    page.set_input_files("#file", files(small_photos(3)))
    page.click("#batch-start")
    page.locator("#batch-told", has_text="All pictures were created.").wait_for()
    until(
        page,
        "[...document.querySelectorAll('.photo img')].filter((image) => image.naturalWidth > 0).length === 3",
    )
    with page.expect_download() as download:
        page.click("#batch-zip")
    assert Path(download.value.path()).read_bytes().startswith(b"PK")


def try_a_call(page: Page) -> None:
    """Open the documentation, and try a call there; it describes only this one, since all take seconds to be drawn."""

    def leave_one(route: Route) -> None:
        answer = route.fetch()
        described = answer.json()
        assert CALL in described["paths"]
        paths = {CALL: {"get": {"responses": {"200": {"description": "OK"}}}}}
        route.fulfill(response=answer, json=described | {"paths": paths, "components": {}})

    page.route("**/openapi.json", leave_one)
    page.click("nav >> text=API")
    call = page.locator(".opblock", has_text=CALL)
    call.click()
    call.locator(".try-out__btn").click()
    call.locator(".execute").click()
    call.locator(".live-responses-table", has_text='"tiers"').wait_for()


@pytest.mark.parametrize("strips", [False, True])
def test_all_of_it_works_below_the_path_of_the_public_url(
    browser: Browser, place: str, *, strips: bool
) -> None:
    # Without a slash at its end too.
    slash = "/" if strips else ""
    with proxied(place, PREFIX, strips=strips) as proxy, opened(browser, f"{proxy}{PREFIX}{slash}") as page:
        do_one(page)
        do_many(page)
        # Behind a proxy that strips the path, the documentation is as in the next test.
        if not strips:
            try_a_call(page)


def test_a_page_whose_service_does_not_know_its_path_works(browser: Browser, fake_service: str) -> None:
    with proxied(fake_service, PREFIX, strips=True) as proxy, opened(browser, f"{proxy}{PREFIX}/") as page:
        do_one(page)
        try_a_call(page)
