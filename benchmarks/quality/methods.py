"""Methods that turn a photo and a mask into a cut-out: those of the tiers, of other libraries, and ablations."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import cv2
import torch
from torch import Tensor

from benchmarks.quality import peers
from benchmarks.quality.layers import Bytes, Floats, Scene
from cutout.inference.matting import colour_lines, refinement
from cutout.inference.matting.mask import enlarge, to_levels

# A photo, uint8 [H,W,3], and its mask → colours, uint8 [H,W,3], and alpha, uint8 [H,W].
Method = Callable[[Bytes, Tensor], tuple[Bytes, Bytes]]


def ideal_mask(scene: Scene, side: int = 1024) -> Tensor:
    """Return the scene's true alpha as a mask, float32 [1,1,side,side], as soft as a good network's output."""
    return softened(scene.alpha, side)


def softened(alpha: Floats, side: int = 1024) -> Tensor:
    """Return an alpha, [H,W] of 0…1, as a mask, float32 [1,1,side,side], blurred by a pixel."""
    method = cv2.INTER_AREA if min(alpha.shape) >= side else cv2.INTER_LINEAR
    small = cv2.resize(alpha, (side, side), interpolation=method)
    return torch.from_numpy(cv2.GaussianBlur(small, (0, 0), 1.0))[None, None]


def _enlarged(rgb: Bytes, mask: Tensor) -> Bytes:
    return to_levels(enlarge(mask, *rgb.shape[:2])).numpy()


def _cleaned(rgb: Bytes, alpha: Bytes) -> tuple[Bytes, Bytes]:
    return refinement.clean_colours(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy(), alpha


def _with_colours(estimate: Callable[[Bytes, Bytes], Bytes]) -> Method:
    def method(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
        alpha = _enlarged(rgb, mask)
        return estimate(rgb, alpha), alpha

    return method


def _basic(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return rgb, _enlarged(rgb, mask)


def _standard(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return _cleaned(rgb, _enlarged(rgb, mask))


def _professional(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    photo = torch.from_numpy(rgb)
    alpha, coverage = refinement.refine(photo, mask)
    return refinement.clean_colours(photo, coverage).numpy(), to_levels(alpha).numpy()


def _guided(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return _cleaned(rgb, peers.guided_filter(rgb, _enlarged(rgb, mask)))


def _but(method: Method, **settings: Any) -> Method:
    """Return the method with some constants of `refinement` and `colour_lines` replaced."""

    def changed(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
        with ExitStack() as stack:
            for name, value in settings.items():
                module = colour_lines if hasattr(colour_lines, name) else refinement
                stack.enter_context(mock.patch.object(module, name, value))
            return method(rgb, mask)

    return changed


# Methods named "tried" belong to no tier; they are ablations that show what each part contributes.
METHODS: dict[str, Method] = {
    "raw (basic)": _basic,
    "blur fusion": _with_colours(peers.blur_fusion),
    "pymatting": _with_colours(peers.multilevel),
    "guided filter + clean": _guided,
    "standard": _standard,
    "professional": _professional,
    "tried: colours at 1024": _but(_standard, COLOUR_SIDE=1024),
    "tried: colours, no stiffness": _but(_standard, COLOUR_STIFFNESS=0.01),
    "tried: lines, unequal softness": _but(_professional, MASK_BLUR=0.2),
    "tried: lines, narrow windows": _but(_professional, WINDOWS=(2,)),
    "tried: lines, wide windows": _but(_professional, WINDOWS=(8,)),
    "tried: lines, noise not weighed": _but(_professional, NOISE_FACTOR=0.0, TOLERANCE=0.0),
}
