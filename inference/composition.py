"""Composition of a result: the subject on its canvas, a shadow under it, and a background behind it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutout.inference.errors import NoSubject
from cutout.inference.imaging import backdrops, compositing
from cutout.inference.imaging.backgrounds import Background, BlurredPhoto, Gradient, Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Box, Layout, Placement, place
from cutout.inference.imaging.placing import box_of, lay_down, lines_of
from cutout.inference.imaging.shadow import cast_shadow_on, soft_shadow
from cutout.inference.imaging.types import Colour
from cutout.inference.limits import SizeLimits
from cutout.inference.options import Options

WHITE = (255, 255, 255)
NO_SUBJECT = "No subject was found in this photo. Try another photo, or another region of it."
# Copies a small tensor to the host.
Fetch = Callable[[Tensor], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Scene:
    """What a result is composed of.

    `photo`, uint8 [H,W,3], is the whole photo; `part` is the box of it that was searched, `rgb`, uint8 [h,w,3], and
    `alpha`, uint8 [h,w], the subject's colours and alpha there. `picture`, uint8 [h,w,3], is the picture behind, if the
    background is one. `uncertainty`, float32 [1], is the share that the network was undecided about, None without a mask.
    `cast`, float32 [1,1,r,c] of 0…1 over the whole photo, is the opacity of the shadow that the subject casts in it, if that
    is wanted and was found.
    """

    photo: Tensor = field(repr=False)
    part: Box
    rgb: Tensor = field(repr=False)
    alpha: Tensor = field(repr=False)
    uncertainty: Tensor | None = field(default=None, repr=False)
    picture: Tensor | None = field(default=None, repr=False)
    cast: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Composed:
    """A composed result: alpha, uint8 [H,W], RGB, uint8 [H,W,3], or RGBA, uint8 [H,W,4].

    `subject` is the subject's box in it. `coverage` is the share of it that the subject takes, `of_photo` that of the
    photo. `uncertainty` is the scene's.
    """

    pixels: Tensor = field(repr=False)
    subject: Box | None
    coverage: float
    of_photo: float
    uncertainty: float


def compose(
    scene: Scene, options: Options, sizes: SizeLimits, fetch: Fetch, together: Box | None = None
) -> Composed:
    """Lay the subject out as the options ask, with shadow and background; one that is too small for them is none.

    `together` is the box of the subject in all frames of an animation: it is laid out as if it were that of this one.

    Raises:
        ResultTooLarge: the result would have more pixels than `sizes` allows.
        NoSubject: there is no subject, and the options require one.

    """
    height, width = scene.photo.shape[:2]
    unsure = scene.alpha.new_zeros(1, dtype=torch.float32) if scene.uncertainty is None else scene.uncertainty
    # In one copy, since each makes the host wait for the device.
    facts = fetch(torch.cat([unsure, lines_of(scene.alpha)]))
    uncertainty, lines = float(facts[0]), facts[1:]
    found = box_of(lines, scene.alpha.shape[0])
    covered = float(lines[: scene.alpha.shape[0]].sum(dtype=np.float64)) / 255
    if together is not None:
        found = together
    elif found is not None and covered < options.hints.min_coverage * scene.alpha.numel():
        scene = replace(scene, alpha=torch.zeros_like(scene.alpha))
        found, covered = None, 0.0
    if found is None and options.require_subject:
        raise NoSubject(NO_SUBJECT)
    of_photo = covered / (width * height)

    layout, part = options.layout, scene.part
    placement = _placement(found, part, width, height, layout)
    sizes.check_result(placement.width, placement.height)
    rgb, alpha, subject = scene.rgb, scene.alpha, found
    if found is not None and (layout.moves or part != Box(0, 0, width, height)):
        subject = placement.subject
        rgb, alpha = lay_down(rgb, alpha, found, placement)
        covered *= subject.width * subject.height / (found.width * found.height)
    elif alpha.shape != (placement.height, placement.width):
        rgb = rgb.new_zeros(placement.height, placement.width, 3)
        alpha = alpha.new_zeros(placement.height, placement.width)
    coverage = min(1.0, covered / (placement.width * placement.height))
    under = _shadow(scene, alpha, found, placement, options)
    pixels = _finished(scene, rgb, alpha, under, options)
    return Composed(pixels, subject, coverage, of_photo, uncertainty)


def largest_result(width: int, height: int, layout: Layout) -> Placement:
    """Return the largest canvas that the result of a photo of this size may have."""
    return place(Box(0, 0, width, height), width, height, layout)


def _placement(subject: Box | None, part: Box, width: int, height: int, layout: Layout) -> Placement:
    if subject is None:
        canvas_width, canvas_height = layout.canvas or (width, height)
        return Placement(canvas_width, canvas_height, Box(0, 0, canvas_width, canvas_height))
    in_photo = Box(part.left + subject.left, part.top + subject.top, subject.width, subject.height)
    return place(in_photo, width, height, layout)


def _shadow(
    scene: Scene, alpha: Tensor, found: Box | None, placement: Placement, options: Options
) -> Tensor | None:
    """Return the opacity of the shadow under the subject, float32 [H,W], if there is one."""
    if found is None:
        return None
    if scene.cast is not None:
        in_photo = Box(scene.part.left + found.left, scene.part.top + found.top, found.width, found.height)
        height, width = scene.photo.shape[:2]
        return cast_shadow_on(placement, scene.cast, height, width, in_photo)
    return soft_shadow(alpha, placement.subject, options.shadow) if options.shadow else None


def _finished(scene: Scene, rgb: Tensor, alpha: Tensor, under: Tensor | None, options: Options) -> Tensor:
    if options.mask_only:
        return alpha
    height, width = alpha.shape
    if under is not None:
        rgb, alpha = compositing.on_layer(rgb, alpha, (0, 0, 0), under)
    background = options.background
    if options.format is Format.ZIP or (background is None and options.format.has_alpha):
        return compositing.transparent(rgb, alpha)
    if isinstance(background, tuple) and len(background) == 4:
        rgb, alpha = compositing.on_layer(rgb, alpha, background, background[3] / 255)
        if options.format.has_alpha:
            return compositing.transparent(rgb, alpha)
        background = None
    return compositing.on_background(rgb, alpha, _behind(scene, background or WHITE, height, width))


def _behind(scene: Scene, background: Background, height: int, width: int) -> Tensor | Colour:
    match background:
        case Gradient():
            return backdrops.gradient(background, height, width, scene.photo.device)
        case BlurredPhoto():
            alpha = scene.alpha
            if alpha.shape != scene.photo.shape[:2]:
                alpha = alpha.new_zeros(scene.photo.shape[:2])
                alpha[scene.part.rows, scene.part.columns] = scene.alpha
            return backdrops.blurred(scene.photo, alpha, background, height, width)
        case Picture():
            assert scene.picture is not None
            return backdrops.cover(scene.picture, height, width)
    return background
