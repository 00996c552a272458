"""The stage of one photo: box, layouts, backgrounds, formats and the keyboard, in a real browser, on a fake network."""

import io
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.removals import form
from tests.app.serving import served
from tests.app.system.chromium import accessible, box_of, drag, files, fits, keep, opened, until
from tests.app.system.test_readiness import CHROMIUM
from tests.fakes import fake_engine, open_picture, thin_picture
from tests.http import http

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host"),
]

WIDTH, HEIGHT = 300, 200
PHOTO = thin_picture(WIDTH, HEIGHT)
WINDOW: dict[str, Any] = {"viewport": {"width": 1000, "height": 800}, "reduced_motion": "reduce"}
RED, GREEN = (200, 30, 40), (20, 160, 60)
# Canvases of the page itself are only painted: what reads or encodes one would block the page.
WATCHED = """() => {
window.blocking = [];
for (const [kind, name] of [[HTMLCanvasElement, "toDataURL"], [HTMLCanvasElement, "toBlob"],
                            [CanvasRenderingContext2D, "getImageData"]]) {
    const real = kind.prototype[name];
    kind.prototype[name] = function (...values) { blocking.push(name); return real.apply(this, values); };
}}"""


@dataclass
class Studio:
    """A service, and the refinements that it was asked for: their fields, and their files by name."""

    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    place = Studio()
    settings = app_settings.load(auth="off", data_dir=tmp_path_factory.mktemp("studio"))
    reading = form.read_fields_and_files

    async def read(*values: Any) -> Any:
        fields, sent, name = await reading(*values)
        if "image" not in sent:
            place.asked.append({**fields, **sent})
        return fields, sent, name

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(form, "read_fields_and_files", read)
        with served(create_app(settings, lambda _: fake_engine()), settings) as place.address:
            yield place


@pytest.fixture(scope="module")
def shared(browser: Browser, place: Studio) -> Iterator[Page]:
    """A page for several tests."""
    with opened(browser, place.address, **WINDOW) as page:
        page.evaluate(WATCHED)
        page.wait_for_selector("#layout optgroup", state="attached")
        yield page


@pytest.fixture
def page(shared: Page, place: Studio) -> Page:
    """The page with the result of a new photo, and nothing chosen."""
    give(shared)
    shared.select_option("#layout", "")
    shared.select_option("#format", "png")
    shared.click("#backdrops button >> nth=0")
    shared.keyboard.press("Escape")
    place.asked.clear()
    shared.evaluate("blocking.length = 0")  # axe reads a canvas
    return shared


def give(page: Page) -> None:
    page.set_input_files("#file", files([PHOTO]))
    page.wait_for_selector("#tool-keep:enabled")


def told(page: Page, text: str) -> None:
    page.locator("#brush-told", has_text=text).wait_for()


def edges(within: str) -> list[float]:
    return [float(edge.removesuffix("%")) for edge in within.split()]


def shown_alpha(page: Page) -> npt.NDArray[np.uint8]:
    """Return the alpha of the result that is shown."""
    data = http.get(page.evaluate("document.querySelector('#after').src")).content
    return np.asarray(open_picture(data).convert("RGBA"))[..., 3]


def downloaded(page: Page) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click("#download")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def sample(data: bytes, x: float, y: float) -> tuple[int, ...]:
    """Return the colour at a place of a picture, in shares of its sides."""
    picture = open_picture(data).convert("RGB")
    found = picture.getpixel((int(x * picture.width), int(y * picture.height)))
    assert isinstance(found, tuple)
    return found


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 12


