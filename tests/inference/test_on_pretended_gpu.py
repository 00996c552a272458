"""The whole way of a photo through the engine, on a pretended GPU: see `tests.pretend_gpu` for what that refuses."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from benchmarks.counting import Count
from cutout.inference.backends.runners import Serving, TorchRunner
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.imaging import compositing
from cutout.inference.imaging.backgrounds import BlurredPhoto, Gradient, Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_points
from cutout.inference.masked_photo import MaskedPhoto
from cutout.inference.matting import colour_lines, unknown_region
from cutout.inference.options import Options
from cutout.inference.tiers import Choice, Tier
from cutout.models import gpu_kernels
from cutout.models.catalog import find
from tests.animations import animation_of, disc, frames_of, moving_disc, opacity_of
from tests.fakes import BLUE, photo_with_disc, stroke_mask
from tests.pretend_engine import RADIUS, RED, FindsRed, photo, pretended_engine
from tests.pretend_gpu import Call, MixedDevices, MixedTypes, pretended_gpu

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 300, 420
# The operations that the host starts for a photo of up to 16 megapixels, without the network's, and how often it waits,
# other than at an event. A second look that is used refines its part of the photo once more.
MOST = {
    Tier.BASIC: (88, 3),
    Tier.STANDARD: (358, 4),
    Tier.PROFESSIONAL: (918, 8),
    Tier.INDUSTRY: (1618, 20),
    Tier.PREVIEW: (93, 2),
}


class Operations:
    """Counts what is done for a photo outside of the network."""

    def __init__(self) -> None:
        self.count = Count()

    def note(self, call: Call) -> None:
        if call.stage == "photo":
            self.count.note(call)


@pytest.fixture(scope="module")
def operations() -> Operations:
    return Operations()


@pytest.fixture(scope="module")
def engine(operations: Operations) -> Iterator[Engine]:
    with pretended_engine(256, operations.note) as opened:
        yield opened


@pytest.mark.parametrize("tier", list(MOST))
def test_every_tier_runs_on_a_gpu_with_few_operations_and_waits(
    tier: Tier, engine: Engine, operations: Operations
) -> None:
    operations.count = count = Count()
    cutout = engine.remove(photo(HEIGHT, WIDTH), Options(tier=tier))
    found = np.asarray(Image.open(io.BytesIO(cutout.data)))[..., 3] / 255
    assert np.abs(found - photo_with_disc(HEIGHT, WIDTH, RADIUS * HEIGHT)[1]).mean() < 0.005
    most, waits = MOST[tier]
    assert count.operations <= most, Counter(cost.name for cost in count.costs)
    assert len(count.waits) <= waits, Counter(count.waits)


def test_a_photo_of_12_megapixels_takes_no_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared as for the tier's own checkpoint, RMBG-2.0. Photo and strips are both a quarter of what they stand for."""
    for module in (compositing, unknown_region):
        monkeypatch.setitem(module.STRIP_PIXELS, "cuda", module.STRIP_PIXELS["cuda"] // 4)
    picture, data = Image.new("RGB", (2000, 1500), (60, 80, 170)), io.BytesIO()
    ImageDraw.Draw(picture).ellipse((750, 500, 1250, 1000), RED)
    picture.save(data, "PNG", compress_level=1)
    operations = Operations()
    with pretended_engine(256, operations.note, antialias=find("rmbg-2.0").antialias) as engine:
        operations.count = count = Count()
        engine.remove(data.getvalue(), Options(tier=Tier.PROFESSIONAL))
    most, waits = MOST[Tier.PROFESSIONAL]
    assert count.operations <= most
    assert len(count.waits) <= waits


@pytest.mark.parametrize(
    "options", [Options(background=(1, 2, 3)), Options(format=Format.JPG), Options(mask_only=True)]
)
def test_what_is_composed_is_composed_on_the_gpu(options: Options, engine: Engine) -> None:
    assert engine.remove(photo(HEIGHT, WIDTH), options).height == HEIGHT


def test_every_layout_and_background_is_composed_on_the_gpu(engine: Engine) -> None:
    data = photo(90, 130)
    behind = io.BytesIO()
    Image.effect_noise((50, 20), 90).convert("RGB").save(behind, "PNG")
    wanted = [
        Options(tier=Tier.PROFESSIONAL, shadow=0.5, layout=Layout(trim=True, margin=parse_margin("20%"))),
        Options(background=Gradient((0, 0, 0), (255, 255, 255), 45), layout=Layout(canvas=(70, 50))),
        Options(background=BlurredPhoto(), layout=Layout(scale=0.8, position=(0, 1))),
        Options(background=Picture.of(behind.getvalue()), format=Format.AUTO, quality=100),
        Options(background=(250, 10, 20, 100), layout=Layout(max_pixels=3000)),
        Options(layout=Layout(region=parse_region("20% 20% 80% 80%")), mask_only=True),
        Options(format=Format.ZIP),
    ]
    choice = Choice(Tier.BASIC, replace(find("isnet-general"), input_size=256), ())
    runner = TorchRunner(FindsRed(), torch.device("cpu"), dtype=torch.float32)
    with Engine({tier: Serving(choice, runner) for tier in Tier}) as cpu:
        for options in wanted:
            there, here = engine.remove(data, options), cpu.remove(data, options)
            assert there.format is here.format, options
            assert there.subject is not None
            assert here.subject is not None
            assert abs(there.subject.left - here.subject.left) <= 1, options
            # Half precision may move the far end of a soft edge, and with it the size of what is trimmed, by a pixel.
            assert abs(there.width - here.width) + abs(there.height - here.height) <= 4, options
            if here.format is not Format.ZIP and (there.width, there.height) == (here.width, here.height):
                difference = np.abs(_pixels(there).astype(int) - _pixels(here))
                assert difference.mean() < 2, options


def test_a_shadow_is_found_and_laid_on_the_gpu(engine: Engine) -> None:
    picture = Image.open(io.BytesIO(photo(HEIGHT, WIDTH)))
    shade = ImageDraw.Draw(picture)
    shade.ellipse((195, 190, 290, 215), tuple(level * 7 // 10 for level in BLUE))
    shade.ellipse((WIDTH / 2 - 45, HEIGHT / 2 - 45, WIDTH / 2 + 45, HEIGHT / 2 + 45), RED)
    data = io.BytesIO()
    picture.save(data, "PNG")
    for layout in (Layout(), Layout(canvas=(200, 200), scale=0.5)):
        made = engine.remove(data.getvalue(), Options(keep_shadow=True, layout=layout))
        assert not made.notes
        pixels = _pixels(made)
        dark = (pixels[..., 3] > 60) & (pixels[..., 3] < 90) & (pixels[..., :3].max(2) == 0)
        assert dark.sum() > 300


@pytest.mark.parametrize(
    ("options", "most", "waits"),
    [
        (Options(hints=Hints(keep=parse_points("47% 50%"), drop=parse_points("54% 50%"))), 130, 3),
        (
            Options(
                hints=Hints(keep_mask=Picture.of(stroke_mask(2, 2, 12, 12)), fill_holes=True),
                tier=Tier.PROFESSIONAL,
            ),
            1450,
            10,
        ),
        (Options(keep_shadow=True), 480, 10),  # it is looked for in four parts of the photo
    ],
    ids=["divided", "stroke", "no shadow"],
)
def test_what_is_refined_is_exact_on_a_gpu_too(
    options: Options, most: int, waits: int, engine: Engine, operations: Operations
) -> None:
    engine.remove(photo(HEIGHT, WIDTH), options)  # constants are made once
    operations.count = count = Count()
    first = engine.submit(photo(HEIGHT, WIDTH), options, keep_masks=True).result()
    assert count.operations <= most, Counter(cost.name for cost in count.costs)
    assert len(count.waits) <= waits, Counter(count.waits)
    assert first.masked is not None
    operations.count = again = Count()
    stored = MaskedPhoto.from_bytes(first.masked.to_bytes())
    assert engine.submit(stored, options).result().data == first.data
    assert again.operations < count.operations
    assert len(again.waits) < len(count.waits), "masks go up without a wait"


def test_the_photos_own_transparency_goes_up_too(engine: Engine) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (WIDTH, HEIGHT), (*RED, 100)).save(data, "PNG")
    alpha = np.asarray(Image.open(io.BytesIO(engine.remove(data.getvalue()).data)))[..., 3]
    assert 95 < alpha.min() <= alpha.max() == 100


def test_a_constant_made_on_the_cpu_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    centres = colour_lines._centres
    monkeypatch.setattr(
        colour_lines, "_centres", lambda length, cells, device: centres(length, cells, torch.device("cpu"))
    )
    with pytest.raises(MixedDevices, match="index_select"):
        engine.remove(photo(HEIGHT, WIDTH), Options(tier=Tier.PROFESSIONAL))


def test_a_network_that_computes_in_two_types_is_found() -> None:
    class Widened(FindsRed):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels) * torch.ones(1, 1, 1, 1, device=pixels.device)

    with pytest.raises(MixedTypes, match="float32"), pretended_engine(64, network=Widened()):
        pass


def test_warm_up_compares_the_kernels_with_ordinary_operators() -> None:
    class Network(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            used.append(gpu_kernels.usable(pixels))
            return pixels[:, :1]

    used: list[bool] = []
    with pretended_gpu(), gpu_kernels.only(on=True):
        TorchRunner(Network(), torch.device("cuda"), dtype=torch.float16).warm_up(32)
    assert used[:3] == [False, True, False]  # the first is the check of float16's range


def _pixels(cutout: Cutout) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(cutout.data)))


def test_every_frame_of_an_animation_runs_on_a_gpu(engine: Engine) -> None:
    frames = moving_disc(5, 96, 64, step=5, radius=14)
    cutout = engine.remove(
        animation_of(frames), Options(tier=Tier.STANDARD, format=Format.PNG, all_frames=True)
    )
    found = [opacity_of(frame) / 255 for frame in frames_of(cutout.data)]
    assert len(found) == 5
    for index, alpha in enumerate(found):
        assert np.abs(alpha - disc(96, 64, 14 + 5 * index, 14)).mean() < 0.03
