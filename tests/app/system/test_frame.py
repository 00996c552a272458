"""The frame of the page: its views, its languages, and a sample photo."""

import json
import re
from html.parser import HTMLParser

import pytest
from playwright.sync_api import Browser, Page

from cutout.app.system.page import STATIC, VIEWS
from tests.app.system.chromium import accessible, opened, until
from tests.app.system.test_readiness import CHROMIUM

STRING = r'"(?:[^"\\]|\\.)*"'
LETTER = re.compile(r"[^\W\d_]")
# Names, which are the same in each language.
NAMES = {"English", "Bahasa Indonesia", "PNG", "WebP", "AVIF", "JPEG"}


class Texts(HTMLParser):
    """Collects the texts and the spoken attributes of a page's markup."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_data(self, data: str) -> None:
        self.found.add(" ".join(data.split()))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        spoken = ("aria-label", "title", "placeholder", "alt")
        self.found |= {value for name, value in attrs if name in spoken and value}


def texts_of_markup() -> set[str]:
    texts = Texts()
    for file in (STATIC / "index.html", *(STATIC / "views").iterdir()):
        texts.feed(re.sub(r"(?s).*<body>", "", file.read_text()))
    return {text for text in texts.found if LETTER.search(text) and "$" not in text}


def texts_of_scripts() -> set[str]:
    found = set()
    for file in STATIC.rglob("*.js"):
        script = file.read_text()
        for call in re.finditer(rf"\bt\(\s*({STRING})", script):
            found.add(json.loads(call[1]))
        for call in re.finditer(rf"\bplural\(\s*[^\"]*?({STRING}),\s*({STRING})", script):
            found |= {json.loads(call[1]), json.loads(call[2])}
    return found


def words(name: str) -> dict[str, str]:
    """Return what a dictionary of `words/id` has."""
    script = (STATIC / "words/id" / f"{name}.js").read_text()
    pairs = re.findall(rf"^  ({STRING}):\s*({STRING}),$", script, re.MULTILINE)
    return {json.loads(text): json.loads(translation) for text, translation in pairs}


def test_each_text_has_a_translation_and_each_translation_a_text() -> None:
    dictionaries = [words(name) for name in sorted(file.stem for file in (STATIC / "words/id").iterdir())]
    known = {text for one in dictionaries for text in one}
    assert sum(map(len, dictionaries)) > 60
    shown = texts_of_markup() | texts_of_scripts()
    assert shown - known - NAMES == set()
    assert known - shown == set()
    for one in dictionaries:
        for text, translation in one.items():
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", translation)), text


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host")
def test_a_sample_photo_is_at_hand(browser: Browser, fake_service: str) -> None:
    window = {"width": 1280, "height": 800}
    with opened(browser, fake_service, viewport=window, reduced_motion="reduce") as page:
        page.click("#sample")
        page.wait_for_selector("#save:not([hidden])")
        assert page.get_attribute("#download", "download") == "sample-cutout.png"
        # The tiers, the result and its tools are seen together.
        assert page.evaluate("scrollY") == 0
        for part in ("#tiers", "#drop", "#compare", "#tool-keep"):
            box = page.locator(part).bounding_box()
            assert box is not None
            assert 0 < box["y"] < box["y"] + box["height"] < window["height"], part


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host")
def test_the_chosen_tier_is_remembered(browser: Browser, fake_service: str) -> None:
    chosen = "document.querySelector('[name=tier]:checked').value"
    with opened(browser, fake_service, tier=None, viewport={"width": 360, "height": 700}) as page:
        # Nobody pays here, so the first picture has its hair.
        assert page.evaluate(chosen) == "professional"
        assert is_seen_in_its_row(page)
        page.click("#sample")
        page.wait_for_selector("#save:not([hidden])")
        until(page, "document.querySelector('#tiers').scrollLeft > 0")  # the cards are smaller now
        assert is_seen_in_its_row(page)
        page.locator(".tier", has_text="Standard").click()
        page.reload()
        page.wait_for_selector(".tier")
        assert page.evaluate(chosen) == "standard"
        page.evaluate("localStorage.tier = 'gone'")
        page.reload()
        page.wait_for_selector(".tier")
        assert page.evaluate(chosen) == "professional"


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this host")
def test_the_page_is_read_in_indonesian(browser: Browser, fake_service: str) -> None:
    with opened(browser, fake_service, locale="id-ID") as page:
        assert page.get_attribute("html", "lang") == "id"
        assert page.inner_text("nav [data-to=history]") == "Riwayat"
        assert page.inner_text("#drop strong").startswith("Letakkan")
        for view in VIEWS:
            page.click(f"nav [data-to={view}]")
            page.wait_for_selector(f"#view-{view}")
            accessible(page)
        with page.expect_navigation():
            page.select_option("#language", "en")
        assert page.inner_text("nav [data-to=history]:not(:text('Riwayat'))") == "History"
        assert page.title() == "Admin · Cutout"


def is_seen_in_its_row(page: Page) -> bool:
    """Tell whether the card of the chosen tier is seen."""
    card, row = (page.locator(one).bounding_box() for one in (".tier:has(:checked)", "#tiers"))
    assert card is not None
    assert row is not None
    return row["x"] - 1 <= card["x"] < card["x"] + card["width"] <= row["x"] + row["width"] + 1
