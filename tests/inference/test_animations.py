"""The engine cuts out every frame of an animation: with one layout, several frames at once, and nothing for nobody."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from cutout.inference.engine import Engine
from cutout.inference.errors import (
    DeadlineExceeded,
    InvalidOptions,
    InvalidPhoto,
    NoSubject,
    PhotoTooLarge,
    ResultTooLarge,
)
from cutout.inference.imaging.animation_files import Style, encode_part, join
from cutout.inference.imaging.decode import NOTE_ANIMATION
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Box
from cutout.inference.limits import Limits, SizeLimits
from cutout.inference.option_values import OptionValues, to_options
from cutout.inference.options import Options
from tests.animations import (
    RED,
    RedRunner,
    animation_of,
    disc,
    durations_of,
    frames_of,
    moving_disc,
    opacity_of,
)
from tests.fakes import SMALL, fake_engine, held_until, photo_bytes, wait_until

TIMES = [40, 0, 70, 1000]
GIF = animation_of(moving_disc(4), "GIF", duration=TIMES)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with fake_engine(RedRunner()) as engine:
        yield engine


def held_runner() -> tuple[RedRunner, threading.Event, threading.Event]:
    """Return a runner that waits in each run for the second event, and sets the first one then."""
    runner, begun, go_on = RedRunner(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        held_until(go_on)

    runner.before = hold
    return runner, begun, go_on


def of(**values: object) -> Options:
    return to_options(OptionValues(animation="all", **values))  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", ["basic", "standard", "professional", "industry"])
@pytest.mark.parametrize("file_format", ["webp", "png", "gif"])
def test_every_frame_is_cut_out_and_shown_as_long_as_before(
    engine: Engine, tier: str, file_format: str
) -> None:
    cutout = engine.remove(GIF, of(tier=tier, format=file_format))
    assert (cutout.frames, cutout.format, cutout.width, cutout.height) == (4, Format(file_format), 64, 48)
    assert durations_of(cutout.data) == TIMES
    assert cutout.notes == ()
    for index, frame in enumerate(frames_of(cutout.data)):
        truth = disc(64, 48, 14 + 4 * index, 9)
        assert np.abs(opacity_of(frame) / 255 - truth).mean() < 0.03
        assert np.abs(frame.photo.rgb[truth > 0.99] - np.array(RED)).mean() < 12


def test_the_usual_format_is_webp_and_a_preset_or_the_caller_may_name_another(engine: Engine) -> None:
    assert engine.remove(GIF, of()).format is Format.WEBP
    assert of(format="png").format is Format.PNG
    assert to_options(OptionValues(animation="first")).format is Format.PNG


def test_without_being_asked_only_the_first_frame_is_cut_out_and_a_note_says_so(engine: Engine) -> None:
    cutout = engine.remove(GIF)
    assert (cutout.frames, cutout.notes) == (1, (NOTE_ANIMATION,))


def test_a_still_picture_is_cut_out_as_ever(engine: Engine) -> None:
    still = animation_of(moving_disc(1), "PNG")
    both = (engine.remove(still, replace(of(format="png"), all_frames=wanted)) for wanted in (True, False))
    assert len({one.data for one in both}) == 1


def test_one_box_holds_the_subject_of_all_frames(engine: Engine) -> None:
    cutout = engine.remove(GIF, of(format="png", trim=True))
    assert cutout.subject is not None
    assert (cutout.subject.width, cutout.subject.height) == (cutout.width, cutout.height)
    # From the left edge of the first disc to the right one of the last.
    assert cutout.width == pytest.approx(18 + 3 * 4, abs=6)
    lefts = [int(np.flatnonzero((opacity_of(frame) > 127).any(0))[0]) for frame in frames_of(cutout.data)]
    assert np.diff(lefts).tolist() == [4, 4, 4]


@pytest.mark.parametrize("background", ["white", "#00ff0080", "gradient(white, #dddddd)", "blur"])
def test_a_canvas_a_shadow_and_a_background_are_those_of_all_frames(engine: Engine, background: str) -> None:
    cutout = engine.remove(
        GIF, of(format="png", canvas="50x40", margin="10%", shadow="soft", background=background)
    )
    assert (cutout.width, cutout.height, cutout.frames) == (50, 40, 4)
    corners = [opacity_of(frame)[0, 0] for frame in frames_of(cutout.data)]
    assert len(set(corners)) == 1
    assert corners[0] == (128 if background.startswith("#") else 255)


def test_transparency_of_a_frame_is_kept(engine: Engine) -> None:
    frames = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in moving_disc(3)]
    frames[1][:24, :, 3] = 0
    first, second, third = map(opacity_of, frames_of(engine.remove(animation_of(frames), of()).data))
    assert not second[:24].any()
    assert all(one[:24].any() for one in (first, third))
    assert second[24:].any()


@pytest.mark.parametrize(
    ("layout", "runs"), [({"canvas": "100x100"}, 0), ({"trim": True, "margin": "100%"}, 4)]
)
def test_the_results_of_all_frames_together_are_limited(layout: dict[str, object], runs: int) -> None:
    runner = RedRunner()
    sizes = SizeLimits(animation_pixels=4 * 64 * 48)
    with fake_engine(runner, Limits(sizes=sizes)) as engine:
        with pytest.raises(ResultTooLarge, match=r"4 frames.*CUTOUT_MAX_ANIMATION_MEGAPIXELS"):
            engine.remove(GIF, of(**layout))
        assert sum(runner.runs) == runs
        assert engine.remove(GIF, of(canvas="64x48")).frames == 4


def test_photos_do_not_wait_for_the_animations_of_others() -> None:
    runner, go_on = RedRunner(), threading.Event()
    runner.before = lambda: held_until(go_on)
    with fake_engine(runner, Limits(threads=3)) as engine:
        made = [engine.submit(GIF, of(), caller="many") for _ in range(4)]
        wait_until(lambda: engine.in_work == 1)
        still = engine.submit(photo_bytes(), Options(), caller="one")
        wait_until(lambda: still not in [future for _, future in engine._queue])
        go_on.set()
        assert still.result().frames == 1
        assert [one.result().frames for one in made] == [4] * 4
        assert engine.waiting == 0


def test_the_rest_of_an_animation_that_nobody_wants_is_left() -> None:
    runner = RedRunner()
    with fake_engine(runner, Limits(threads=1)) as engine:
        made = engine.remove_many([("a", lambda: GIF)], of(), is_wanted=lambda key: not runner.runs)
        ((key, outcome),) = made
    assert key == "a"
    assert isinstance(outcome, DeadlineExceeded)
    assert 0 < sum(runner.runs) < 4


def test_frames_like_the_one_before_are_looked_at_once() -> None:
    runner = RedRunner()
    first, second = moving_disc(2)
    style, whole = Style(Format.PNG, 90), Box(0, 0, 64, 48)
    # Pillow would drop those that are like the one before.
    shown = [first, first, first, second, second, first]
    data = join([encode_part(one, whole, style) for one in shown], [Fraction(40)] * 6, 64, 48, style)
    with fake_engine(runner) as engine:
        cutout = engine.remove(data, of(format="png"))
    assert sum(runner.runs) == 3
    assert cutout.frames == len(frames_of(cutout.data)) == 6


def test_frames_share_the_runs_of_the_network() -> None:
    runner, begun, go_on = held_runner()
    with fake_engine(runner, Limits(threads=3, batch=4)) as engine:
        made = engine.submit(animation_of(moving_disc(6), "PNG"), of())
        held_until(begun)
        # While the first run goes on, the frames behind it wait to be run together.
        # The first run may have several of them already.
        wait_until(lambda: len(engine._turns._open) >= 4)  # type: ignore[attr-defined]
        go_on.set()
        made.result()
    assert max(runner.runs) > 1
    assert sum(runner.runs) == 6


def test_progress_is_told(engine: Engine) -> None:
    told: list[tuple[str, int, int]] = []
    made = engine.remove_many(
        [("a", lambda: GIF), ("b", photo_bytes)], of(), on_frame=lambda *one: told.append(one)
    )
    assert {key for key, _ in made} == {"a", "b"}
    assert told == [("a", done, 4) for done in range(1, 5)]


def test_an_animation_that_nobody_waits_for_any_more_is_left() -> None:
    runner, begun, go_on = held_runner()
    frames = 30
    with fake_engine(runner) as engine:
        made = engine.submit(animation_of(moving_disc(frames, step=1), "PNG"), of())
        held_until(begun)
        made.cancel()
        go_on.set()
        with pytest.raises(CancelledError):
            made.result()
        wait_until(lambda: engine.in_work == 0)
    assert sum(runner.runs) < frames // 2


def test_too_many_frames_are_refused_before_any_work() -> None:
    runner = RedRunner()
    with fake_engine(runner, replace(SMALL, sizes=SizeLimits(frames=3))) as engine:
        with pytest.raises(PhotoTooLarge, match="CUTOUT_MAX_FRAMES"):
            engine.remove(GIF, of())
        assert engine.remove(GIF).frames == 1
    assert sum(runner.runs) == 1


def test_a_damaged_frame_is_an_error_of_the_file_and_frees_everything(engine: Engine) -> None:
    with pytest.raises(InvalidPhoto):
        engine.remove(GIF[: int(0.8 * len(GIF))], of())
    with engine.budget.hold(engine.budget.total):  # all of it is free again
        pass


def test_no_subject_in_any_frame(engine: Engine) -> None:
    blue = animation_of([np.full((20, 30, 3), (0, 0, shade), np.uint8) for shade in (200, 210)], "PNG")
    cutout = engine.remove(blue, of(trim=True))
    assert cutout.no_foreground
    assert not any(opacity_of(frame).any() for frame in frames_of(cutout.data))
    with pytest.raises(NoSubject):
        engine.remove(blue, of(require_subject=True))
    assert engine.remove(GIF, of(min_coverage=50)).no_foreground
    assert not engine.remove(GIF, of(min_coverage=5)).no_foreground


def test_a_subject_in_some_frames_is_one(engine: Engine) -> None:
    frames = moving_disc(3)
    frames[1] = np.full_like(frames[1], (40, 60, 200))
    cutout = engine.remove(animation_of(frames), of(require_subject=True, format="png"))
    seen = [bool((opacity_of(frame) > 127).any()) for frame in frames_of(cutout.data)]
    assert seen == [True, False, True]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"format": "jpg"}, "holds one picture"),
        ({"format": "auto"}, "holds one picture"),
        ({"format": "zip"}, "holds one picture"),
        ({"preset": "amazon"}, "holds one picture"),
        ({"tier": "preview"}, "first frame"),
        ({"keep_shadow": True}, "flicker"),
        ({"format": "gif", "keep_profile": True}, "profile"),
    ],
)
def test_options_that_no_animation_can_have_are_named(values: dict[str, object], told: str) -> None:
    from cutout.inference.presets import load_presets

    with pytest.raises(InvalidOptions, match=told):
        load_presets().options(OptionValues(animation="all", **values))  # type: ignore[arg-type]


def test_another_word_is_not_an_animation() -> None:
    with pytest.raises(InvalidOptions, match="animation: 'each' is not a animation"):
        to_options(OptionValues(animation="each"))
