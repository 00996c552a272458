"""Methods of other libraries for refining a mask and its colours."""

import cv2
import numpy as np

from benchmarks.quality.layers import Bytes, Floats


def blur_fusion(rgb: Bytes, alpha: Bytes) -> Bytes:
    """Estimate foreground colours by two passes of blur fusion, with windows of 90 and 6 pixels, as published.

    Method: Forte, "Approximate Fast Foreground Colour Estimation", 2021.
    """
    photo: Floats = rgb.astype(np.float32) / 255
    opacity: Floats = alpha.astype(np.float32) / 255
    foreground = background = photo
    for window in (90, 6):
        foreground, background = _fuse(photo, foreground, background, opacity, window)
    return np.rint(foreground * 255).astype(np.uint8)


def multilevel(rgb: Bytes, alpha: Bytes) -> Bytes:
    """Estimate foreground colours with pymatting's default method, which rembg's alpha matting also uses."""
    from pymatting import estimate_foreground_ml

    foreground = estimate_foreground_ml(rgb / 255, alpha / 255)
    return np.rint(np.clip(foreground, 0, 1) * 255).astype(np.uint8)


def guided_filter(rgb: Bytes, alpha: Bytes) -> Bytes:
    """Filter the enlarged mask with the photo as guide; the radius is four pixels of a 1,024-pixel mask."""
    radius = round(max(alpha.shape) / 1024 * 4)
    filtered = cv2.ximgproc.guidedFilter(
        rgb.astype(np.float32) / 255, alpha.astype(np.float32) / 255, radius, 1e-4
    )
    return np.rint(np.clip(filtered, 0, 1) * 255).astype(np.uint8)


def _fuse(
    photo: Floats, foreground: Floats, background: Floats, opacity: Floats, window: int
) -> tuple[Floats, Floats]:
    size = (window, window)
    opaque, clear = opacity[..., None], 1 - opacity[..., None]
    near = cv2.blur(foreground * opaque, size) / (cv2.blur(opacity, size)[..., None] + 1e-5)
    far = cv2.blur(background * clear, size) / (1 - cv2.blur(opacity, size)[..., None] + 1e-5)
    return np.clip(near + opaque * (photo - opaque * near - clear * far), 0, 1), far
