"""The site of the documentation: every page is in its navigation, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

from tools import site


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    there = {page for page in site.pages() if not page.startswith("decisions/")} | {site.DECISIONS}
    assert site.navigation() == there, "correct nav in zensical.toml"


def test_links_are_corrected_for_the_site(tmp_path: Path) -> None:
    places = {path: place for place, path in site.pages().items()}

    def corrected(text: str, name: str, place: str) -> str:
        return site.relinked(text, site.ROOT / name, place, places)

    assert corrected("[a](docs/api.md#b)", "README.md", "index.md") == "[a](api.md#b)"
    assert corrected("![a](docs/images/page.jpg)", "README.md", "index.md") == "![a](images/page.jpg)"
    assert corrected("[a](docs/decisions)", "README.md", "index.md") == "[a](decisions/index.md)"
    assert corrected("[a](SECURITY.md)", "README.md", "index.md") == "[a](security.md)"
    assert corrected("[a](../SECURITY.md)", "docs/api.md", "api.md") == "[a](security.md)"
    inner = "decisions/0001-one-definition-of-a-network.md"
    assert corrected("[a](../performance.md)", f"docs/{inner}", inner) == "[a](../performance.md)"
    # the site has no such file
    assert corrected("[a](../tests/data/README.md)", "docs/models.md", "models.md") == "a"
    # left for the check of links
    assert corrected("[a](nowhere.md)", "docs/models.md", "models.md") == "[a](nowhere.md)"
    assert (
        corrected("[a](https://example.org/)", "docs/models.md", "models.md") == "[a](https://example.org/)"
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link_and_asks_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zensical", reason="needs the extra `docs`")
    monkeypatch.setattr(site, "SOURCE", tmp_path / "site-source")
    with pytest.raises(SystemExit) as ended:
        site.main()
    assert ended.value.code == 0, capfd.readouterr().out
    built = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")
    }
    assert {place.removesuffix(".md") + ".html" for place in site.pages()} <= set(built)
    for text in built.values():
        assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?https?:', text) == []
