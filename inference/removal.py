"""The removal of one photo's background: from its bytes to the finished file, in the calling thread."""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from cutout.inference.backends.cuda import download, errors_translated, upload
from cutout.inference.composition import Composed, Scene, compose, largest_result
from cutout.inference.cutout import Cutout
from cutout.inference.imaging import decode, encode, strokes
from cutout.inference.imaging.backgrounds import BlurredPhoto, Gradient, Picture
from cutout.inference.imaging.decode import Photo, Size
from cutout.inference.imaging.geometry import Box, place, shrunk
from cutout.inference.imaging.hints import NO_HINTS, Marks
from cutout.inference.limits import SizeLimits, pixels_of
from cutout.inference.loaded import Loaded, load
from cutout.inference.masked_photo import AnySource, Maker, MaskedPhoto
from cutout.inference.matting import cast_shadow
from cutout.inference.matting.parts import ground_of
from cutout.inference.matting.pipeline import Look, Matte, Seen, cut_out, see
from cutout.inference.options import Options
from cutout.inference.prepared_background import prepared_background, size_of
from cutout.inference.recently_seen import RecentlySeen
from cutout.inference.recording import Recorder, Replay
from cutout.inference.request import Request
from cutout.inference.review import needs_review
from cutout.inference.scheduling.stage_timer import StageTimer
from cutout.inference.tiers import TIERS

ONE_PIXEL = Box(0, 0, 1, 1)
# In a tier with a limit, a margin may make the result so many times as large.
MOST_OF_A_MARGIN = 4
NO_SHADOW = "No shadow was kept: the photo shows none on a plain ground around the subject."


@dataclass(frozen=True)
class Workplace:
    """Where and how a photo is worked on.

    `hold` waits until so many pixels fit into memory; `on_device` is the context in which operations are queued; `look_in`
    runs the network (see `pipeline.Look`) and measures its time. `request` is what is worked on; so many frames of an
    animation are worked on `at_once`.
    """

    device: torch.device
    sizes: SizeLimits
    hold: Callable[[int], None]
    on_device: Callable[[], AbstractContextManager[None]]
    # The network's input is in its closure.
    look_in: Callable[[Tensor, StageTimer], Tensor | None] = field(repr=False)
    clock: StageTimer
    # Where what is seen of a photo with masks is kept for its next refinement, if anywhere.
    recent: RecentlySeen | None
    request: Request
    at_once: int = 1

    @property
    def look(self) -> Look:
        """Runs the network, and measures its time with the workplace's clock."""
        return lambda rgb: self.look_in(rgb, self.clock)


@dataclass(frozen=True)
class _Given:
    """What a removal begins with: the bytes of a photo, what looks at it, and whose masks these are.

    `known_as` is the id of the photo with its masks, if they are to be kept, or were. `mask_shape` is that of its first mask,
    `most_pixels` how large a view of it is.
    """

    data: bytes = field(repr=False)
    maker: Maker
    look: Look = field(repr=False)
    known_as: str | None = None
    recorder: Recorder | None = field(default=None, repr=False)
    most_pixels: int | None = None
    mask_shape: tuple[int, ...] | None = None

    def masked(self) -> MaskedPhoto | None:
        """Return the photo with its masks, if those are to be kept."""
        kept = self.recorder
        return None if kept is None else MaskedPhoto(self.data, kept.runs(), self.maker, kept.id)


def remove_photo(
    source: AnySource, options: Options, maker: Maker, at: Workplace, *, keep_masks: bool = False
) -> Cutout:
    """Decode a photo, cut its subject out, compose the result and encode it. Of an animation, the first frame is the photo.

    `maker` is what runs at the workplace. For a photo with masks, or a view of one, it does not run, and those are used. With
    `keep_masks` the result of a photo has the photo with its masks.

    Raises:
        MasksUnusable: the photo's masks do not fit the options.
        InvalidPhoto, InvalidOptions: the photo or an option cannot be used.
        NoSubject: there is no subject, and the options require one.
        CutoutError: the network failed, or the memory is full.

    """
    options, results = _within_tier(options, at.sizes)
    in_full, given = options.layout.max_pixels, _given(source, maker, at, keep_masks)
    if given.most_pixels is not None:
        options = replace(options, layout=options.layout.within(given.most_pixels))
    hold = hold_for(options, at, results)
    copy = _known_copy(given, options, hold, at)
    picture = copy or decode.decode(given.data, at.sizes, hold, keep_profile=options.keep_profile)
    options, picture_behind = prepared_background(options, picture.profile, at.sizes)
    marks = marks_on(options, picture, at.sizes)
    with errors_translated(), at.on_device():
        photo = copy or _loaded(given, picture, options, marks, in_full, at)
        at.clock.lap("decode")
        smaller = photo.smaller(in_full)
        if options.layout.canvas is None:  # what is given in pixels becomes smaller as well
            margin = options.layout.margin.scaled(1 / smaller)
            options = replace(options, layout=replace(options.layout, margin=margin))
        shown_behind = None if picture_behind is None else upload(picture_behind, at.device)
        see_in = partial(_see, options, given, smaller, at)
        scene = _scene(photo, marks, options, see_in, shown_behind)
        composed = compose(scene, options, results, download)
        pixels = download(composed.pixels)
        masked = given.masked()
    at.clock.lap("edges")
    file_format = encode.resolve(options.format, pixels)
    encoded = encode.encode(pixels, file_format, options.quality, picture.dpi, picture.profile)
    at.clock.lap("encode")
    return Cutout(
        data=encoded,
        format=file_format,
        width=pixels.shape[1],
        height=pixels.shape[0],
        no_foreground=composed.subject is None,
        tier=options.tier,
        checkpoint=given.maker.checkpoint,
        substitute=given.maker.substitute,
        backend=given.maker.backend,
        subject=composed.subject,
        coverage=round(composed.coverage, 4),
        uncertainty=round(composed.uncertainty, 4),
        needs_review=needs_review(composed.subject is None, composed.of_photo, composed.uncertainty),
        notes=picture.notes + _notes_of(composed, scene, options),
        masked=masked,
        seconds=at.clock.seconds,
        laps=tuple(at.clock.laps),
    )


