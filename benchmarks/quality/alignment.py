"""How far an alpha lies beside the edge that the photo shows."""

import cv2
import numpy as np
from skimage.measure import find_contours

from benchmarks.quality.layers import Bytes, Floats

REACH = 6.0  # pixels to both sides of the contour
STEP = 0.25
POINTS = 4000  # of the contour, at most


def offset(rgb: Bytes, alpha: Floats) -> float:
    """Return the median distance between the contour at 50 % and the photo's strongest change near it, in pixels.

    `rgb` is uint8 [H,W,3]; `alpha` is [H,W] of 0…1. The change is sought along the contour's normal, up to REACH pixels
    away. An alpha without contour has an offset of 0.
    """
    lines = find_contours(alpha, 0.5)
    if not lines:
        return 0.0
    points = np.concatenate(lines)
    points = points[:: max(1, len(points) // POINTS)]
    soft = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 2.0)
    row, column = points.T.astype(np.float32)
    slopes = [_at(cv2.Sobel(soft, cv2.CV_32F, *axis), row, column) for axis in ((0, 1), (1, 0))]
    down, right = slopes / np.maximum(np.hypot(*slopes), 1e-6)
    away = np.arange(-REACH, REACH + STEP, STEP, dtype=np.float32)
    photo = cv2.GaussianBlur(rgb, (0, 0), 0.7).astype(np.float32)
    sampled = _at(photo, row[:, None] + down[:, None] * away, column[:, None] + right[:, None] * away)
    # The change over one pixel.
    wide = round(1 / STEP)
    change = np.abs(sampled[:, wide:] - sampled[:, :-wide]).sum(2)
    middle = (away[wide:] + away[:-wide]) / 2
    return float(np.median(np.abs(middle[np.argmax(change, 1)])))


def _at(image: Floats, row: Floats, column: Floats) -> Floats:
    """Sample an image bilinearly."""
    sampled = cv2.remap(image, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(*row.shape, *image.shape[2:])