def test_only_what_is_in_the_box_stays(page: Page, place: Studio) -> None:
    page.keyboard.press("b")
    drag(page, (0.3, 0.1), (0.5, 0.9))
    told(page, "The strokes are applied.")
    assert place.asked[0].keys() == {"within"}
    assert edges(place.asked[0]["within"]) == pytest.approx([30, 10, 50, 90], abs=0.5)
    alpha = shown_alpha(page)
    assert alpha[100, 100:145].min() > 200
    assert alpha[:, 152:].max() == alpha[:, :88].max() == 0
    stage, frame = box_of(page, "#compare"), box_of(page, "#box")
    assert frame["x"] - stage["x"] == pytest.approx(0.3 * stage["width"], abs=3)
    # A later one takes its place, and is merged with strokes.
    page.click("#tool-drop")
    drag(page, (0.45, 0.5))
    told(page, "The strokes are applied.")
    page.click("#tool-box")
    drag(page, (0.9, 0.95), (0.4, 0.05))
    until(page, "document.querySelector('#compare').ariaBusy === 'false'")
    assert edges(place.asked[-1]["within"]) == pytest.approx([40, 5, 90, 95], abs=0.5)
    assert place.asked[-1].keys() == {"within", "dropMask"}
    keep(page, "stage-box")
    # Undo and redo know boxes as they know strokes, without asking again.
    count = len(place.asked)
    page.keyboard.press("z")
    page.keyboard.press("z")
    until(page, "document.querySelector('#box').style.left.startsWith('30')")
    page.click("#undo")
    told(page, "This is the first result again.")
    assert page.is_hidden("#box")
    for _ in range(3):
        page.click("#redo")
    until(page, "document.querySelector('#box').style.left.startsWith('40')")
    assert len(place.asked) == count
    # A tap takes the box away, and leaves the strokes.
    drag(page, (0.2, 0.2), (0.203, 0.203))
    until(page, "document.querySelector('#box').hidden")
    # Strokes of a photo that is opened again have their box.
    page.evaluate(
        "import('./static/stage/brush.js').then(({ resume }) =>"
        " resume([{ id: 900, kind: 'box', left: 0.1, top: 0.2, right: 0.5, bottom: 0.6 }]))"
    )
    assert page.evaluate("document.querySelector('#box').style.left") == "10%"
    page.click("#tool-compare")
    assert page.evaluate("blocking") == []


def test_a_layout_is_shown_and_downloaded_without_a_bill(page: Page, place: Studio) -> None:
    page.click("#tool-box")
    drag(page, (0.3, 0.1), (0.5, 0.9))
    told(page, "The strokes are applied.")
    stage = box_of(page, "#compare")
    assert "Sticker, transparent · 512 × 512" in page.inner_text("#layout")
    assert "Amazon, main image · 2000 × 2000, white" in page.inner_text("#layout")
    page.select_option("#layout", "preset:sticker")
    told(page, "This is the file: 512 × 512, WebP.")
    asked = {"preset": "sticker", "format": "webp", "quality": "90", "within": place.asked[0]["within"]}
    assert place.asked[-1] == asked
    assert box_of(page, "#compare") == stage  # nothing jumps
    final = box_of(page, "#final")
    assert final["width"] == pytest.approx(final["height"], abs=1)
    assert final["height"] == pytest.approx(stage["height"], abs=1)
    accessible(page)
    keep(page, "stage-final")
    name, data = downloaded(page)
    assert (name, open_picture(data).size) == ("photo-0-sticker.webp", (512, 512))
    assert len(place.asked) == 2  # what is shown was not made twice
    # The brush needs the photo's frame. What it changes is in the final picture too.
    page.click("#tool-drop")
    assert not page.locator("#final").is_visible()
    assert box_of(page, "#compare") == stage
    drag(page, (0.4, 0.4))
    told(page, "The strokes are applied.")
    page.keyboard.press("f")
    told(page, "This is the file: 512 × 512, WebP.")
    assert place.asked[-1].keys() == {*asked, "dropMask"}
    page.select_option("#layout", "own")
    page.fill("#own-width", "90")
    page.fill("#own-height", "60")
    page.check("#own-shadow")
    page.select_option("#format", "png")
    told(page, "This is the file: 90 × 60, PNG.")
    assert place.asked[-1].items() >= {"canvas": "90x60", "margin": "5%", "shadow": "soft"}.items()
    page.keyboard.press("z")
    page.click("#backdrops button >> nth=2")  # what is chosen while the file is shown is for the file
    until(page, "document.querySelector('#with-colour').checked")
    page.select_option("#layout", "trim")
    until(page, "document.querySelector('#final').naturalWidth < 90")
    assert place.asked[-1].items() >= {"trim": "true", "background": "#000"}.items()
    page.locator("#price", has_text="free for 24 hours").wait_for()
    jobs = http.get(f"{place.address}/api/background-remover/jobs").json()["jobs"]
    assert {job["paidBy"] for job in jobs if job["refinedFrom"]} == {"free"}


