"""The page with many photos: a real browser, service, queue and worker, on a fake network."""

import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.billing import ledger
from cutout.app.config import settings as app_settings
from tests.app.batch_client import BATCH
from tests.app.serving import served
from tests.app.system.chromium import files, opened, until
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import fake_engine, photo_bytes, wait_until
from tests.http import http
from tests.worker.killing import Deployment, site
from tests.worker.worker_fixtures import HOLD, LEASE_SECONDS, small_photos

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

MOST_MB = 1
# Number of photos of a batch that must still be running while the page is reloaded or the batch is cancelled.
MANY = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("site")
    with site(
        folder, False, workers=1, milliseconds=200, lease=LEASE_SECONDS, max_upload_mb=MOST_MB
    ) as place:
        yield place


@pytest.fixture
def page(browser: Browser, place: Deployment) -> Iterator[Page]:
    with opened(browser, place.address) as page:
        yield page


@pytest.fixture
def shoes(tmp_path: Path) -> Path:
    """Return a folder with six photos (one broken, one in a subfolder) and a file that is no photo."""
    folder = tmp_path / "shoes"
    (folder / "red").mkdir(parents=True)
    for number, data in enumerate(small_photos(4)):
        (folder / f"{number}.png").write_bytes(data)
    (folder / "red/0.png").write_bytes(photo_bytes(seed=4))
    (folder / "red/broken.JPG").write_bytes(photo_bytes(file_format="JPEG")[:200])
    (folder / "prices.txt").write_text("no picture")
    (folder / ".DS_Store").write_text("no picture, and nobody has seen it")
    return folder


def told(page: Page, text: str) -> None:
    """Wait until the page shows this text about its batch."""
    page.locator("#batch-told", has_text=text).wait_for()


def refused(page: Page, text: str) -> None:
    """Wait until the page shows this error."""
    page.locator("#status.error", has_text=text).wait_for()


def start(page: Page, photos: list[bytes]) -> None:
    page.set_input_files("#file", files(photos))
    page.click("#batch-start")


def listed(place: Deployment) -> list[dict[str, Any]]:
    """Return the service's batches, newest first."""
    found: list[dict[str, Any]] = http.get(place.address + BATCH).raise_for_status().json()["batches"]
    return found


