"""The service as a user sees it: the real command, the real weights, curl and a real browser."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from cutout.inference.cutout import Cutout
from tests.conftest import DATA
from tests.fakes import PATIENCE, open_picture, wait_until
from tests.http import http

pytestmark = pytest.mark.weights

PHOTO = DATA / "coffee.jpg"
README = Path(__file__).parents[3] / "README.md"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Features that are switched off. The option replaces Playwright's own list, which comes first. The others start three
# more processes for each window, which cost as much as a page: two are for the address bar, and one is a spare.
OFF = (
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints", "NetworkTimeServiceQuerying", "AimEnabled",
    "PreconnectToSearch",
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "SpareRendererForSitePerProcess",
)  # fmt: skip
# Options that prevent the browser's background requests and work, and let it run as root in a container.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    f"--disable-features={','.join(OFF)}",
]
PATIENCE_MS = 1000 * PATIENCE


def same_alpha(data: bytes, expected: Cutout) -> None:
    """Check that an image has the alpha that the engine returns for the photo."""
    alphas = [
        np.asarray(open_picture(encoded).getchannel("A"), np.int16) for encoded in (data, expected.data)
    ]
    assert np.abs(alphas[0] - alphas[1]).max() <= 1


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_readmes_curl_gives_the_cutout(service: str, cutouts: dict[str, Cutout], tmp_path: Path) -> None:
    lines = [line for line in README.read_text().splitlines() if line.startswith("curl ")]
    assert len(lines) == 1
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    command = lines[0].replace("http://127.0.0.1:8000", service)
    assert service in command
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True)
    data = (tmp_path / "out.png").read_bytes()
    picture = open_picture(data)
    assert (picture.mode, picture.size) == ("RGBA", open_picture(PHOTO.read_bytes()).size)
    same_alpha(data, cutouts["coffee"])


def test_the_result_url_gives_the_same(service: str, cutouts: dict[str, Cutout]) -> None:
    form = {"image": (PHOTO.name, PHOTO.read_bytes())}
    answer = http.post(f"{service}/api/background-remover/remove", files=form)
    job = answer.raise_for_status().json()
    assert job["backend"] in ("mnn-cpu", "onnxruntime-cpu")  # whichever is the faster here
    same_alpha(http.get(service + job["resultUrl"]).raise_for_status().content, cutouts["coffee"])


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host")
class TestPage:
    def test_a_photo_is_dropped_and_the_cutout_downloaded(
        self, browser: Browser, service: str, cutouts: dict[str, Cutout]
    ) -> None:
        with closing(browser.new_page()) as page:
            page.set_default_timeout(PATIENCE_MS)
            errors: list[str] = []
            page.on(
                "console", lambda message: errors.append(message.text) if message.type == "error" else None
            )
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(service)

            page.wait_for_selector(".tier")
            assert page.locator(".tier").count() == 4  # The preview has no card.
            card = page.locator(".tier").first.inner_text()
            assert "isnet-general on " in card
            assert ", substitute for rmbg-1.4" in card
            assert "edges without the old background's colour" in page.locator(".tier").nth(1).inner_text()
            page.locator(".tier", has_text="Standard").click()
            drop(page, PHOTO)
            page.wait_for_selector("#save:not([hidden])")
            assert "600 × 400" in page.locator("#facts").inner_text()
            page.locator("#slider").fill("0")  # Only the cut-out is visible.
            # Polled, because the page's policy forbids what `wait_for_function` does.
            shown = "getComputedStyle(document.querySelector('#before')).clipPath"
            wait_until(lambda: "100%" in page.evaluate(shown))

            with page.expect_download() as download:
                page.locator("#download").click()
            assert download.value.suggested_filename == "coffee-cutout.png"
            same_alpha(download.value.path().read_bytes(), cutouts["coffee"])

            # A file that is no photo gives an error, and the page goes on working.
            drop(page, README)
            page.wait_for_selector("#status.error")
            assert "Send a JPEG, PNG" in page.locator("#status").inner_text()
            assert errors == [
                "Failed to load resource: the server responded with a status of 415 (Unsupported Media Type)"
            ]


def drop(page: Page, file: Path) -> None:
    """Drop a file onto the page, as a user would."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(bytes)], name));
            return transfer;
        }""",
        [file.name, list(file.read_bytes())],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