def test_a_picture_and_the_photo_itself_can_be_behind(page: Page, place: Studio) -> None:
    behind, out = Image.new("RGB", (40, 40), RED), io.BytesIO()
    behind.paste(GREEN, (0, 20, 40, 40))
    behind.save(out, "PNG")
    page.set_input_files("#behind-file", files([out.getvalue()]))
    page.wait_for_selector("#behind:visible")
    assert page.is_checked("#with-colour")
    assert place.asked == []  # it is shown at once
    page.select_option("#format", "webp")
    _, data = downloaded(page)
    assert alike(sample(data, 0.03, 0.1), RED)
    assert alike(sample(data, 0.97, 0.9), GREEN)
    # It covers the stage as it covers the result.
    page.click("#tool-hand")
    seen = page.locator("#compare").screenshot()
    for x, y in ((0.03, 0.1), (0.97, 0.9), (0.03, 0.4), (0.03, 0.6)):
        assert alike(sample(seen, x, y), sample(data, x, y))
    keep(page, "stage-behind")
    page.click("#blur")
    downloaded(page)
    assert place.asked[-1]["background"] == "blur"
    page.uncheck("#with-colour")
    downloaded(page)
    assert "background" not in place.asked[-1]


def test_each_format_can_be_downloaded(page: Page, place: Studio) -> None:
    name, data = downloaded(page)  # what there is
    assert (name, open_picture(data).format, place.asked) == ("photo-0-cutout.png", "PNG", [])
    page.select_option("#format", "avif")
    page.fill("#quality", "40")
    name, data = downloaded(page)
    assert (name, open_picture(data).format) == ("photo-0-cutout.avif", "AVIF")
    assert place.asked[-1] == {"format": "avif", "quality": "40"}
    page.fill("#quality", "90")
    page.select_option("#format", "zip")
    assert page.is_hidden("#quality")
    name, data = downloaded(page)
    assert name == "photo-0-cutout.zip"
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) == 2
    page.select_option("#format", "mask")
    page.click("#backdrops button >> nth=1")
    page.check("#with-colour")  # a mask has no background
    name, data = downloaded(page)
    assert (name, open_picture(data).mode) == ("photo-0-mask.png", "L")


def test_strokes_and_boxes_can_be_drawn_by_keyboard(page: Page, place: Studio) -> None:
    page.mouse.move(1, 1)
    stage = box_of(page, "#compare")
    page.keyboard.press("d")
    assert page.evaluate("document.activeElement.id") == "compare"
    told(page, "Arrow keys move the brush")
    accessible(page)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    told(page, "The brush is down.")
    page.keyboard.press("Shift+ArrowLeft")
    keep(page, "stage-keyboard")
    page.keyboard.press("Escape")
    told(page, "Given up.")
    assert (page.is_disabled("#undo"), place.asked) == (True, [])
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    told(page, "The strokes are applied.")
    mask = np.asarray(open_picture(place.asked[0]["dropMask"]).convert("L")) > 127
    rows, columns = np.nonzero(mask)
    centre = 0.5 - (3 * 8 + 40) / stage["width"]
    assert columns.mean() / mask.shape[1] == pytest.approx(centre, abs=0.01)
    assert rows.mean() / mask.shape[0] == pytest.approx(0.5 + 20 / stage["height"], abs=0.01)
    size = page.locator("#size").input_value()
    page.keyboard.press("]")
    assert float(page.locator("#size").input_value()) == float(size) + 4
    page.keyboard.press("[")
    # The box has two corners.
    page.keyboard.press("b")
    page.keyboard.press("Space")
    told(page, "The first corner is here.")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    until(page, "document.querySelector('#compare').ariaBusy === 'false'")
    told(page, "The strokes are applied.")
    wide, high = 40 / stage["width"], 40 / stage["height"]
    expected = [100 * centre, 50, 100 * (centre + wide), 100 * (0.5 + high)]
    assert edges(place.asked[-1]["within"]) == pytest.approx(expected, abs=0.5)
    page.keyboard.press("ArrowRight")
    told(page, "across and")
    # A list of all keys.
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    accessible(page)
    page.keyboard.press("Escape")
    assert page.is_hidden("#keys")
    page.keyboard.press("Escape")
    assert page.get_attribute("#compare", "data-tool") == "compare"


