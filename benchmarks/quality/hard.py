"""Hard subjects: products with a smooth edge whose inside has print, knitting or hardly any contrast, and thin wires.

Their alpha is exact (`coverage.py`). Each function draws for a photo of `height` × `width`; sizes are relative to the
smaller side.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.quality import outlines, prints
from benchmarks.quality.coverage import Points, coverage
from benchmarks.quality.layers import Floats, Layer, random_colour

# The sweep behind subjects that are as light or as dark as it, in levels of 255; the subject's edge differs from it by
# CONTRAST levels.
TONES = {"white-on-white": 246.0, "black-on-black": 16.0}
CONTRAST = (3, 20)


def bottle(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a glossy bottle or jar with a cap and a label around it."""
    body = _Body(rng, height, width)
    half = body.bottle(rng)
    alpha = body.alpha(half)
    u, share = body.across(half), body.share()
    colour = np.full((height, width, 3), random_colour(rng, (10, 10, 10), (250, 250, 250)), np.float32)
    cap = np.array(random_colour(rng, (10, 10, 10), (256, 256, 256)), np.float32)
    colour[share < rng.uniform(0.08, 0.2)] = cap
    first, last = rng.uniform(0.35, 0.5), rng.uniform(0.75, 0.95)
    paper = prints.label(rng, round((last - first) * body.tall), round(math.pi * body.wide))
    laid = prints.around(paper, u, (share - first) * body.tall)
    on_label = np.clip(np.minimum(share - first, last - share) * body.tall + 0.5, 0, 1)[..., None]
    colour = prints.lit(rng, colour + on_label * (laid - colour), u)
    return _layer(colour, alpha)


