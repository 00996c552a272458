"""Error measures of a cut-out, smaller is better; and S-measure and weighted F."""

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.quality import contours
from benchmarks.quality.layers import Bytes, Floats, Scene

GRADIENT_SIGMA = 1.4  # as in Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting"
GROUNDS = np.array([(0, 0, 0), (1, 1, 1), (0, 1, 0)], np.float32)  # black, white, green
SALIENCY_SIDE = 512  # S-measure and weighted F rate the whole shape and are slow, so they run at this size


@dataclass(frozen=True)
class Error:
    """Errors of a cut-out. In thousandths of the full range, unless it says otherwise; smaller is better.

    Over the whole image: `mae` is the mean error of alpha; `sad` is its sum, in thousands of pixels; `connectivity`
    (`contours.py`) is a sum in thousands of pixels as well.

    At the edge, that is where the true alpha is mixed or within about a pixel of a 1,024-pixel mask of that: `edge` is
    the mean error of alpha, `gradient` that of its slope, `composite` that of the picture on black, white and green.
    `colour` is the error of the colours where the true alpha lies between 5 and 95 %, 0 if it does nowhere.

    In a wider band around the edge (`contours.py`): `roughness` is the length of the result's contour over that of the
    truth's, best at 1; `fringe` is the same for the contours at 10 and 90 %; `islands` and `holes` are numbers per 1,000
    pixels of the true contour.
    """

    mae: float
    sad: float
    edge: float
    gradient: float
    connectivity: float
    composite: float
    colour: float
    roughness: float
    fringe: float
    islands: float
    holes: float


def measure(scene: Scene, rgb: Bytes, alpha: Bytes) -> Error:
    """Compare a cut-out, `rgb` uint8 [H,W,3] and `alpha` uint8 [H,W], with the scene's ground truth."""
    found = alpha.astype(np.float32) / 255
    edge = edge_of(scene.alpha)
    difference = np.abs(found - scene.alpha)
    slope = np.abs(_slope(found) - _slope(scene.alpha))[edge]

    mixed = (scene.alpha > 0.05) & (scene.alpha < 0.95)
    colours = (
        np.abs(rgb[mixed].astype(np.float32) - scene.foreground[mixed]) / 255 if mixed.any() else np.zeros(1)
    )
    contour = contours.compare(found, scene.alpha)
    return Error(
        mae=1000 * float(difference.mean()),
        sad=float(difference.sum()) / 1000,
        edge=1000 * float(difference[edge].mean()),
        gradient=1000 * float(slope.mean()),
        connectivity=contours.connectivity(found, scene.alpha) / 1000,
        composite=_composite(scene, rgb, found, edge),
        colour=1000 * float(colours.mean()),
        roughness=contour.roughness,
        fringe=contour.fringe,
        islands=contour.islands,
        holes=contour.holes,
    )


def composite(scene: Scene, rgb: Bytes, alpha: Bytes) -> float:
    """Return only the error of the picture, as in `Error`."""
    return _composite(scene, rgb, alpha.astype(np.float32) / 255, edge_of(scene.alpha))


def mean(errors: list[Error]) -> Error:
    """Average each measure."""
    return Error(*(float(np.mean([getattr(one, part.name) for one in errors])) for part in fields(Error)))


def saliency(scene: Scene, alpha: Bytes) -> tuple[float, float]:
    """Return S-measure and weighted F, both 0…1; larger is better."""
    from py_sod_metrics import Smeasure, WeightedFmeasure

    scale = SALIENCY_SIDE / max(alpha.shape)
    size = (round(alpha.shape[1] * scale), round(alpha.shape[0] * scale))
    found = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    true = (cv2.resize(scene.alpha, size, interpolation=cv2.INTER_AREA) > 0.5).astype(np.uint8) * 255
    structure, weighted = Smeasure(), WeightedFmeasure()
    for one in (structure, weighted):
        one.step(pred=found, gt=true)
    return float(structure.get_results()["sm"]), float(weighted.get_results()["wfm"])


def overlap(scene: Scene, mask: Floats) -> float:
    """Return the intersection over union of a mask, [h,w] of 0…1, with the ground truth."""
    true = cv2.resize(scene.alpha, mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    found = mask > 0.5
    return float((true & found).sum() / max(1, (true | found).sum()))


def _composite(scene: Scene, rgb: Bytes, found: Floats, edge: npt.NDArray[np.bool_]) -> float:
    opacity, true_opacity = found[edge][:, None], scene.alpha[edge][:, None]
    flat = opacity * (rgb[edge] / np.float32(255)) - true_opacity * (scene.foreground[edge] / np.float32(255))
    return 1000 * float(np.mean([np.abs(flat + (true_opacity - opacity) * one).mean() for one in GROUNDS]))


def edge_of(alpha: Floats) -> npt.NDArray[np.bool_]:
    """Return the edge, bool [H,W], in which `Error` compares: see there."""
    # An alpha of 0 and 1 alone has no mixed pixels, but an edge.
    opaque = (alpha > 0.5).astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    crossing = cv2.dilate(opaque, cross) != cv2.erode(opaque, cross)
    mixed = (((alpha > 0.02) & (alpha < 0.98)) | crossing).astype(np.uint8)
    side = 2 * max(1, round(max(alpha.shape) / 1024 * 1.5)) + 1
    return cv2.dilate(mixed, np.ones((side, side), np.uint8)) > 0


def _slope(alpha: Floats) -> Floats:
    radius = round(3 * GRADIENT_SIGMA)
    axis = np.arange(-radius, radius + 1)
    smooth = np.exp(-(axis**2) / (2 * GRADIENT_SIGMA**2))
    smooth /= smooth.sum()
    derive = -axis * smooth / GRADIENT_SIGMA**2
    across = cv2.sepFilter2D(alpha, -1, derive, smooth)
    down = cv2.sepFilter2D(alpha, -1, smooth, derive)
    return np.hypot(across, down)