def test_what_would_cost_is_said_and_not_made_to_be_looked_at(browser: Browser, place: Studio) -> None:
    def aged(route: Any) -> None:
        answer = route.fetch()
        job = answer.json() | {"finishedAt": "2020-01-01T00:00:00Z"}
        route.fulfill(response=answer, json=job)

    with opened(browser, place.address, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        page.route("**/remove", aged)
        give(page)
        page.locator("#price", has_text="now costs what a removal in the tier basic costs").wait_for()
        place.asked.clear()
        page.select_option("#layout", "own")
        told(page, "Download makes it.")
        assert place.asked == []
        fits(page)
        accessible(page)
        small = """[...document.querySelectorAll("#result button, #result select, #result input:not(.unseen, [type=checkbox])")]
            .filter((one) => one.offsetParent && one.id !== "slider" && (one.offsetHeight < 44 || one.offsetWidth < 44))
            .map((one) => one.id)"""
        assert page.evaluate(small) == []
        keep(page, "stage-phone-dark")


# Draws strokes and boxes, and undoes and redoes some, as the gestures and buttons do; then what is left is refined alone.
MANY_STEPS = """async (steps) => {
    const brush = await import("./static/stage/brush.js");
    const { drawBox } = await import("./static/stage/box.js");
    const { left, top, width, height } = document.querySelector("#sheet").getBoundingClientRect();
    const at = ([x, y]) => ({ clientX: left + x * width, clientY: top + y * height });
    for (const [number, { kind, from, to }] of steps.entries()) {
        if (kind === "undo" || kind === "redo") { brush[kind](); continue; }
        const gesture = kind === "box" ? drawBox(at(from)) : brush.draw(at(from), kind);
        gesture.move(at(to));
        gesture.end();
        await new Promise((resolve) => setTimeout(resolve, number % 10 ? 10 : 150)); // some while a request runs
    }
}"""
ALONE = """async (jobId) => {
    const { refine, refinement } = await import("./static/stage/refine.js");
    const { strokes } = await import("./static/stage/brush.js");
    return (await refine(jobId, await refinement(strokes()))).resultUrl;
}"""


def test_fifty_steps_end_in_the_picture_of_the_last_state_alone(page: Page, place: Studio) -> None:
    first = page.evaluate("document.querySelector('#after').src.match(/jobs.([^/]+)/)[1]")
    rng = random.Random(6)
    kinds = ["drop", "keep", "drop", "box", "undo", "undo", "redo"]
    page.click("#tool-drop")
    page.locator("#size").fill("8")
    places = [[rng.uniform(0.1, 0.9) for _ in range(2)] for _ in range(100)]
    steps = [
        {"kind": rng.choice(kinds), "from": one, "to": other}
        for one, other in zip(places[:50], places[50:], strict=True)
    ]
    steps.append({"kind": "box", "from": [0.35, 0.2], "to": [0.7, 0.6]})
    page.evaluate(MANY_STEPS, steps)
    page.wait_for_timeout(200)
    until(page, "document.querySelector('#compare').ariaBusy === 'false'")
    page.locator("#size").fill("28")
    shown = shown_alpha(page)
    alone = page.evaluate(ALONE, first)
    again = http.get(f"{place.address}/{alone.removeprefix(place.address).lstrip('/')}").content
    np.testing.assert_array_equal(shown, np.asarray(open_picture(again).convert("RGBA"))[..., 3])
    assert shown[:, : int(0.35 * WIDTH) - 1].max() == 0
