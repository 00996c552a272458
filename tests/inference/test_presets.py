"""Presets: the built-in ones give what they promise; an operator's file is checked; a caller's values come first."""

from pathlib import Path

import pytest

from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.inference.errors import InvalidBackground, InvalidOptions
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Box, place
from cutout.inference.option_values import OptionValues, to_options
from cutout.inference.options import Options
from cutout.inference.presets import InvalidPresets, load_presets
from tests.fakes import photo_bytes

WHITE = (255, 255, 255)
SUBJECTS = (Box(0, 0, 1, 1), Box(5, 5, 300, 300), Box(0, 0, 4000, 3000), Box(3, 0, 40, 900))


def options(**values: object) -> Options:
    return load_presets().options(OptionValues(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", load_presets())
def test_each_built_in_preset_makes_options_and_says_where_it_comes_from(name: str) -> None:
    preset = load_presets()[name]
    made = options(preset=name)
    assert made.layout.canvas is not None
    assert preset.asks
    assert preset.title != name
    assert preset.source.startswith(("https://", "http://")) or preset.asks.startswith("No one's requirement")


@pytest.mark.parametrize("name", ["amazon", "walmart", "ebay"])
def test_a_product_fills_its_frame_on_pure_white(name: str) -> None:
    made = options(preset=name)
    assert (made.background, made.format) == (WHITE, Format.JPG)
    for subject in SUBJECTS:
        placed = place(subject, 4000, 3000, made.layout)
        share = max(placed.subject.width / placed.width, placed.subject.height / placed.height)
        assert 0.85 <= share <= 0.95
        assert max(placed.width, placed.height) >= 1600


def test_google_has_the_product_in_75_to_90_percent() -> None:
    placed = place(SUBJECTS[1], 4000, 3000, options(preset="google-shopping").layout)
    assert 0.75 <= placed.subject.width / placed.width <= 0.9
    assert min(placed.width, placed.height) >= 1500


def test_a_passport_photo_stands_at_the_bottom_and_claims_nothing_about_the_head() -> None:
    made = options(preset="passport")
    placed = place(SUBJECTS[1], 4000, 3000, made.layout)
    assert (placed.width, placed.height, placed.subject.bottom) == (600, 600, 600)
    assert made.require_subject
    assert "head is NOT measured" in load_presets()["passport"].asks


def test_a_callers_values_come_first() -> None:
    assert options(preset="amazon", canvas="800x600").layout.canvas == (800, 600)
    assert options(preset="amazon", format="png", background="none").background is None
    assert options(preset="amazon", quality=50).quality == 50
    assert not options(preset="passport", require_subject=False).require_subject
    behind = photo_bytes()
    assert options(preset="amazon", background_image=behind).background == Picture.of(behind)
    for mask in ({"format": "mask"}, {"mask_only": True}):
        made = options(preset="amazon", **mask)
        assert made.mask_only
        assert made.background is None
        assert made.layout == options(preset="amazon").layout


def test_a_caller_replaces_the_shadow_of_a_preset(tmp_path: Path) -> None:
    text = '[drawn]\nshadow = "soft"\nshadow_opacity = 20\n[own]\nkeep_shadow = true\n'
    presets = load_presets(write(tmp_path, text))
    for values, shadow, kept in (
        (OptionValues(preset="drawn"), 0.2, False),
        (OptionValues(preset="own"), 0.0, True),
        (OptionValues(preset="drawn", keep_shadow=True), 0.0, True),
        (OptionValues(preset="own", shadow="soft"), 0.35, False),
        (OptionValues(preset="own", keep_shadow=False), 0.0, False),
        (OptionValues(preset="own", format="mask"), 0.0, False),
        (OptionValues(preset="own", background="blur", keep_shadow=False), 0.0, False),
    ):
        made = presets.options(values)
        assert (made.shadow, made.keep_shadow) == (shadow, kept), values


def write(folder: Path, text: str) -> Path:
    file = folder / f"{len(text)}.toml"
    file.write_text(text)
    return file


def test_an_operators_file_adds_presets_and_replaces_built_in_ones(tmp_path: Path) -> None:
    text = (
        '[our-shop]\ntitle = "Our shop"\ncanvas = "900x900"\nshadow = "soft"\nshadow_opacity = 20\n'
        '[amazon]\ncanvas = "1600x1600"\n'
    )
    presets = load_presets(write(tmp_path, text))
    made = presets.options(OptionValues(preset="our-shop"))
    assert (made.layout.canvas, made.shadow) == ((900, 900), 0.2)
    assert presets.options(OptionValues(preset="our-shop", shadow="none")).shadow == 0
    assert presets.options(OptionValues(preset="our-shop", format="mask")).shadow == 0
    assert presets.options(OptionValues(preset="amazon")).layout.canvas == (1600, 1600)
    assert "shopify" in presets
    assert "our-shop" not in load_presets()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "is not TOML"),
        ('[Our_Shop]\ncanvas = "9x9"', "a name has 1 to 40 of the characters a-z, 0-9 and -"),
        (f'[{"x" * 41}]\ncanvas = "9x9"', "a name has 1 to 40"),
        ("shop = 5", "write a table, [shop]"),
        ('[shop]\ncanvass = "9x9"', "canvass is not an option; did you mean canvas?"),
        ('[shop]\ncanvas = "9"\nmargin = 5', "margin: 5 is not text"),
        ('[shop]\ncanvas = "big"', "canvas: 'big' is not a size"),
        ('[shop]\nmargin = "5%"', "A margin needs trim"),
        ("[shop]\ntitle = 5", "title is not text"),
        ('[shop]\ntier = "industry"', "a preset cannot set tier"),
        ('[shop]\nbackground_image = "/etc/passwd"', "a preset cannot set background_image"),
        ('[shop]\nbackground = "https://shop.example/a.png"', "is not a colour"),
        ('[shop]\npreset = "amazon"', "a preset cannot set preset"),
        ("[shop]\nquality = 0", "quality: 0 is not a whole number from 1 to 100"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, text: str, says: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InvalidPresets):
        load_presets(file)
    with pytest.raises(SettingsError) as told:
        app_settings.load(presets=file)
    assert str(told.value).startswith(f"CUTOUT_PRESETS: {file}")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[shop]\ntitle = "\xe9"')
    for name, says in (("none.toml", "No such file"), ("latin.toml", "is not TOML"), (".", "directory")):
        monkeypatch.setenv("CUTOUT_PRESETS", str(tmp_path / name))
        with pytest.raises(SettingsError, match=f"CUTOUT_PRESETS: .*{says}"):
            app_settings.load()


def test_an_unknown_preset_lists_the_known_ones() -> None:
    for name in ("", "AMAZON", "../amazon", "amazon.toml", "/etc/passwd"):
        with pytest.raises(InvalidOptions, match=r"is not a preset.*Choose one of: amazon, ebay"):
            options(preset=name)


def test_a_picture_for_the_background_is_looked_at_first() -> None:
    for data in (b"", b"no picture", photo_bytes()[:20]):
        with pytest.raises(InvalidBackground, match=r"^background_image: "):
            to_options(OptionValues(background_image=data))
    with pytest.raises(InvalidOptions, match="Give only one of background and background_image"):
        to_options(OptionValues(background="red", background_image=photo_bytes()))
