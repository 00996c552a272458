"""Types that the scenes and the measures share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """`photo` is a JPEG; `alpha` float32 [H,W] of 0…1; `foreground` uint8 [H,W,3], the true colours of the subject.

    Where `alpha` is 0, the value of `foreground` is undefined.
    """

    name: str
    kind: str
    photo: bytes
    alpha: Floats
    foreground: Bytes


@dataclass(frozen=True)
class Layer:
    """A subject without background: `colour` float32 [H,W,3] of 0…255, premultiplied by `alpha`.

    `alpha` is float32 [H,W] of 0…1.
    """

    colour: Floats
    alpha: Floats


def levels(values: Floats) -> Bytes:
    """Round to uint8 levels of 0…255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def random_colour(rng: np.random.Generator, low: Colour, high: Colour) -> Colour:
    """Return a colour between two others, the second excluded."""
    red, green, blue = (int(value) for value in rng.integers(low, high))
    return red, green, blue
