"""The tier `preview`: a small picture of every photo, whatever else is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cutout.app import bootstrap
from cutout.app.config.settings import load as load_settings
from cutout.inference.backends.runners import Serving
from cutout.inference.engine import Engine
from cutout.inference.errors import ModelUnavailable, ResultTooLarge, WeightsUnavailable
from cutout.inference.imaging.geometry import AS_IN_PHOTO, Layout, parse_margin, parse_region
from cutout.inference.imaging.levels import levelled
from cutout.inference.options import Options
from cutout.inference.tiers import SOLD, TIERS, Choice, Tier, candidates
from cutout.models.catalog import Checkpoint, find
from tests.conftest import DATA
from tests.fakes import FakeRunner, open_picture, photo_bytes, thin_picture

MOST = 250_000
PHOTO = thin_picture(1200, 900)


def preview(layout: Layout = AS_IN_PHOTO) -> Options:
    return Options(tier=Tier.PREVIEW, layout=layout)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (Layout(), (577, 433)),
        (Layout(max_pixels=10_000), (115, 86)),
        (Layout(max_pixels=10 * MOST), (577, 433)),
        (Layout(canvas=(2000, 500)), (1000, 250)),
        (Layout(canvas=(400, 300)), (400, 300)),
        (Layout(region=parse_region("100px 100px 1100px 800px")), (577, 433)),
    ],
)
def test_the_result_is_small(engine: Engine, layout: Layout, size: tuple[int, int]) -> None:
    cutout = engine.remove(PHOTO, preview(layout))
    assert (cutout.width, cutout.height) == size == open_picture(cutout.data).size
    assert cutout.width * cutout.height <= MOST


def test_a_small_photo_keeps_its_size(engine: Engine) -> None:
    cutout = engine.remove(photo_bytes(40, 30), preview())
    assert (cutout.width, cutout.height) == (40, 30)


def test_a_margin_in_pixels_shrinks_with_the_canvas(engine: Engine) -> None:
    layout = Layout(canvas=(2000, 2000), margin=parse_margin("200px"))
    subject = engine.remove(PHOTO, preview(layout)).subject
    assert subject is not None
    assert min(subject.left, subject.top, 500 - subject.right, 500 - subject.bottom) == 50


def test_a_margin_makes_no_large_picture(engine: Engine) -> None:
    with pytest.raises(ResultTooLarge, match="at most 1 megapixels"):
        engine.remove(PHOTO, preview(Layout(trim=True, margin=parse_margin("500px"))))
    allowed = Layout(trim=True, margin=parse_margin("10%"))
    assert engine.remove(PHOTO, preview(allowed)).width < 577


def test_what_serves_basic_serves_it_last() -> None:
    own = Checkpoint(**vars(find("isnet-general")) | {"name": "shop-v3"})
    assert [one.name for one in candidates(Tier.PREVIEW)] == ["u2netp", "isnet-general", "rmbg-1.4"]
    ordered = candidates(Tier.PREVIEW, {Tier.BASIC: [own]})
    assert [one.name for one in ordered] == ["u2netp", "isnet-general", "shop-v3"]


def test_a_host_that_cannot_fetch_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(models_dir=tmp_path, device="cpu", accept_licences="rmbg-1.4")
    file = settings.models_folder.file(find("rmbg-1.4"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")

    def away(checkpoint: Checkpoint) -> None:
        raise WeightsUnavailable(f"{checkpoint.name}: there is no network.")

    bootstrap.pull_missing(settings, [Tier.BASIC, Tier.PREVIEW], away)
    assert "u2netp cannot be downloaded; a substitute may be used" in caplog.text


def test_a_substitute_for_it_is_never_refused() -> None:
    def engine_with(substituted: Tier) -> Engine:
        general, runner = find("isnet-general"), FakeRunner()
        return Engine(
            {
                tier: Serving(
                    Choice(
                        tier, general if tier is substituted else find(TIERS[tier].checkpoints[0]), ("why",)
                    ),
                    runner,
                )
                for tier in Tier
            }
        )

    with engine_with(Tier.PREVIEW) as engine:
        assert engine.serving[Tier.PREVIEW].choice.substitute
        bootstrap.refuse_substitutes(engine)
    for tier in SOLD:
        with engine_with(tier) as engine, pytest.raises(ModelUnavailable, match=tier):
            bootstrap.refuse_substitutes(engine)


@pytest.mark.parametrize(("highest", "expected"), [(255, 51), (102, 128), (0, 0)])
def test_levels_are_stretched_to_the_highest(highest: int, expected: int) -> None:
    levels = [0, min(51, highest), highest]
    rgb = torch.tensor(levels, dtype=torch.uint8).expand(2, 3, 3)
    assert levelled(rgb, find("u2netp"))[0, 0].tolist() == [0, expected, 255 if highest else 0]
    assert levelled(rgb, find("isnet-general")) is rgb


@pytest.mark.weights
def test_a_real_photo_is_cut_out(small_engine: Engine) -> None:
    cutout = small_engine.remove((DATA / "coffee.jpg").read_bytes(), preview())
    assert (cutout.checkpoint, cutout.substitute) == ("u2netp", False)
    assert cutout.width * cutout.height <= MOST
    alpha = np.asarray(open_picture(cutout.data))[..., 3]
    height, width = alpha.shape
    assert alpha[height // 2, width // 2] > 250  # the cup
    assert alpha[:20, :20].max() == 0  # the table
    empty = small_engine.remove((DATA / "grass.jpg").read_bytes(), preview())
    assert empty.no_foreground
