"""Hints through the whole engine, on drawn scenes with several subjects, all of which the network marks."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cutout.inference.backends.runners import Serving, TorchRunner
from cutout.inference.engine import Engine
from cutout.inference.errors import InvalidOptions, NoSubject
from cutout.inference.imaging.geometry import AS_IN_PHOTO, Layout, parse_region
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.options import Options
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import find
from tests.fakes import BLUE, open_picture
from tests.pretend_engine import RED, SOFT, FindsRed, pretended_engine

HEIGHT, WIDTH = 240, 360
Alpha = npt.NDArray[np.float32]


def drawn(*alphas: Alpha) -> bytes:
    """Encode a photo of red subjects on blue, with some grain."""
    alpha = np.clip(sum(alphas), 0, 1)[..., None]
    mixed = alpha * np.array(RED, np.float32) + (1 - alpha) * np.array(BLUE, np.float32)
    mixed += np.random.default_rng(0).normal(0, 2, mixed.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def ellipse(x: float, y: float, across: float, down: float) -> Alpha:
    """Return the alpha, [H,W] of 0…1, of an ellipse with this middle and these radii in pixels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + 0.5
    distance = np.hypot((columns - x) / across, (rows - y) / down)
    alpha: Alpha = np.clip((1 - distance) * min(across, down) / 1.5 + 0.5, 0, 1).astype(np.float32)
    return alpha


def block(left: int, top: int, right: int, bottom: int) -> Alpha:
    alpha = np.zeros((HEIGHT, WIDTH), np.float32)
    alpha[top:bottom, left:right] = 1
    return alpha


@dataclass(frozen=True)
class Subject:
    x: float
    y: float
    alpha: Alpha

    @property
    def point(self) -> str:
        return f"{self.x:.1f}px {self.y:.1f}px"

    @property
    def box(self) -> str:
        """A box that a person would draw: a few pixels beyond the subject."""
        rows, columns = (np.flatnonzero(self.alpha.any(axis)) for axis in (1, 0))
        left, top = max(0, columns[0] - 5), max(0, rows[0] - 4)
        return f"{left}px {top}px {min(WIDTH, columns[-1] + 6)}px {min(HEIGHT, rows[-1] + 5)}px"


def scene(seed: int, count: int) -> list[Subject]:
    """Draw two or three subjects beside each other, of random form, size and place."""
    rng = np.random.default_rng(seed)
    room = WIDTH / count
    subjects = []
    for number in range(count):
        across, down = rng.uniform(0.22, 0.42) * room, rng.uniform(35, 90)
        x, y = (number + 0.5) * room + rng.uniform(-2, 2), HEIGHT / 2 + rng.uniform(-20, 20)
        if rng.random() < 0.3:
            alpha = block(int(x - across), int(y - down), int(x + across), int(y + down))
        else:
            alpha = ellipse(x, y, across, down)
        subjects.append(Subject(x, y, alpha))
    return subjects


SCENES = [scene(seed, 2 + seed % 2) for seed in range(8)]
ONE = SCENES[1]


class MarksRed(FindsRed):
    """The network of the pretended engine, with no false patches where its input ends."""

    def forward(self, pixels: Tensor) -> Tensor:
        rim = 2 * SOFT
        return super().forward(F.pad(pixels, (rim,) * 4, mode="replicate"))[..., rim:-rim, rim:-rim]