def test_a_folder_becomes_a_zip(page: Page, place: Deployment, shoes: Path) -> None:
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => seen.push(document.querySelector("#batch-progress").value)).observe(
                document.querySelector("#batch-count"), { childList: true });
        }"""
    )
    page.locator(".tier", has_text="Standard").click()
    page.set_input_files("#folder", shoes)
    told(page, "6 × 8 = 48 credits. 1 file that is not a picture was skipped.")
    page.locator(".tier", has_text="Basic").click()
    told(page, "6 × 3 = 18 credits.")
    page.click("#batch-start")
    told(page, "5 of 6 pictures were created. 15 credits were charged.")

    seen = page.evaluate("seen")
    assert len({percent for percent in seen if 0 < percent < 100}) >= 2, seen
    failed = page.locator(".photo[data-status=failed]")
    assert failed.count() == 1
    assert failed.locator(".name").inner_text() == "shoes/red/broken.JPG"
    assert "truncated" in failed.locator(".advice").inner_text()
    until(
        page,
        "[...document.querySelectorAll('.photo img')].filter((image) => image.naturalWidth === 40).length === 5",
    )
    assert "conic-gradient" in page.locator(".photo img").first.evaluate(
        "(image) => getComputedStyle(image.parentElement).backgroundImage"
    )
    with page.expect_download() as download:
        page.click("#batch-zip")
    with zipfile.ZipFile(download.value.path()) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = set(archive.namelist()) - {"manifest.json"}
    assert names == {"0.png", "1.png", "2.png", "3.png", "0 (2).png"}
    assert manifest["batchId"] == listed(place)[0]["batchId"]


def test_a_folder_is_dropped(page: Page, shoes: Path) -> None:
    for number in range(120):  # More entries than a browser returns at once.
        (shoes / f"more-{number}.webp").write_bytes(photo_bytes(8, 6, "WEBP"))
    box = page.locator("#drop").bounding_box()
    assert box is not None
    hand = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(shoes)], "dragOperationsMask": 1}
        point = {"x": box["x"] + 9, "y": box["y"] + 9}
        hand.send("Input.dispatchDragEvent", {"type": kind, "data": data, **point})
    told(page, "126 × 3 = 378 credits, less 15 %: 322 credits. 1 file that is not a picture was skipped.")


def test_a_batch_is_found_again_after_a_reload_and_cancelled(
    page: Page, place: Deployment, request: pytest.FixtureRequest
) -> None:
    start(page, small_photos(MANY))
    page.locator("#batch-count", has_text="left").wait_for()
    hold = place.storage.root / HOLD
    wait_until(lambda: listed(place)[0]["counts"]["completed"] > 0)
    request.addfinalizer(lambda: hold.unlink(missing_ok=True))
    hold.touch()
    batch_id = page.evaluate("location.hash").removeprefix("#batch=")
    assert batch_id == listed(place)[0]["batchId"]
    page.reload()
    told(page, "Removing the backgrounds")
    assert page.inner_text("#batch-title") == f"{MANY} photos"
    # A new batch now would replace the one in progress.
    page.set_input_files("#file", files(small_photos(2)))
    refused(page, "A batch is running.")

    page.focus("#batch-cancel")
    page.keyboard.press("Enter")
    wait_until(lambda: listed(place)[0]["counts"]["cancelled"] > 0)
    hold.unlink()
    told(page, "Cancelled: ")
    batch = http.get(f"{place.address}{BATCH}/{batch_id}").json()
    assert batch["status"] == "cancelled"
    made = batch["counts"]["completed"]
    assert 0 < made < MANY
    assert page.inner_text("#batch-told").startswith(f"Cancelled: {made} of {MANY} pictures were created.")
    assert page.locator(".photo[data-status=completed]").count() == made
    assert page.evaluate("document.activeElement.id") == "batch"
    page.reload()
    told(page, "Cancelled: ")


def test_an_upload_is_cancelled_and_begun_again(page: Page, place: Deployment) -> None:
    before = len(listed(place))
    hand = page.context.new_cdp_session(page)
    hand.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
    hand.send("Network.emulateNetworkConditions", slow)
    start(page, [photo_bytes(300, 200, seed=seed) for seed in range(4)])
    until(page, "document.querySelector('#batch-progress').value > 0")
    assert "of 0.7 MB" in page.inner_text("#batch-count")
    page.click("#batch-cancel")
    told(page, "4 × 3 = 12 credits.")
    assert len(listed(place)) == before
    hand.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    page.click("#batch-start")
    told(page, "All pictures were created. 12 credits were charged.")
    assert len(listed(place)) == before + 1


def test_what_cannot_be_a_batch_is_said_before_anything_is_sent(page: Page, tmp_path: Path) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    large = bytes(MOST_MB * 1_000_000 + 1)
    page.set_input_files("#file", files([b"", large, b"", large]))
    refused(page, "photo-1.png and 1 other are larger than 1 MB.")
    page.set_input_files("#file", files([large]))
    refused(page, "photo-0.png is larger than 1 MB.")
    page.set_input_files("#file", files([b""] * 501))
    refused(page, "You chose 501 photos, but a batch may have at most 500.")
    (tmp_path / "no pictures").mkdir()
    for name in ("a.txt", "b.pdf"):
        (tmp_path / "no pictures" / name).write_text("no picture")
    page.set_input_files("#folder", tmp_path / "no pictures")
    refused(page, "Your selection contains no picture.")
    assert sent == []


def test_progress_goes_on_after_an_answer_that_is_none(browser: Browser, place: Deployment) -> None:
    with opened(browser, place.address, refusals=1) as page:
        page.route("**/events", lambda route: route.fulfill(status=502), times=1)
        start(page, small_photos(2))
        page.locator("#batch-count", has_text="The connection was lost.").wait_for()
        told(page, "All pictures were created.")


def test_too_few_credits_are_said(browser: Browser, place: Deployment) -> None:
    key = str(uuid.uuid4())
    with place.database.begin() as session:
        user = accounts.by_subject(session, accounts.LOCAL_ADMIN)
        assert user is not None
        ledger.hold(session, user.id, ledger.balance(session, user.id) - 5, key)
    try:
        with opened(browser, place.address, refusals=1) as page:
            start(page, small_photos(2))
            refused(page, "This costs at least 6 credits, but you have 5.")
            # The user can try again.
            told(page, "2 × 3 = 6 credits.")
            with place.database.begin() as session:
                ledger.release(session, key)
            page.click("#batch-start")
            told(page, "All pictures were created.")
            assert page.is_hidden("#status")
    finally:
        with place.database.begin() as session:
            ledger.release(session, key)


def test_a_batch_that_is_not_there_is_said(browser: Browser, place: Deployment) -> None:
    with opened(browser, f"{place.address}/#batch={uuid.uuid4()}", refusals=1) as page:
        refused(page, "You have no batch with this id.")
        assert page.is_hidden("#batch")


def test_without_a_queue_it_says_so_and_one_photo_is_done(browser: Browser, tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    service = create_app(settings, lambda _: fake_engine())
    with served(service, settings) as address, opened(browser, address, refusals=1) as page:
        start(page, small_photos(2))
        refused(page, "queue")
        page.set_input_files("#file", files(small_photos(1)))
        page.wait_for_selector("#save:not([hidden])")
        assert page.is_hidden("#batch")


def test_the_api_is_described_and_tried_without_another_host(browser: Browser, place: Deployment) -> None:
    with opened(browser, f"{place.address}/docs", shows=".opblock") as page:
        assert page.locator(".opblock").count() > 25
        call = page.locator(".opblock", has_text="/pricing/calculate")
        call.click()
        call.locator(".try-out__btn").click()
        call.locator(".execute").click()
        call.locator(".live-responses-table", has_text="finalCredits").wait_for()
        page.locator(".authorize").first.click()
        page.locator(".auth-container", has_text="X-Api-Key").wait_for()


def test_a_script_within_a_page_does_not_run(browser: Browser, place: Deployment) -> None:
    page = browser.new_page()
    page.route(
        f"{place.address}/",
        lambda route: route.fulfill(
            response=(answer := route.fetch()),
            body=answer.text().replace("</body>", "<script>window.ran = true</script></body>"),
        ),
    )
    page.goto(place.address)
    page.wait_for_selector(".tier")
    assert page.evaluate("window.ran") is None
    page.close()
