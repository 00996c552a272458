"""The removal of the background of every frame of an animation.

Frames are decoded twice, so that none has to be kept. In the first pass, the network sees each of them, several at once, and
their alpha is steadied (`matting.steady`). In the second one, colours are cleaned by the steadied alpha, and each frame is
composed and encoded. All frames have one layout: that of the box that holds the subject in all of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.cuda import download, errors_translated, upload, used_here, wait_for
from cutout.inference.composition import NO_SUBJECT, Composed, Scene, compose, largest_result
from cutout.inference.cores import photo_threads
from cutout.inference.cutout import Cutout
from cutout.inference.errors import DeadlineExceeded, NoSubject
from cutout.inference.imaging.animation import Animation, Frame, read_animation, read_frames
from cutout.inference.imaging.animation_files import Part, Style, box_to_write, encode_part, join
from cutout.inference.imaging.decode import NOTE_ANIMATION, Photo, Pixels, Size
from cutout.inference.imaging.encode import check_size
from cutout.inference.imaging.geometry import Box, place, shrunk
from cutout.inference.imaging.hints import Marks
from cutout.inference.imaging.placing import box_of, lines_of
from cutout.inference.limits import pixels_of
from cutout.inference.loaded import load
from cutout.inference.masked_photo import AnySource, Maker
from cutout.inference.matting.mask import to_levels
from cutout.inference.matting.pipeline import see
from cutout.inference.matting.refinement import clean_colours
from cutout.inference.matting.steady import Steadier
from cutout.inference.options import Options
from cutout.inference.prepared_background import prepared_background
from cutout.inference.removal import ONE_PIXEL, Workplace, cut_subject, hold_for, marks_on, remove_photo
from cutout.inference.review import needs_review
from cutout.inference.scheduling.stage_timer import StageTimer
from cutout.inference.tiers import TIERS

# The steadied maps of all frames, or their results, take less memory than one in so many of their pixels would take in work.
PIXELS_IN_STORE = 8

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Work:
    """An animation that is worked on: its file, the options in its colour profile, and the same hints for all frames."""

    data: bytes = field(repr=False)
    animation: Animation
    options: Options
    marks: Marks
    behind: Tensor | None = field(repr=False)
    maker: Maker
    at: Workplace
    pool: ThreadPoolExecutor

    @property
    def cleans(self) -> bool:
        return TIERS[self.options.tier].recipe.cleans

    def frames(self) -> Iterator[tuple[Frame, bool]]:
        """Decode all frames, and tell of each whether it shows anything else than the one before."""
        before: Photo | None = None
        profile = self.options.keep_profile
        for frame in read_frames(self.data, self.animation, self.at.sizes, keep_profile=profile):
            if self.at.request.is_over:
                raise DeadlineExceeded("Nobody waits for this animation any more.")
            is_same = before is not None and _same(before, frame.photo)
            before = frame.photo
            yield frame, not is_same


@dataclass(frozen=True)
class _Found:
    """What was found in one frame.

    `rgb`, uint8 [h,w,3], are the photo's colours in the `part` that was searched; `maps`, uint8 [1 or 2,h,w], is the alpha
    there and, if the recipe cleans colours, what they are cleaned by. `box` is the subject's in that part, `share` how much
    of the part it takes.
    """

    rgb: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    part: Box
    box: Box | None
    share: float
    uncertainty: float


@dataclass(frozen=True)
class _Subject:
    """The subject in all frames: `box` is in the searched `part`; None if there is none, and all frames are empty."""

    steadier: Steadier
    part: Box
    box: Box | None
    uncertainty: float


def remove_background(
    source: AnySource, options: Options, maker: Maker, at: Workplace, *, keep_masks: bool = False
) -> Cutout:
    """Remove the background of a photo, or of every frame of an animation if the options ask for all of them.

    Raises:
        CutoutError: see `removal.remove_photo`; also if an animation has too many frames, or pixels in all of them.

    """
    if options.all_frames and isinstance(source, bytes):
        animation = read_animation(source, at.sizes)
        if animation is not None:
            return _remove_all(source, animation, options, maker, at)
    return remove_photo(source, options, maker, at, keep_masks=keep_masks)


def _remove_all(data: bytes, animation: Animation, options: Options, maker: Maker, at: Workplace) -> Cutout:
    check_size(options.format, animation.width, animation.height)
    _hold(animation, options, at)
    first = next(read_frames(data, animation, at.sizes, keep_profile=options.keep_profile)).photo
    options, picture = prepared_background(options, first.profile, at.sizes)
    behind = None if picture is None else upload(picture, at.device)
    marks = marks_on(options, first, at.sizes)
    pool = photo_threads(at.at_once)
    try:
        work = _Work(data, animation, options, marks, behind, maker, at, pool)
        subject = _find_subject(work)
        _check_results(animation, options, at, subject.box or ONE_PIXEL)
        return _written(work, subject, first)
    finally:
        pool.shutdown(cancel_futures=True)


def _hold(animation: Animation, options: Options, at: Workplace) -> None:
    """Wait until there is memory for the frames that are in work at once, and for the maps and the results of all."""
    # What no result could be is refused before any work.
    _check_results(animation, options, at, ONE_PIXEL)
    size = Size(animation.width, animation.height, pixels_of(animation.width, animation.height))
    largest = largest_result(animation.width, animation.height, options.layout)
    result = min(animation.frames * largest.width * largest.height, at.sizes.animation_pixels)
    stored = (animation.frames * size.pixels + result) // PIXELS_IN_STORE
    hold_for(options, replace(at, hold=lambda pixels: at.hold(pixels * (at.at_once + 1) + stored)), at.sizes)(
        size
    )


def _check_results(animation: Animation, options: Options, at: Workplace, box: Box) -> None:
    """Check that all frames of the result together are not too large, with the subject in this box of them."""
    width, height = animation.width, animation.height
    if options.layout.max_pixels is not None:
        width, height = shrunk(width, height, options.layout.max_pixels)
    placed = place(box, width, height, options.layout)
    at.sizes.check_results(animation.frames, placed.width, placed.height)


def _same(photo: Photo, other: Photo) -> bool:
    if (photo.alpha is None) != (other.alpha is None):
        return False
    same_alpha = photo.alpha is None or other.alpha is None or np.array_equal(photo.alpha, other.alpha)
    return same_alpha and np.array_equal(photo.rgb, other.rgb)


def _in_order(
    work: _Work, make: Callable[[Given, Workplace], Made], given: Iterable[Given]
) -> Iterator[Made]:
    """Return what is made of each, in order, by the threads of the pool; only so many are given ahead as there are threads."""
    waiting: deque[tuple[Future[Made], StageTimer]] = deque()

    def next_one() -> Made:
        future, clock = waiting.popleft()
        made = future.result()
        for stage, seconds in clock.seconds.items():
            work.at.clock.seconds[stage] += seconds
        return made

    for one in given:
        place = replace(work.at, clock=StageTimer())
        waiting.append((work.pool.submit(make, one, place), place.clock))
        if len(waiting) > work.at.at_once:
            yield next_one()
    while waiting:
        yield next_one()


def _find_subject(work: _Work) -> _Subject:
    """Find the subject in all frames, and steady its alpha."""
    at, options = work.at, work.options
    steadier = Steadier(at.device)
    seen: _Found | None = None
    facts: list[tuple[Box | None, float, float]] = []

    def look(given: tuple[Frame, bool], place: Workplace) -> _Found | None:
        frame, is_new = given
        return _look(work, frame, place) if is_new else None

    for new in _in_order(work, look, work.frames()):
        seen = new or seen
        assert seen is not None
        with errors_translated(), at.on_device():
            steadier.add(used_here(seen.rgb), used_here(seen.maps))
            wait_for(at.device)
        facts.append((seen.box, seen.share, seen.uncertainty))
        if at.request.progress is not None:
            at.request.progress(len(facts), work.animation.frames)
    assert seen is not None
    with errors_translated(), at.on_device():
        steadier.finish()
    boxes = [box for box, _, _ in facts if box is not None]
    box = _around(boxes) if boxes else None
    if _mean(share for _, share, _ in facts) < options.hints.min_coverage:
        box = None
    if box is None and options.require_subject:
        raise NoSubject(NO_SUBJECT)
    return _Subject(steadier, seen.part, box, _mean(unsure for _, _, unsure in facts))


def _look(work: _Work, frame: Frame, place: Workplace) -> _Found:
    recipe = TIERS[work.options.tier].recipe
    with errors_translated(), place.on_device():
        photo = load(frame.photo, work.options.layout.max_pixels, place.device)
        cut, part = cut_subject(
            # Its own transparency is exact, and not steadied.
            replace(photo, alpha=None),
            work.marks,
            work.options,
            lambda rgb: see(rgb, recipe, place.look),
            colours=False,
        )
        maps = cut.alpha[None]
        if work.cleans:
            coverage = torch.zeros_like(cut.alpha) if cut.coverage is None else cut.coverage
            maps = torch.stack([cut.alpha, coverage])
        own = None if photo.alpha is None else photo.alpha[part.rows, part.columns]
        shown = _on_own(cut.alpha, own)
        unsure = shown.new_zeros(1, dtype=torch.float32) if cut.uncertainty is None else cut.uncertainty
        told = download(torch.cat([unsure, lines_of(shown)]))
        height = shown.shape[0]
        box, covered = box_of(told[1:], height), float(told[1 : 1 + height].sum(dtype=np.float64)) / 255
        rgb = photo.rgb[part.rows, part.columns].contiguous()
        wait_for(place.device)
        place.clock.lap("edges")
    return _Found(rgb, maps, part, box, covered / shown.numel(), float(told[0]))


def _written(work: _Work, subject: _Subject, first: Photo) -> Cutout:
    """Compose and encode all frames."""
    options, maker, frames = work.options, work.maker, work.animation.frames
    style = Style(options.format, options.quality, work.animation.plays, first.dpi, first.profile)
    durations: list[Fraction] = []
    coverage = of_photo = 0.0
    last: _Picture | None = None

    def to_write() -> Iterator[tuple[Pixels, Box]]:
        nonlocal last, coverage, of_photo
        for picture, milliseconds in _pictures(work, subject):
            before = None if last is None else last.pixels
            yield picture.pixels, box_to_write(before, picture.pixels, options.format)
            last = picture
            durations.append(milliseconds)
            coverage += picture.composed.coverage / frames
            of_photo += picture.composed.of_photo / frames

    def encode(given: tuple[Pixels, Box], place: Workplace) -> Part:
        part = encode_part(*given, style)
        place.clock.lap("encode")
        return part

    parts = list(_in_order(work, encode, to_write()))
    assert last is not None
    height, width = last.pixels.shape[:2]
    is_empty = subject.box is None
    return Cutout(
        data=join(parts, durations, width, height, style),
        format=options.format,
        width=width,
        height=height,
        no_foreground=is_empty,
        tier=options.tier,
        checkpoint=maker.checkpoint,
        substitute=maker.substitute,
        backend=maker.backend,
        subject=last.composed.subject,
        coverage=round(coverage, 4),
        uncertainty=round(subject.uncertainty, 4),
        needs_review=needs_review(is_empty, of_photo, subject.uncertainty),
        notes=tuple(note for note in first.notes if note != NOTE_ANIMATION),
        frames=frames,
        seconds=work.at.clock.seconds,
    )


@dataclass(frozen=True)
class _Picture:
    """A composed frame, uint8 [H,W], [H,W,3] or [H,W,4]."""

    composed: Composed
    pixels: Pixels = field(repr=False)


def _pictures(work: _Work, subject: _Subject) -> Iterator[tuple[_Picture, Fraction]]:
    """Compose all frames, and return for how many milliseconds each is shown."""
    # These are checked for the animation as a whole.
    hints = replace(work.options.hints, min_coverage=0.0)
    options = replace(work.options, require_subject=False, hints=hints)

    def make(given: tuple[int, tuple[Frame, bool]], place: Workplace) -> tuple[_Picture | None, Fraction]:
        index, (frame, is_new) = given
        picture = _picture(work, options, subject, index, frame.photo, place) if is_new else None
        return picture, frame.milliseconds

    last: _Picture | None = None
    for new, milliseconds in _in_order(work, make, enumerate(work.frames())):
        last = new or last
        assert last is not None
        yield last, milliseconds


def _picture(
    work: _Work, options: Options, subject: _Subject, index: int, picture: Photo, place: Workplace
) -> _Picture:
    part = subject.part
    with errors_translated(), place.on_device():
        photo = load(picture, options.layout.max_pixels, place.device)
        place.clock.lap("decode")
        rgb = photo.rgb[part.rows, part.columns].contiguous()
        maps = subject.steadier.steadied(index)
        alpha = maps[0] if subject.box is not None else torch.zeros_like(maps[0])
        if work.cleans and not options.mask_only:
            rgb = clean_colours(rgb, maps[1])
        own = None if photo.alpha is None else photo.alpha[part.rows, part.columns]
        scene = Scene(photo.rgb, part, rgb, _on_own(alpha, own), None, work.behind)
        composed = compose(scene, options, place.sizes, download, subject.box)
        pixels = download(composed.pixels)
        place.clock.lap("edges")
    return _Picture(composed, pixels)


def _on_own(alpha: Tensor, own: Tensor | None) -> Tensor:
    """Return an alpha, uint8 [h,w], that is no more opaque than the photo itself."""
    return alpha if own is None else to_levels(alpha.float() * own / 255**2)


def _around(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that has all of these in it."""
    edges = np.array([(one.left, one.top, one.right, one.bottom) for one in boxes])
    left, top = edges[:, :2].min(0).tolist()
    right, bottom = edges[:, 2:].max(0).tolist()
    return Box(left, top, right - left, bottom - top)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