def label(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a can or a box whose print runs up to the edge everywhere."""
    if rng.random() < 0.5:
        return _box(rng, height, width)
    body = _Body(rng, height, width, upright=rng.uniform(0.9, 1.6))
    half = outlines.profile((0, body.wide * 0.9), (0.03, body.wide), (0.97, body.wide), (1, body.wide * 0.9))
    u = body.across(half)
    paper = prints.label(rng, round(body.tall * 1.1), round(math.pi * body.wide))
    laid = prints.around(paper, u, body.share() * body.tall)
    return _layer(prints.lit(rng, laid, u, gloss=rng.uniform(0, 0.6)), body.alpha(half))


def _box(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw two printed sides of a box, one of them darker, seen from a corner."""
    unit = min(height, width)
    wide, tall = unit * rng.uniform(0.35, 0.5), unit * rng.uniform(0.4, 0.65)
    deep, slope = wide * rng.uniform(0.2, 0.6), unit * rng.uniform(0.02, 0.08)
    left = (width - wide - deep) / 2 + rng.uniform(0, 1)
    top = (height - tall) / 2 + rng.uniform(0, 1)
    corner, end = left + wide, left + wide + deep
    front = [(left, top), (corner, top + slope), (corner, top + tall + slope), (left, top + tall)]
    side = [(corner, top + slope), (end, top), (end, top + tall), (corner, top + tall + slope)]
    colour = np.zeros((height, width, 3), np.float32)
    for face, share, light in ((front, wide, 1.0), (side, deep, rng.uniform(0.5, 0.85))):
        paper = prints.label(rng, round(tall), round(share))
        flat = np.array([(0, 0), (paper.shape[1], 0), paper.shape[1::-1], (0, paper.shape[0])], np.float32)
        # The print reaches a little beyond the outline, so that the edge's pixels have its colours and no others.
        matrix = cv2.getPerspectiveTransform(flat, np.array(face, np.float32))
        laid = cv2.warpPerspective(paper, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        chosen = np.arange(width)[None, :, None] >= corner if face is side else np.array(True)
        colour = np.where(chosen, laid * np.float32(light), colour)
    outline = np.array([front[0], front[1], side[1], side[2], side[3], front[3]], np.float64)
    return _layer(colour, coverage([outline], height, width))


def knit(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a knitted mitten, hat or sweater: small scallops along the edge, one for each stitch."""
    unit, centre = min(height, width), np.array([width / 2, height / 2]) + rng.uniform(0, 1, 2)
    stitch = max(5.0, unit * rng.uniform(0.005, 0.02))
    lean = rng.uniform(-0.2, 0.2)
    shape = rng.integers(3)
    if shape == 0:
        parts = [
            ((0, -0.02), 0.3, 0.62, 0.15, 0.0),
            ((0.19, 0.02), 0.12, 0.3, 0.06, 0.6),
            ((0, 0.3), 0.32, 0.16, 0.03, 0.0),
        ]
    elif shape == 1:
        parts = [((0, 0), 0.52, 0.5, 0.24, 0.0), ((0, 0.22), 0.56, 0.14, 0.04, 0.0)]
    else:
        parts = [
            ((0, 0), 0.4, 0.6, 0.06, 0.0),
            ((-0.24, 0.02), 0.14, 0.56, 0.05, 0.35),
            ((0.24, 0.02), 0.14, 0.56, 0.05, -0.35),
        ]
    outline = []
    for place, wide, tall, corner, turn in parts:
        part = outlines.rounded(unit * np.array(place), unit * wide, unit * tall, unit * corner, turn)
        outline.append(centre + outlines.rotated(part, lean))
    depth = stitch * rng.uniform(0.08, 0.25)
    alpha = coverage([outlines.scalloped(one, stitch, depth) for one in outline], height, width)
    texture = prints.knitting(rng, height, width, stitch)
    turned = cv2.getRotationMatrix2D((width / 2, height / 2), -math.degrees(lean), 1)
    texture = cv2.warpAffine(texture, turned, (width, height), borderMode=cv2.BORDER_REFLECT)
    inside = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    light = 0.75 + 0.25 * np.clip(inside / (unit * 0.06), 0, 1) ** 0.5
    return _layer(np.clip(texture * light[..., None], 0, 255), alpha)


def wire(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a wheel, a chair or a basket of bars that are 2 to 12 pixels wide in a photo of 3 megapixels."""
    unit, centre = min(height, width), np.array([width / 2, height / 2]) + rng.uniform(0, 1, 2)
    colour = np.array(random_colour(rng, (10, 10, 10), (90, 90, 90)), np.float32)
    if rng.random() < 0.4:
        colour = np.array(random_colour(rng, (100, 100, 100), (240, 240, 240)), np.float32)
    thin, thick = rng.uniform(2, 8) * unit / 1600, rng.uniform(5, 12) * unit / 1600
    draw = (_wheel, _chair, _basket)[rng.integers(3)]
    bars, holes = draw(rng, unit, thin, thick)
    alpha = coverage([centre + one for one in bars], height, width, [centre + one for one in holes])
    # Round bars have a bright line on the side of the light.
    lit_side = np.roll(alpha, (max(1, round(thin / 4)),) * 2, (0, 1))
    shine = np.clip(alpha - 0.8 * cv2.GaussianBlur(lit_side, (0, 0), max(0.5, thin / 4)), 0, 1)
    y = np.linspace(1.15, 0.8, height, dtype=np.float32)[:, None, None]
    field = colour * y + rng.uniform(60, 160) * shine[..., None]
    return _layer(np.clip(field, 0, 255), alpha)


def _wheel(
    rng: np.random.Generator, unit: int, thin: float, thick: float
) -> tuple[list[Points], list[Points]]:
    radius = unit * rng.uniform(0.3, 0.42)
    hub = unit * 0.025
    bars = [outlines.ellipse((0, 0), radius, radius), outlines.ellipse((0, 0), hub, hub)]
    holes = [outlines.ellipse((0, 0), radius - thick, radius - thick)]
    count = int(rng.integers(18, 37))
    for number in range(count):
        angle = 2 * math.pi * number / count
        skew = 0.9 if number % 2 else -0.9
        start = hub * np.array([math.cos(angle + skew), math.sin(angle + skew)])
        end = (radius - thick / 2) * np.array([math.cos(angle), math.sin(angle)])
        bars.append(outlines.bar(start, end, thin))
    return bars, holes


def _chair(
    rng: np.random.Generator, unit: int, thin: float, thick: float
) -> tuple[list[Points], list[Points]]:
    wide, tall = unit * rng.uniform(0.15, 0.22), unit * rng.uniform(0.34, 0.42)
    spread = unit * rng.uniform(0.02, 0.06)
    bars = [outlines.bar((side * wide, -tall), (side * (wide + spread), tall), thick) for side in (-1, 1)]
    bars += [outlines.bar((side * wide * 0.7, 0), (side * wide * 0.8, tall * 0.9), thick) for side in (-1, 1)]
    bars += [outlines.bar((-wide * 1.05, y), (wide * 1.05, y), thick) for y in (-tall * 0.95, 0, tall * 0.06)]
    for x in np.linspace(-wide, wide, int(rng.integers(7, 14)))[1:-1]:
        bars.append(outlines.bar((x, -tall * 0.95), (x, 0), thin))
    ring = wide * rng.uniform(0.3, 0.6)
    bars.append(outlines.ellipse((0, -tall * 0.5), ring, ring))
    return bars, [outlines.ellipse((0, -tall * 0.5), ring - thin, ring - thin)]


def _basket(
    rng: np.random.Generator, unit: int, thin: float, thick: float
) -> tuple[list[Points], list[Points]]:
    wide, tall, taper = unit * rng.uniform(0.28, 0.4), unit * rng.uniform(0.2, 0.3), rng.uniform(0.7, 1)
    bars = [outlines.bar((-wide, -tall), (wide, -tall), thick)]
    bars.append(outlines.bar((-wide * taper, tall), (wide * taper, tall), thick))
    shares = np.linspace(-1, 1, int(rng.integers(12, 24)))
    bars += [outlines.bar((share * wide, -tall), (share * wide * taper, tall), thin) for share in shares]
    for y in np.linspace(-tall, tall, int(rng.integers(4, 9)))[1:-1]:
        reach = wide * (1 - (1 - taper) * (y + tall) / (2 * tall))
        bars.append(outlines.bar((-reach, y), (reach, y), thin))
    handle = outlines.ellipse((0, -tall), wide * 0.6, wide * 0.5)
    hole = outlines.ellipse((0, -tall), wide * 0.6 - thick, wide * 0.5 - thick)
    upper = [one[one[:, 1] <= -tall] for one in (handle, hole)]
    return [*bars, upper[0]], [upper[1]]


def white_on_white(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a white mug or bottle whose edge is a few levels darker or lighter than the white sweep."""
    return _faint(rng, height, width, TONES["white-on-white"])


def black_on_black(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a black mug or bottle whose edge is a few levels lighter or darker than the black sweep."""
    return _faint(rng, height, width, TONES["black-on-black"])


def _faint(rng: np.random.Generator, height: int, width: int, tone: float) -> Layer:
    body = _Body(rng, height, width, upright=rng.uniform(1.0, 1.8))
    if rng.random() < 0.5:
        half, handle = body.bottle(rng), False
    else:
        half = outlines.profile((0, body.wide), (0.8, body.wide * 0.95), (1, body.wide * 0.8))
        handle = True
    alpha = body.alpha(half, handle)
    u, share = body.across(half), body.share()
    towards = -1 if tone > 128 else 1
    room = 255 - tone if towards < 0 else tone
    least, most = CONTRAST
    edge = tone + towards * (rng.uniform(least, most) if rng.random() < 0.8 else -rng.uniform(least, room))
    middle = edge - towards * rng.uniform(-25, 12)
    bend = np.clip(np.abs(u), 0, 1) ** rng.uniform(2, 6)
    tint = rng.uniform(-2, 2, 3)
    field = (middle + (edge - middle) * bend)[..., None].astype(np.float32) + tint - tint.mean()
    if rng.random() < 0.5:
        paper = prints.label(rng, round(body.tall * 0.3), round(math.pi * body.wide))
        # A faint print, like embossing.
        laid = prints.around(paper, u, (share - 0.4) * body.tall).mean(2) / 255 - 0.5
        field += (rng.uniform(4, 20) * laid * ((share > 0.4) & (share < 0.7)))[..., None]
    return _layer(np.clip(field, 0, 255), alpha)


class _Body:
    """An upright round body, slightly turned, in the middle of the photo."""

    def __init__(
        self, rng: np.random.Generator, height: int, width: int, upright: float | None = None
    ) -> None:
        unit = min(height, width)
        self._size = (height, width)
        self.tall = unit * rng.uniform(0.6, 0.8)
        self.wide = self.tall / 2 / (upright or rng.uniform(1.6, 3.2))
        self._sag = self.wide * rng.uniform(0.02, 0.12)
        self._angle = math.radians(rng.uniform(-3, 3))
        self._centre = np.array([width / 2, height / 2]) + rng.uniform(-0.04, 0.04, 2) * unit
        y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
        x, y = x - np.float32(self._centre[0]), y - np.float32(self._centre[1])
        cosine, sine = np.float32(math.cos(self._angle)), np.float32(math.sin(self._angle))
        self._x, self._y = cosine * x + sine * y, cosine * y - sine * x

    def bottle(self, rng: np.random.Generator) -> outlines.Profile:
        neck, shoulder = rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.4)
        wide = self.wide
        return outlines.profile(
            (0, wide * neck * 0.92),
            (0.01, wide * neck),
            (shoulder - 0.12, wide * neck),
            (shoulder, wide),
            (0.7, wide * rng.uniform(0.85, 1)),
            (0.97, wide),
            (1, wide * 0.94),
        )

    def share(self) -> Floats:
        """Return the share of the height, from the top, at every pixel."""
        return self._y / self.tall + 0.5

    def across(self, half: outlines.Profile) -> Floats:
        """Return the place across the body at every pixel, -1 to 1 within it."""
        steps = np.linspace(0, 1, 4096)
        return self._x / np.interp(np.clip(self.share(), 0, 1), steps, half(steps)).astype(np.float32)

    def alpha(self, half: outlines.Profile, handle: bool = False) -> Floats:
        shapes = [outlines.revolved(half, -self.tall / 2, self.tall / 2, self._sag)]
        holes = []
        if handle:
            place = (self.wide * 0.95, -self.tall * 0.02)
            shapes.append(outlines.ellipse(place, self.wide * 0.55, self.tall * 0.3))
            holes.append(outlines.ellipse(place, self.wide * 0.4, self.tall * 0.22))
        placed = [
            [self._centre + outlines.rotated(one, self._angle) for one in part] for part in (shapes, holes)
        ]
        return coverage(placed[0], *self._size, placed[1])


def _layer(colour: Floats, alpha: Floats) -> Layer:
    return Layer((colour * alpha[..., None]).astype(np.float32), alpha)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Layer]] = {
    "bottle": bottle,
    "label": label,
    "knit": knit,
    "wire": wire,
    "white-on-white": white_on_white,
    "black-on-black": black_on_black,
}