def _notes_of(composed: Composed, scene: Scene, options: Options) -> tuple[str, ...]:
    """Return what the user should know about the result."""
    lacks_shadow = options.keep_shadow and composed.subject is not None and scene.cast is None
    return (NO_SHADOW,) if lacks_shadow else ()


def _within_tier(options: Options, sizes: SizeLimits) -> tuple[Options, SizeLimits]:
    """Return the options with a layout that the tier allows, and the limits of the result."""
    most = TIERS[options.tier].most_pixels
    if most is None:
        return options, sizes
    limits = replace(sizes, pixels=min(sizes.pixels, MOST_OF_A_MARGIN * most))
    return replace(options, layout=options.layout.within(most)), limits


def hold_for(options: Options, at: Workplace, results: SizeLimits) -> Callable[[Size], None]:
    """Return what waits until there is memory for a photo of a size, for its result, and for the pictures of its options.

    `results` limits the result.
    """
    layout, more = options.layout, 0
    if isinstance(options.background, Picture):
        more = size_of(options.background, at.sizes).pixels
    for mask, name in _masks(options):
        more += strokes.size_of(mask, name, at.sizes).pixels

    def hold(size: Size) -> None:
        # What no result of this photo could be is refused before any work on it.
        width, height = size.width, size.height
        if layout.max_pixels is not None:
            width, height = shrunk(width, height, layout.max_pixels)
        least = place(ONE_PIXEL, width, height, layout)
        results.check_result(least.width, least.height)
        if layout.max_pixels is None:
            encode.check_size(options.format, least.width, least.height)
        largest = largest_result(width, height, layout)
        result = min(pixels_of(largest.width, largest.height), results.pixels)
        pixels = size.pixels + more
        if layout.moves:
            pixels += result
        # They are drawn as floats.
        if options.shadow or options.keep_shadow or isinstance(options.background, BlurredPhoto | Gradient):
            pixels += result // 2
        at.hold(pixels)

    return hold


def _given(source: AnySource, maker: Maker, at: Workplace, keep_masks: bool) -> _Given:
    if isinstance(source, bytes):
        recorder = Recorder(at.look) if keep_masks else None
        if recorder is None:
            return _Given(source, maker, at.look)
        return _Given(source, maker, recorder.look, recorder.id, recorder)
    if isinstance(source, MaskedPhoto):
        return _Given(source.photo, source.maker, Replay(source, at.device).look, source.id)
    masks = source.photo
    levels = masks.runs[0].levels if masks.runs else None
    return _Given(
        masks.photo,
        masks.maker,
        Replay(masks, at.device, scaled=True).look,
        masks.id,
        most_pixels=source.most_pixels,
        mask_shape=None if levels is None else levels.shape,
    )


def _key_of_copy(given: _Given, options: Options) -> Hashable:
    layout = options.layout
    return given.known_as, layout.max_pixels, layout.region, options.hints.box, options.keep_profile


def _known_copy(
    given: _Given, options: Options, hold: Callable[[Size], None], at: Workplace
) -> Loaded | None:
    """Return the small copy of a photo that was made for a view before, once there is memory for the work on it."""
    if given.most_pixels is None or at.recent is None:
        return None
    known = at.recent.copy(_key_of_copy(given, options))
    if known is not None:
        height, width = known.rgb.shape[:2]
        hold(Size(width, height, pixels_of(width, height)))
    return known