@pytest.fixture(scope="module", params=[128, 288])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Open an engine whose masks have fewer cells than parts are found on, or more."""
    with on_the_cpu(MarksRed(), request.param) as opened:
        yield opened


def on_the_cpu(network: torch.nn.Module, size: int) -> Engine:
    checkpoint = replace(find("isnet-general"), input_size=size)
    runner = TorchRunner(network, torch.device("cpu"), dtype=torch.float32)
    return Engine({tier: Serving(Choice(tier, checkpoint, ()), runner) for tier in Tier})


def alpha_of(
    engine: Engine, data: bytes, hints: Hints, tier: Tier = Tier.BASIC, layout: Layout = AS_IN_PHOTO
) -> Alpha:
    cutout = engine.remove(data, Options(tier=tier, mask_only=True, hints=hints, layout=layout))
    return np.asarray(open_picture(cutout.data), np.float32) / np.float32(255)


def likeness(found: Alpha, true: Alpha) -> float:
    """Return the intersection over the union of two alphas."""
    return float(np.minimum(found, true).sum() / np.maximum(found, true).sum())


def keep(text: str) -> Hints:
    return Hints(keep=parse_points(text))


def drop(text: str) -> Hints:
    return Hints(drop=parse_points(text))


@pytest.mark.parametrize("subjects", SCENES, ids=range(len(SCENES)))
def test_a_point_or_a_box_picks_each_subject_alone(subjects: list[Subject], engine: Engine) -> None:
    data = drawn(*(subject.alpha for subject in subjects))
    everything = alpha_of(engine, data, Hints())
    for subject in subjects:
        assert likeness(everything, subject.alpha) < 0.85, "without hints all come"
        assert likeness(alpha_of(engine, data, keep(subject.point)), subject.alpha) >= 0.85
        assert likeness(alpha_of(engine, data, Hints(box=parse_box(subject.box))), subject.alpha) >= 0.85


@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.STANDARD, Tier.PROFESSIONAL])
def test_a_part_that_goes_changes_nothing_of_the_others(tier: Tier, engine: Engine) -> None:
    data = drawn(*(subject.alpha for subject in ONE))
    before = alpha_of(engine, data, Hints(), tier)
    for gone in ONE:
        after = alpha_of(engine, data, drop(gone.point), tier)
        others = sum(subject.alpha for subject in ONE if subject is not gone)
        # Its own soft edge is within 2 % of the photo's width, 7 pixels.
        beside = np.convolve(gone.alpha.any(0), np.ones(15), "same") > 0
        assert after[:, beside].max() == 0
        assert np.abs(after - before)[:, ~beside].max() <= 1 / 255
        assert likeness(after, others) >= 0.85  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", list(Tier))
def test_every_tier_leaves_the_others_out(tier: Tier, engine: Engine) -> None:
    """`industry` looks again at the subject that stays, and sees its neighbours again."""
    near = [Subject(90, 120, ellipse(90, 120, 26, 40)), Subject(160, 120, ellipse(160, 120, 30, 30))]
    data = drawn(*(subject.alpha for subject in near))
    for subject in near:
        alpha = alpha_of(engine, data, keep(subject.point), tier)
        assert likeness(alpha, subject.alpha) >= 0.85
        # The mask's own soft edge is a few pixels wide.
        far = np.abs(np.arange(WIDTH) + 0.5 - subject.x) > 41
        assert alpha[:, far].max() == 0


@pytest.mark.parametrize("tier", [Tier.PROFESSIONAL, Tier.INDUSTRY])
def test_the_network_is_shown_the_same_whatever_points_ask_for(tier: Tier) -> None:
    """So what it answered can be kept, and other hints can be applied to it later."""
    near = [Subject(90, 120, ellipse(90, 120, 20, 30)), Subject(140, 120, ellipse(140, 120, 22, 22))]
    shown: list[Tensor] = []

    class Watched(MarksRed):
        def forward(self, pixels: Tensor) -> Tensor:
            shown.append(pixels)
            return super().forward(pixels)

    data = drawn(*(subject.alpha for subject in near))
    hinted = [Hints(), keep(near[0].point), drop(near[1].point), Hints(largest_only=True, fill_holes=True)]
    hinted += [Hints(drop=tuple(parse_points(f"{near[0].point}, {near[1].point}"))), Hints(min_coverage=0.9)]
    with on_the_cpu(Watched(), 128) as engine:
        for hints in hinted:
            before = len(shown)
            alpha_of(engine, data, hints, tier)
            looks = shown[before:]
            assert len(looks) == (2 if tier is Tier.INDUSTRY else 1)
            assert all(torch.equal(*pair) for pair in zip(looks, shown, strict=False))


def test_without_hints_nothing_is_looked_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    data = drawn(*(subject.alpha for subject in ONE))
    before = alpha_of(engine, data, Hints())
    np.testing.assert_array_equal(
        alpha_of(engine, data, Hints(keep=parse_points(", ".join(one.point for one in ONE)))), before
    )
    monkeypatch.setattr("cutout.inference.matting.parts.choose", None)
    np.testing.assert_array_equal(alpha_of(engine, data, Hints()), before)


def test_the_largest_part_alone_stays(engine: Engine) -> None:
    sizes = sorted(ONE, key=lambda subject: float(subject.alpha.sum()))
    data = drawn(*(subject.alpha for subject in ONE))
    assert likeness(alpha_of(engine, data, Hints(largest_only=True)), sizes[-1].alpha) >= 0.85
    left = Hints(largest_only=True, drop=parse_points(sizes[-1].point))
    assert likeness(alpha_of(engine, data, left), sizes[-2].alpha) >= 0.85


def test_a_point_beside_a_subject_means_it_if_it_is_near(engine: Engine) -> None:
    left, right = ellipse(90, 120, 40, 60), ellipse(270, 120, 40, 60)
    data = drawn(left, right)
    assert likeness(alpha_of(engine, data, keep("145px 120px")), left) >= 0.85
    with pytest.raises(InvalidOptions, match="No subject was found at point 2 of those to keep"):
        alpha_of(engine, data, keep("90px 120px, 180px 120px"))
    np.testing.assert_array_equal(
        alpha_of(engine, data, drop("180px 120px")), alpha_of(engine, data, Hints())
    )


def test_points_are_of_the_photo_as_it_was_sent(engine: Engine) -> None:
    left, right = ellipse(90, 120, 40, 60), ellipse(270, 120, 40, 60)
    data, hints = drawn(left, right), keep("270px 120px")
    small = alpha_of(engine, data, hints, layout=Layout(max_pixels=WIDTH * HEIGHT // 4))
    assert small.shape == (HEIGHT // 2, WIDTH // 2)
    assert small[60, 45] == 0
    assert small[60, 135] == 1
    # All of the second, and of the first one's right end.
    part = Layout(region=parse_region("120px 0 100% 100%"))
    assert likeness(alpha_of(engine, data, hints, layout=part), right) >= 0.85
    assert alpha_of(engine, data, Hints(), layout=part)[120, 125] > 0.5


def test_a_photo_that_is_on_its_side_is_upright_for_its_hints(engine: Engine) -> None:
    upper, lower = ellipse(180, 60, 60, 30), ellipse(180, 180, 60, 30)
    turned = Image.open(io.BytesIO(drawn(upper, lower))).transpose(Image.Transpose.ROTATE_90)
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a viewer turns it clockwise
    turned.save(out, "PNG", exif=exif)
    assert likeness(alpha_of(engine, out.getvalue(), keep("180px 60px")), upper) >= 0.85


def test_outside_of_the_box_is_background_and_a_neighbour_that_it_touches_goes(engine: Engine) -> None:
    left, right = ellipse(100, 120, 60, 70), ellipse(240, 120, 60, 70)
    data = drawn(left, right)
    alpha = alpha_of(engine, data, Hints(box=parse_box("30px 40px 195px 200px")))
    assert likeness(alpha, left) >= 0.85
    assert alpha[:, 175:].max() == 0
    alpha = alpha_of(engine, data, Hints(box=parse_box("80px 100px 120px 140px")))
    assert alpha[105:135, 85:115].min() > 0.99, "a box within the subject cuts a piece out of it"
    assert alpha[:100].max() == alpha[140:].max() == alpha[:, :80].max() == alpha[:, 120:].max() == 0


def test_a_box_that_is_smaller_than_its_subject_keeps_it(engine: Engine) -> None:
    alpha = alpha_of(engine, drawn(ellipse(100, 120, 80, 70)), Hints(box=parse_box("70px 115px 130px 125px")))
    assert alpha[117:123, 75:125].min() > 0.99


def test_subjects_that_touch_are_divided_at_the_narrowest_place(engine: Engine) -> None:
    left, right = ellipse(100, 120, 70, 70), ellipse(250, 120, 60, 60)
    joined = [left, right, block(150, 110, 210, 130)]
    data = drawn(*joined)
    assert likeness(alpha_of(engine, data, keep("100px 120px")), left) < 0.8, "one part"
    both = Hints(keep=parse_points("100px 120px"), drop=parse_points("250px 120px"))
    found = alpha_of(engine, data, both)
    assert likeness(found, left) >= 0.85
    assert found[:, 195:].max() == 0
    with pytest.raises(InvalidOptions, match="at the same spot"):
        alpha_of(engine, data, Hints(keep=parse_points("90px 120px"), drop=parse_points("91px 120px")))


def test_dropping_all_leaves_no_subject(engine: Engine) -> None:
    data, hints = drawn(ONE[0].alpha), drop(ONE[0].point)
    cutout = engine.remove(data, Options(hints=hints))
    assert cutout.no_foreground
    assert cutout.needs_review
    with pytest.raises(NoSubject):
        engine.remove(data, Options(hints=hints, require_subject=True))


def test_random_hints_are_refused_or_give_a_picture() -> None:
    rng = np.random.default_rng(5)
    units = np.array(["", "px", "%"])
    noise = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(noise, "PNG")
    blank, pictures, refused = drawn(np.zeros((HEIGHT, WIDTH), np.float32)), 0, 0

    def points(most: int) -> str:
        return " ".join(
            f"{rng.integers(0, 120)}{rng.choice(units)}" for _ in range(2 * rng.integers(0, most))
        )

    with on_the_cpu(MarksRed(), 64) as engine:
        for data in (drawn(*(one.alpha for one in ONE)), noise.getvalue(), blank):
            for _ in range(60):
                layout = Layout(max_pixels=[None, 1, 30, 4000][rng.integers(4)])
                if rng.random() < 0.3:
                    layout = replace(
                        layout, region=parse_region(f"{rng.integers(50)}% 0 100% {rng.integers(50, 101)}%")
                    )
                texts = points(rng.choice([1, 2, 9, 50])), points(rng.choice([1, 3, 40]))
                try:
                    box = None if rng.random() < 0.5 else parse_box(points(3))
                    kept, dropped = (parse_points(text) if text else () for text in texts)
                    hints = Hints(box, kept, dropped, largest_only=rng.random() < 0.2)
                    options = Options(Tier.INDUSTRY, hints=hints, layout=layout)
                    options.check()
                    pictures += len(engine.remove(data, options).data) > 0
                except InvalidOptions as error:
                    refused += len(str(error)) < 300
    assert pictures + refused == 180
    assert min(pictures, refused) >= 30


@pytest.mark.slow
def test_hints_work_on_a_gpu_as_on_the_cpu() -> None:
    data = drawn(*(subject.alpha for subject in ONE))
    hinted = [
        keep(ONE[0].point),
        drop(ONE[0].point),
        Hints(box=parse_box(ONE[1].box)),
        Hints(largest_only=True),
    ]
    with on_the_cpu(MarksRed(), 288) as cpu, pretended_engine(288, network=MarksRed()) as gpu:
        # A tier comes after the choice of parts, so that two hints show what `industry` makes of it.
        for tier, some in ((Tier.BASIC, hinted), (Tier.INDUSTRY, hinted[::2])):
            for hints in some:
                there, here = alpha_of(gpu, data, hints, tier), alpha_of(cpu, data, hints, tier)
                assert np.abs(there - here).max() < 0.05


@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.INDUSTRY])
def test_all_outside_of_a_box_is_background(tier: Tier, engine: Engine) -> None:
    """The box cuts straight through a subject, and what is within it is as it is without the box."""
    data = drawn(ellipse(90, 120, 40, 60), ellipse(200, 120, 30, 30))
    whole = alpha_of(engine, data, Hints(), tier)
    cut = alpha_of(engine, data, Hints(within=parse_box("0px 0px 90px 200px")), tier)
    np.testing.assert_array_equal(cut[:200, :90], whole[:200, :90])
    assert cut[:, 90:].max() == cut[200:].max() == 0
    # It lies beside what the network is shown for the other box, so nothing is left.
    beside = Hints(box=parse_box("160px 60px 240px 180px"), within=parse_box("0px 0px 90px 200px"))
    assert alpha_of(engine, data, beside, tier).max() == 0
    # Its lengths are those of the photo as it was sent.
    small = Options(
        tier,
        layout=Layout(max_pixels=WIDTH * HEIGHT // 4),
        hints=Hints(within=parse_box("0px 0px 90px 200px")),
    )
    subject = engine.remove(data, small).subject
    assert subject is not None
    assert subject.right == 45
