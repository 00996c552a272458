"""Options of a removal through the whole engine: formats, regions, sizes, colour profiles, and what is refused."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torch import Tensor

from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import (
    InvalidBackground,
    InvalidOptions,
    NoSubject,
    RegionEmpty,
    RegionOutside,
    ResultTooLarge,
)
from cutout.inference.imaging.backgrounds import BlurredPhoto, Picture
from cutout.inference.imaging.color_profile import from_srgb, to_srgb
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Box, Layout, parse_margin, parse_region
from cutout.inference.limits import pixels_of as pixels_of_size
from cutout.inference.options import Options
from cutout.inference.scheduling.pixel_budget import PixelBudget
from cutout.inference.tiers import Tier
from tests.fakes import FakeRunner, fake_engine, open_picture, photo_bytes, thin_picture
from tests.inference.files import colorants, icc_profile

DATA = Path(__file__).parents[1] / "data"
# Display P3: its green is further out than that of sRGB.
WIDE = icc_profile([563], colorants([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)]))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with fake_engine() as opened:
        yield opened


def pixels_of(cutout: Cutout) -> npt.NDArray[np.uint8]:
    return np.asarray(open_picture(cutout.data))


def test_auto_is_a_png_where_anything_is_transparent_else_a_jpeg(engine: Engine) -> None:
    data = photo_bytes(64, 48)
    assert engine.remove(data, Options(format=Format.AUTO)).format is Format.PNG
    flat = engine.remove(data, Options(format=Format.AUTO, background=(1, 2, 3)))
    assert (flat.format, Image.open(io.BytesIO(flat.data)).format) == (Format.JPG, "JPEG")
    assert engine.remove(data, Options(format=Format.AUTO, mask_only=True)).format is Format.PNG
    with fake_engine(FakeRunner(radius=2)) as everything:  # the whole photo is the subject
        assert everything.remove(data, Options(format=Format.AUTO)).format is Format.JPG


def test_a_zips_two_files_are_the_png_within_2_levels(engine: Engine) -> None:
    data = (DATA / "astronaut.jpg").read_bytes()
    layout = Layout(trim=True, margin=parse_margin("5%"))
    png = pixels_of(engine.remove(data, Options(tier=Tier.STANDARD, layout=layout))).astype(int)
    packed = engine.remove(data, Options(tier=Tier.STANDARD, layout=layout, format=Format.ZIP))
    assert packed.format is Format.ZIP
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        colour, alpha = (Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist())
        assert (colour.mode, alpha.mode) == ("RGB", "L")
        np.testing.assert_array_equal(np.asarray(alpha), png[..., 3])
        seen = png[..., 3] > 0
        assert np.abs(np.asarray(colour).astype(int) - png[..., :3])[seen].max() <= 2


def test_only_the_region_is_searched_and_kept(engine: Engine) -> None:
    layout = Layout(region=parse_region("50% 0 100% 50px"))
    alpha = pixels_of(engine.remove(photo_bytes(200, 100), Options(layout=layout)))[..., 3]
    assert alpha.shape == (100, 200)
    assert not alpha[:, :100].any()
    assert not alpha[50:].any()
    assert alpha[25, 150] == 255, "the fake network finds a disc in the middle of what it is given"


@pytest.mark.parametrize("tier", list(Tier))
def test_a_region_of_a_smaller_photo_lies_where_it_lay(tier: Tier, engine: Engine) -> None:
    layout = Layout(region=parse_region("100px 0 200px 100px"), max_pixels=5000)
    cutout = engine.remove(photo_bytes(200, 100), Options(tier=tier, layout=layout))
    assert (cutout.width, cutout.height) == (100, 50)
    assert cutout.subject is not None
    assert cutout.subject.left >= 50
    assert abs(cutout.subject.left + cutout.subject.right - 150) <= 2


@pytest.mark.parametrize(
    ("region", "error"),
    [("0 0 201px 100px", RegionOutside), ("50% 0 50% 100%", RegionEmpty), ("9px 9px 5px 50px", RegionEmpty)],
)
def test_a_region_without_pixels_or_beyond_the_photo_is_refused(
    region: str, error: type[InvalidOptions], engine: Engine
) -> None:
    with pytest.raises(error):
        engine.remove(photo_bytes(200, 100), Options(layout=Layout(region=parse_region(region))))


def test_a_photo_without_a_subject_fails_where_one_is_required() -> None:
    with fake_engine(FakeRunner(radius=-1)) as engine:
        with pytest.raises(NoSubject, match="No subject was found"):
            engine.remove(photo_bytes(), Options(require_subject=True))
        empty = engine.remove(photo_bytes())
    invisible = io.BytesIO()
    Image.new("RGBA", (40, 30)).save(invisible, "PNG")
    with (
        fake_engine() as engine,
        pytest.raises(NoSubject),
    ):  # the network finds one, but all of it is transparent
        engine.remove(invisible.getvalue(), Options(require_subject=True))
    assert (empty.subject, empty.coverage, empty.needs_review) == (None, 0.0, True)


def test_facts_about_the_subject(engine: Engine) -> None:
    cutout = engine.remove(photo_bytes(200, 100))
    assert cutout.subject is not None
    alpha = pixels_of(cutout)[..., 3]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert cutout.subject == Box(columns[0], rows[0], int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    assert cutout.coverage == pytest.approx(alpha.mean() / 255, abs=1e-4)
    assert 0 < cutout.uncertainty < 0.1
    assert not cutout.needs_review


def test_a_network_that_is_undecided_is_uncertain() -> None:
    class Undecided(FakeRunner):
        def run(self, pixels: Tensor) -> Tensor:
            mask = super().run(pixels)
            mask[..., : mask.shape[-1] // 2] *= 0.5  # grey on its left half: 1/2 of 3/4 of the area
            return mask

    with fake_engine(Undecided()) as engine:
        cutout = engine.remove(photo_bytes(200, 100))
    assert cutout.uncertainty == pytest.approx(2 / 3, abs=0.1)
    assert cutout.needs_review


def test_a_canvas_that_is_too_large_is_refused_before_the_network_runs() -> None:
    runs: list[int] = []
    with fake_engine(FakeRunner(before=lambda: runs.append(1))) as engine, pytest.raises(ResultTooLarge):
        engine.remove(photo_bytes(), Options(layout=Layout(canvas=(10_000, 10_000))))
    assert not runs


@pytest.mark.parametrize(
    "options",
    [
        Options(layout=Layout(canvas=(20_000, 2500)), format=Format.WEBP),
        Options(layout=Layout(trim=True, margin=parse_margin("5000px"))),
    ],
)
def test_what_no_result_can_be_is_refused_before_the_network_runs(options: Options) -> None:
    runs: list[int] = []
    with fake_engine(FakeRunner(before=lambda: runs.append(1))) as engine, pytest.raises(InvalidOptions):
        engine.remove(photo_bytes(), options)
    assert not runs


def test_a_long_photo_may_be_scaled_down_to_what_a_format_holds(engine: Engine) -> None:
    data = thin_picture(16_500, 400)
    assert engine.remove(data, Options(format=Format.WEBP, layout=Layout(max_pixels=100_000))).width < 3000
    assert engine.remove(data, Options(format=Format.WEBP, layout=Layout(trim=True))).width < 16_384
    with pytest.raises(InvalidOptions, match="16,383 pixels per side"):
        engine.remove(data, Options(format=Format.WEBP))


def test_memory_is_held_for_the_result_and_the_picture_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    hold = PixelBudget.hold

    def counting(self: PixelBudget, pixels: int, deadline: float) -> AbstractContextManager[None]:
        held.append(pixels)
        return hold(self, pixels, deadline)

    monkeypatch.setattr(PixelBudget, "hold", counting)
    alone = pixels_of_size(40, 30)
    with fake_engine() as engine:
        for options in (
            Options(),
            Options(layout=Layout(canvas=(100, 200))),
            Options(layout=Layout(trim=True, margin=parse_margin("100%"))),
            Options(background=Picture.of(photo_bytes(60, 50))),
            Options(background=BlurredPhoto()),
            Options(shadow=0.5, layout=Layout(canvas=(100, 200))),
        ):
            engine.remove(photo_bytes(40, 30), options)
    assert held == [
        alone,
        alone + pixels_of_size(100, 200),
        alone + pixels_of_size(120, 90),
        alone + pixels_of_size(60, 50),
        alone + alone // 2,
        alone + pixels_of_size(100, 200) * 3 // 2,
    ]


@pytest.mark.parametrize("data", [b"", b"no picture", photo_bytes()[:60]])
def test_a_background_that_cannot_be_read_is_named(data: bytes, engine: Engine) -> None:
    with pytest.raises(InvalidBackground, match="picture for the background"):
        engine.remove(photo_bytes(), Options(background=Picture.of(data)))


def test_a_picture_stands_behind_the_subject(engine: Engine) -> None:
    behind = io.BytesIO()
    Image.new("RGBA", (30, 90), (10, 200, 30, 128)).save(behind, "PNG")
    pixels = pixels_of(engine.remove(photo_bytes(64, 48), Options(background=Picture.of(behind.getvalue()))))
    assert pixels[0, 0].tolist() == [132, 227, 142], "its own transparency is white"


def test_a_photos_profile_is_kept_and_backgrounds_follow_it(engine: Engine) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    photo_file = io.BytesIO()
    Image.fromarray(rgb).save(photo_file, "PNG", icc_profile=WIDE)
    green = (60, 200, 60)
    for file_format in (Format.PNG, Format.WEBP, Format.JPG, Format.AVIF):
        options = Options(format=file_format, background=green, keep_profile=True, quality=100)
        kept = Image.open(io.BytesIO(engine.remove(photo_file.getvalue(), options).data))
        assert kept.info["icc_profile"] == WIDE
        corner = np.asarray(kept.convert("RGB"))[0, 0].astype(int)
        shown = np.asarray(to_srgb(Image.fromarray(corner.astype(np.uint8)[None, None]), WIDE))[0, 0]
        assert np.abs(shown.astype(int) - green).max() <= 6, "the colour is the one that was asked for"
    middle = pixels_of(engine.remove(photo_file.getvalue(), Options(keep_profile=True)))[20, 30, :3]
    np.testing.assert_array_equal(middle, rgb[20, 30])
    converted = pixels_of(engine.remove(photo_file.getvalue()))[20, 30, :3]
    assert (converted != rgb[20, 30]).any()
    np.testing.assert_allclose(from_srgb(converted[None, None], WIDE)[0, 0], rgb[20, 30], atol=90)


@pytest.mark.parametrize("profile", [b"damaged", icc_profile([563], space=b"GRAY")])
def test_a_profile_that_is_of_no_use_is_not_kept(profile: bytes, engine: Engine) -> None:
    photo_file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(photo_file, "PNG", icc_profile=profile)
    cutout = engine.remove(photo_file.getvalue(), Options(keep_profile=True))
    assert open_picture(cutout.data).info.get("icc_profile") is None