def _loaded(
    given: _Given, picture: Photo | Loaded, options: Options, marks: Marks, in_full: int | None, at: Workplace
) -> Loaded:
    """Return a photo on the device; for a view a small copy, which is kept for the next one."""
    assert isinstance(picture, Photo)
    photo = load(picture, in_full, at.device)
    if given.most_pixels is None:
        return photo
    part = photo.marks(marks).view
    ground = ground_of(photo.rgb[part.rows, part.columns], given.mask_shape)
    small = photo.scaled_down(options.layout.max_pixels, ground)
    if at.recent is not None:
        at.recent.put(_key_of_copy(given, options), small)
    return small


def _masks(options: Options) -> list[tuple[Picture, str]]:
    """Return the pictures of strokes, and what messages call them."""
    both = (options.hints.keep_mask, strokes.KEEP), (options.hints.drop_mask, strokes.DROP)
    return [(mask, name) for mask, name in both if mask is not None]


def marks_on(options: Options, picture: Photo | Loaded, sizes: SizeLimits) -> Marks:
    """Return the hints for this photo, and the part of it that is searched.

    Raises:
        InvalidOptions: the region or a hint is beyond the photo, a picture of strokes cannot be read, or they contradict
            each other.

    """
    region, width, height = options.layout.region, picture.width, picture.height
    part = Box(0, 0, width, height) if region is None else region.box(width, height)
    drawn = {name: strokes.read(mask, name, sizes) for mask, name in _masks(options)}
    return options.hints.on(width, height, part, drawn.get(strokes.KEEP), drawn.get(strokes.DROP))


def _scene(
    loaded: Loaded,
    marks: Marks,
    options: Options,
    see_in: Callable[[Tensor], Seen],
    behind: Tensor | None,
) -> Scene:
    """Cut the subject that is meant out of a photo for a result with the picture `behind`."""
    cut, part = cut_subject(loaded, marks, options, see_in, colours=not options.mask_only)
    cast = _cast_shadow(loaded.rgb, loaded.alpha, cut.alpha, part) if options.keep_shadow else None
    return Scene(loaded.rgb, part, cut.rgb, cut.alpha, cut.uncertainty, behind, cast)


def cut_subject(
    loaded: Loaded, marks: Marks, options: Options, see_in: Callable[[Tensor], Seen], *, colours: bool
) -> tuple[Matte, Box]:
    """Cut the subject that is meant out of a photo. Return its matte, and the part of the photo that this covers.

    Without `colours` only the alpha is computed.
    """
    photo, own_alpha, marks = loaded.rgb, loaded.alpha, loaded.marks(marks)
    view = marks.view
    shown = photo[view.rows, view.columns].contiguous()
    cut = cut_out(
        shown,
        None if own_alpha is None else own_alpha[view.rows, view.columns],
        TIERS[options.tier].recipe,
        see_in(shown),
        colours=colours,
        aim=None
        if replace(options.hints, within=None) == NO_HINTS
        else marks.aim(photo.shape[1], photo.shape[0]),
        ground=loaded.ground,
    )
    part = view
    if marks.box is not None:  # the network saw more than may be in the result
        part = marks.box
        cut = cut.part(Box(part.left - view.left, part.top - view.top, part.width, part.height))
    if marks.within is not None:
        cut = replace(cut, alpha=_only_within(cut.alpha, part, marks.within))
    return cut, part


def _only_within(alpha: Tensor, part: Box, within: Box) -> Tensor:
    """Return the alpha, uint8 [h,w], of a part of a photo, 0 outside of a box of the photo."""
    rows, columns = (
        slice(max(0, first - start), max(0, last - start))
        for first, last, start in (
            (within.top, within.bottom, part.top),
            (within.left, within.right, part.left),
        )
    )
    inner = torch.zeros_like(alpha)
    inner[rows, columns] = alpha[rows, columns]
    return inner


def _cast_shadow(photo: Tensor, own_alpha: Tensor | None, alpha: Tensor, part: Box) -> Tensor | None:
    """Return the opacity of the shadow in a photo of the subject with this alpha, uint8 [h,w], in a part of it."""
    if alpha.shape != photo.shape[:2]:
        inner, alpha = alpha, photo.new_zeros(photo.shape[:2])
        alpha[part.rows, part.columns] = inner
    return cast_shadow.find(photo, alpha, own_alpha)


def _see(options: Options, given: _Given, smaller: float, at: Workplace, rgb: Tensor) -> Seen:
    """Return what the network sees in a photo or in the part of it that is searched; at once, if that is still known.

    The photo is in a size that is so many times smaller than the one in which its result is made.
    """
    recipe, known_as, look = TIERS[options.tier].recipe, given.known_as, given.look
    if known_as is None or at.recent is None:
        return see(rgb, recipe, look, smaller)
    layout = options.layout
    key = known_as, recipe, layout.region, layout.max_pixels, options.hints.box, options.keep_profile, smaller
    seen = at.recent.get(key)
    if seen is None:
        seen = see(rgb, recipe, look, smaller)
        at.recent.put(key, seen)
    return seen
