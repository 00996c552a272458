"""The page with one photo: its preview, the brush and the zoom, in a real browser and service, on a fake network."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, Route

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.http import strokes
from cutout.inference.backends.runners import Serving
from cutout.inference.engine import Engine
from cutout.inference.tiers import Choice, Tier
from tests.app.serving import served
from tests.app.system.chromium import answer_removals, box_of, drag, files, opened, until
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import (
    CHECKPOINT,
    PATIENCE,
    SMALL,
    FakeRunner,
    open_picture,
    photo_bytes,
    thin_picture,
    wait_until,
)
from tests.http import http

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

WIDTH, HEIGHT = 300, 200
PHOTO = thin_picture(WIDTH, HEIGHT)
READY = "#save:not([hidden])"
WINDOW: dict[str, Any] = {"viewport": {"width": 900, "height": 700}, "reduced_motion": "reduce"}
Share = tuple[float, float]


@dataclass
class Studio:
    """A service whose networks can be held, and what it receives."""

    address: str = ""
    may_run: threading.Event = field(default_factory=threading.Event)
    refinements: threading.Semaphore = field(default_factory=threading.Semaphore)
    photos: list[bytes] = field(default_factory=list, repr=False)
    strokes: list[dict[str, bytes]] = field(default_factory=list, repr=False)

    def free(self) -> None:
        """Hold nothing, and forget what was received."""
        self.may_run.set()
        self.refinements = threading.Semaphore(1000)
        self.photos.clear()
        self.strokes.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    place = Studio()
    preview = FakeRunner(radius=0.2)
    others = FakeRunner(lambda: assert_set(place.may_run))
    serving = {
        tier: Serving(Choice(tier, CHECKPOINT, ()), preview if tier is Tier.PREVIEW else others)
        for tier in Tier
    }
    settings = app_settings.load(auth="off", data_dir=tmp_path_factory.mktemp("studio"))
    reading = strokes.read_parts

    async def read_parts(sent: Mapping[str, bytes], sizes: Any) -> Any:
        if "image" in sent:
            place.photos.append(sent["image"])
        if found := {name: data for name, data in sent.items() if name in strokes.PARTS}:
            place.strokes.append(found)
            assert await asyncio.to_thread(place.refinements.acquire, timeout=PATIENCE)
        return await reading(sent, sizes)

    place.free()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(strokes, "read_parts", read_parts)
        service = create_app(settings, lambda _: Engine(serving, SMALL))
        with served(service, settings) as place.address:
            yield place


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


@pytest.fixture
def studio(place: Studio) -> Iterator[Studio]:
    place.free()
    yield place
    place.free()


@pytest.fixture(scope="module")
def page(browser: Browser, place: Studio) -> Iterator[Page]:
    """A page for several tests: a new photo begins anew."""
    with opened(browser, place.address, **WINDOW) as page:
        yield page


def give(page: Page, photo: bytes = PHOTO, until_shown: str = READY) -> None:
    page.set_input_files("#file", files([photo]))
    page.wait_for_selector(until_shown)


def place_of(page: Page, selector: str) -> dict[str, float]:
    """Return the box of an element within the page, however far that is scrolled."""
    box = dict(box_of(page, selector))
    return {**box, "y": box["y"] + page.evaluate("scrollY")}


def told(page: Page, text: str) -> None:
    page.locator("#brush-told", has_text=text).wait_for()


def shown(page: Page) -> str:
    """Return the id of the job whose picture is shown."""
    return str(page.evaluate("document.querySelector('#after').src.match(/jobs.([^/]+)/)[1]"))


def marked(mask: bytes) -> npt.NDArray[np.bool_]:
    """Return where a mask is white, after checking its size and that all else is black."""
    picture = open_picture(mask).convert("L")
    assert max(picture.size) <= 1024
    assert picture.width / picture.height == pytest.approx(WIDTH / HEIGHT, abs=0.01)
    pixels = np.asarray(picture)
    # The edges of a stroke are soft.
    assert np.isin(pixels, (0, 255)).mean() > 0.99
    return pixels > 127


def at(mask: npt.NDArray[np.bool_], x: float, y: float) -> bool:
    return bool(mask[int(y * len(mask)), int(x * len(mask[0]))])


def test_the_preview_is_shown_first_and_replaced_in_its_place(page: Page, studio: Studio) -> None:
    studio.may_run.clear()
    large = photo_bytes(750, 500)
    give(page, large, "#note:has-text('Preview')")
    first = box_of(page, "#after")
    width, height = page.evaluate(
        "(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])(document.querySelector('#after'))"
    )
    assert 200_000 < width * height <= 250_000
    assert page.is_disabled("#tool-keep")
    preview = shown(page)
    studio.may_run.set()
    page.wait_for_selector(READY)
    assert box_of(page, "#after") == first
    assert page.evaluate("document.querySelector('#after').naturalWidth") == 750
    assert shown(page) != preview
    assert page.is_hidden("#note")
    assert page.is_hidden("#status")
    assert page.locator(".tier").count() == 4
    # The photo itself is sent once. On a slow host it may be sent before the preview.
    small, sent = sorted(studio.photos, key=lambda photo: photo == large)
    assert sent == large
    assert open_picture(small).format == "JPEG"
    assert open_picture(small).size == (width, height)

    # One that comes late is not shown.
    held: list[Route] = []
    answer_removals(page, held.append, previews=True)
    give(page)
    real = shown(page)
    while not held:
        page.wait_for_timeout(10)
    with page.expect_response("**/remove"):
        held[0].continue_()
    page.unroute_all()
    page.wait_for_timeout(200)
    assert shown(page) == real
    assert page.is_hidden("#note")


def test_strokes_change_the_result_and_undo_brings_the_first_back(page: Page, studio: Studio) -> None:
    give(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "refine" in request.url else None)
    first = shown(page)
    page.keyboard.press("d")
    assert page.get_attribute("#tool-drop", "aria-pressed") == "true"
    drag(page, (0.35, 0.5), (0.5, 0.5))
    told(page, "The strokes are applied.")
    page.click("#tool-keep")
    drag(page, (0.65, 0.4), (0.65, 0.6))
    until(page, "document.querySelector('#compare').ariaBusy === 'false'")
    assert all(f"/jobs/{first}/refine" in url for url in asked)
    one, two = studio.strokes
    assert one.keys() == {"dropMask"}
    assert two.keys() == {"keepMask", "dropMask"}
    assert one["dropMask"] == two["dropMask"]
    drop, keep = marked(two["dropMask"]), marked(two["keepMask"])
    assert [at(drop, x, 0.5) for x in (0.3, 0.36, 0.49, 0.55, 0.65)] == [False, True, True, False, False]
    assert [at(keep, 0.65, y) for y in (0.3, 0.41, 0.59, 0.7)] == [False, True, True, False]
    # What is shown and downloaded is the refinement of all strokes.
    job = http.get(f"{studio.address}/api/background-remover/jobs/{shown(page)}").json()
    assert job["refinedFrom"] == first
    assert shown(page) in str(page.get_attribute("#download", "href"))

    refined = shown(page)
    page.keyboard.press("z")
    page.click("#undo")
    told(page, "This is the first result again.")
    assert shown(page) == first
    assert page.is_disabled("#undo")
    page.keyboard.press("Control+Shift+z")
    page.click("#redo")
    until(page, f"document.querySelector('#after').src.includes('{refined}')")
    page.click("#reset")
    told(page, "This is the first result again.")
    page.click("#undo")
    until(page, f"document.querySelector('#after').src.includes('{refined}')")
    assert len(asked) == 2  # None of that was asked again.


def test_a_large_photo_shows_a_small_picture_first(page: Page, studio: Studio) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[1]))
    give(page, thin_picture(1500, 1000))
    box, first = place_of(page, "#after"), shown(page)
    page.click("#tool-drop")
    drag(page, (0.35, 0.5), (0.5, 0.5))
    told(page, "The strokes are applied.")
    assert place_of(page, "#after") == box
    width = page.evaluate("document.querySelector('#after').naturalWidth")
    assert box["width"] * 0.98 <= width <= box["width"] * 1.02
    assert page.evaluate("document.querySelector('#after').src").startswith("blob:")
    # What is saved is the full size, which is made for that at once.
    with page.expect_download() as download:
        page.click("#download")
    assert open_picture(Path(download.value.path()).read_bytes()).size == (1500, 1000)
    assert asked.count("refine") == 1
    # It replaces the small picture in its place once the brush rests, and is not made again.
    until(page, "document.querySelector('#after').naturalWidth === 1500")
    assert place_of(page, "#after") == box
    job = http.get(f"{studio.address}/api/background-remover/jobs/{shown(page)}").json()
    assert job["refinedFrom"] == first
    assert shown(page) in str(page.get_attribute("#download", "href"))
    # Under zoom it comes without a rest, and a state that was shown in full is so at once.
    page.keyboard.press("+")
    drag(page, (0.6, 0.5))
    until(page, "document.querySelector('#after').src.startsWith('blob:')")
    until(page, "document.querySelector('#after').naturalWidth === 1500")
    page.keyboard.press("z")
    until(page, f"document.querySelector('#after').src.includes('{job['jobId']}')")
    page.keyboard.press("0")
    # The first of three views is that of the brush that is taken.
    assert (asked.count("view"), asked.count("refine")) == (3, 2)
    page.keyboard.press("c")


def test_strokes_are_shown_in_full_where_there_is_no_view(browser: Browser, studio: Studio) -> None:
    views: list[str] = []

    def refuse(route: Route) -> None:
        views.append(route.request.url)
        route.fulfill(status=409, json={"detail": "Refine it."})

    with opened(browser, studio.address, refusals=1, **WINDOW) as page:
        page.route("**/view", refuse)
        give(page, thin_picture(1500, 1000))
        page.click("#tool-drop")
        drag(page, (0.4, 0.4))
        told(page, "The strokes are applied.")
        drag(page, (0.6, 0.6))
        until(page, "document.querySelector('#compare').ariaBusy === 'false'")
        assert page.evaluate("document.querySelector('#after').naturalWidth") == 1500
    assert len(views) == 1
    assert len(studio.strokes) == 2


def test_of_many_strokes_only_the_last_state_counts(page: Page, studio: Studio) -> None:
    give(page)
    page.click("#tool-drop")
    first = shown(page)
    studio.refinements = threading.Semaphore(0)
    drag(page, (0.4, 0.4))
    until(page, "document.querySelector('#compare').ariaBusy === 'true'")
    wait_until(lambda: len(studio.strokes) == 1)
    for step in range(5):
        drag(page, (0.3 + step / 10, 0.6))
    for _ in range(4):
        page.keyboard.press("z")
    studio.refinements.release()
    wait_until(lambda: len(studio.strokes) == 2)
    assert shown(page) == first  # The answer of the first stroke came too late.
    studio.refinements.release(1000)
    told(page, "The strokes are applied.")
    assert len(studio.strokes) == 2
    drop = marked(studio.strokes[1]["dropMask"])
    assert [at(drop, 0.4, 0.4), at(drop, 0.3, 0.6), at(drop, 0.7, 0.6)] == [True, True, False]
    # A stroke over another of the other kind replaces it, so that they do not contradict each other.
    page.click("#reset")
    drag(page, (0.4, 0.4))
    page.click("#tool-keep")
    page.locator("#size").fill("60")
    drag(page, (0.4, 0.4))
    told(page, "The strokes are applied.")
    page.locator("#size").fill("28")
    assert studio.strokes[-1].keys() == {"keepMask"}


def test_errors_of_strokes_are_said_and_those_of_previews_are_not(browser: Browser, studio: Studio) -> None:
    with opened(browser, studio.address, refusals=5, **WINDOW) as page:
        refused: dict[str, Any] = {"status": 429, "json": {"detail": "Wait."}}
        answer_removals(page, lambda route: route.fulfill(**refused), previews=True)
        with page.expect_response(lambda response: response.status == 429):
            give(page)
        page.unroute_all()
        assert page.is_hidden("#status")
        assert page.is_hidden("#note")
        first = shown(page)
        page.route(
            "**/refine", lambda route: route.fulfill(status=400, json={"detail": "It cannot be."}), times=1
        )
        page.click("#tool-drop")
        drag(page, (0.4, 0.4))
        told(page, "It cannot be. Undo the stroke, or draw another.")
        assert page.get_attribute("#brush-told", "class") == "error"
        assert shown(page) == first
        assert page.locator("#brush-told button").count() == 0
        page.click("#undo")
        told(page, "This is the first result again.")
        # What has nothing to do with the stroke is tried again with the same one.
        page.route("**/refine", lambda route: route.abort(), times=1)
        drag(page, (0.5, 0.5))
        page.focus("#brush-told button")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "tools"
        told(page, "The strokes are applied.")
        page.click("#undo")
        told(page, "This is the first result again.")
        # A second photo begins anew.
        drag(page, (0.4, 0.4))
        give(page, until_shown="#tool-keep:disabled")
        page.wait_for_selector(READY)
        assert page.is_disabled("#undo")
        assert page.get_attribute("#tool-compare", "aria-pressed") == "true"
        download_has_the_format_and_the_colour(page)
        # A refusal for a while is waited for, and said no longer when it is over.
        for_a_second: dict[str, Any] = {
            "status": 429,
            "headers": {"Retry-After": "1"},
            "json": {"detail": "Wait."},
        }
        page.route("**/remove", lambda route: route.fulfill(**for_a_second), times=2)
        give(page, until_shown="#status.busy:has-text('Wait. Trying again in 1 second')")
        page.wait_for_selector(READY)
        assert page.is_hidden("#status")


def download_has_the_format_and_the_colour(page: Page) -> None:
    page.locator("#colour").fill("#20c040")
    page.check("#with-colour")
    page.select_option("#format", "jpg")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "photo-0-cutout.jpg"
    picture = open_picture(Path(download.value.path()).read_bytes())
    assert picture.format == "JPEG"
    assert picture.size == (WIDTH, HEIGHT)
    corner = np.asarray(picture)[:40, :40].reshape(-1, 3).mean(0)
    assert np.abs(corner - (0x20, 0xC0, 0x40)).max() < 4


def test_strokes_and_slider_are_right_under_zoom(page: Page, studio: Studio) -> None:
    give(page)
    box = box_of(page, "#compare")
    page.keyboard.press("+")
    page.keyboard.press("+")
    scale = 1.5**2
    assert box_of(page, "#after")["width"] == pytest.approx(scale * box["width"], abs=1)
    # The slider divides the picture where it stands on the screen.
    page.locator("#slider").fill("25")
    cut = page.evaluate("getComputedStyle(document.querySelector('#compare')).getPropertyValue('--cut')")
    assert float(cut.rstrip("%")) == pytest.approx(100 * (0.5 + (0.25 - 0.5) / scale), abs=0.1)
    # The picture is moved to its corner.
    page.click("#tool-hand")
    drag(page, (0.1, 0.1), (0.95, 0.95))
    assert box_of(page, "#after")["x"] == pytest.approx(box["x"], abs=1)
    page.click("#tool-drop")
    drag(page, (0.9, 0.9))
    told(page, "The strokes are applied.")
    drop = marked(studio.strokes[0]["dropMask"])
    rows, columns = np.nonzero(drop)
    assert columns.mean() / drop.shape[1] == pytest.approx(0.9 / scale, abs=0.005)
    assert rows.mean() / drop.shape[0] == pytest.approx(0.9 / scale, abs=0.005)
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.wheel(0, -400)
    until(page, "document.querySelector('#zoom-fit').textContent !== '100 %'")
    page.keyboard.press("0")
    until(page, f"document.querySelector('#after').getBoundingClientRect().width < {box['width'] + 1}")


def test_two_fingers_zoom_and_draw_nothing_on_a_phone(browser: Browser, studio: Studio) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    with opened(browser, studio.address, **phone) as page:
        give(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = """[...document.querySelectorAll("button, select, #download, #size, #colour")]
            .filter((one) => one.offsetParent && (one.offsetHeight < 44 || one.offsetWidth < 44)).map((one) => one.id)"""
        assert page.evaluate(small) == []
        page.click("#tool-keep")
        page.locator("#compare").scroll_into_view_if_needed()
        box = box_of(page, "#compare")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        hand = page.context.new_cdp_session(page)

        def touch(kind: str, *spread: float) -> None:
            points = [{"x": x + distance, "y": y, "id": number} for number, distance in enumerate(spread)]
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", -20)
        touch("touchStart", -20, 20)
        touch("touchMove", -60, 60)
        touch("touchEnd")
        assert box_of(page, "#after")["width"] == pytest.approx(3 * box["width"], rel=0.05)
        assert page.is_disabled("#undo")
        touch("touchStart", 0)
        touch("touchMove", 30)
        touch("touchEnd")
        told(page, "The strokes are applied.")
        assert at(marked(studio.strokes[0]["keepMask"]), 0.5 + 15 / box["width"] / 3, 0.5)
