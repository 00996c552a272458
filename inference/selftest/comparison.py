"""When two masks count as the same, and which masks cannot be right at all.

Differences are given in levels: 1/255 of the range of a mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cutout.inference.selftest.checklist import Failed

# The most that two masks of one network may differ on the mean, in levels, by the precision of the one that is tested.
# Measured on the CPU with stand-in weights, which amplify rounding more than trained ones: 0.1 in float16, 0.9 in
# bfloat16. Masks of a kernel that computes wrongly differ by ten levels and more.
MEAN_LEVELS = {"float32": 0.1, "float16": 1.0, "bfloat16": 4.0}
# A finished alpha is compared more strictly. It must not be off by more than FAR levels in more than this share of it.
FAR = 32
FAR_SHARE = {"float32": 0.002, "float16": 0.005, "bfloat16": 0.02}
# A mask whose values deviate less than this, in levels, shows nothing; and a comparison with it says little.
FLAT = 0.5
IOU = 0.7
USE_FLOAT32 = "Set CUTOUT_PRECISION=float32 and run the test again. If it fails again, reinstall torch and report it with the JSON file of this test."


@dataclass(frozen=True)
class Apart:
    """How far two masks are apart, in levels; `far` is the share of the pixels that are off by more than FAR."""

    mean: float
    most: float
    far: float

    def __str__(self) -> str:
        return f"{self.mean:.2g} levels on the mean, {self.most:.2g} at most"

    @property
    def figures(self) -> dict[str, float]:
        return {"mean_levels": self.mean, "max_levels": self.most, "share_far_off": self.far}


def apart(found: Tensor | npt.NDArray[np.uint8], expected: Tensor | npt.NDArray[np.uint8]) -> Apart:
    """Compare two masks: float tensors of 0…1, or arrays of uint8 levels, of one shape."""
    difference = np.abs(_levels(found) - _levels(expected))
    return Apart(float(difference.mean()), float(difference.max()), float((difference > FAR).mean()))


def require_sound(mask: Tensor) -> None:
    """Check that a network's mask, float of 0…1, is one at all.

    Raises:
        Failed: it contains NaN or infinite values, or values beyond 0…1, or is the same everywhere.

    """
    if not bool(mask.isfinite().all()):
        share = float((~mask.isfinite()).float().mean())
        raise Failed(f"{share:.0%} of the mask is not finite (NaN or infinite)", USE_FLOAT32)
    lowest, highest = float(mask.min()), float(mask.max())
    if lowest < 0 or highest > 1:
        raise Failed(f"the mask has values from {lowest:.3g} to {highest:.3g} instead of 0 to 1", USE_FLOAT32)
    if float(mask.std()) * 255 < FLAT:
        raise Failed(f"the mask is {lowest:.3g} everywhere, although the photo shows a cup", USE_FLOAT32)


def overlap(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    """Return the intersection over the union of two subjects: where alphas, uint8 [H,W], are at least half opaque."""
    a, b = found > 127, expected > 127
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def _levels(mask: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    if isinstance(mask, Tensor):
        return np.asarray(mask.detach().float().cpu().numpy() * 255, np.float32)
    return mask.astype(np.float32)
