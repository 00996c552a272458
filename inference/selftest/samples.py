"""The photo of the self-test, and the alpha that isnet-general gives it.

The photo, 1200×900, shows a cup on grass. It is put together from two photos that come with scikit-image and are CC0:
"coffee" by Pikolo Espresso Bar and Rachel Michetti, cut out, and "grass" by Linda Nijhoff, enlarged and blurred. The cup
takes a tenth of it, so that the second look has something to do.

The alphas were made with the published weights of isnet-general, in torch on a CPU in float32: `mask.png` by the recipes
that enlarge the mask, `refined.png` by those that refine it, where the second look changes nothing.
"""

import io
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from cutout.inference.imaging.decode import Pixels
from cutout.inference.tiers import Recipe

REFERENCE = "isnet-general"  # the checkpoint that made the alphas


@cache
def photo_file() -> bytes:
    """Return the photo as it came from a camera: a JPEG."""
    return _read("photo.jpg")


@cache
def photo() -> Pixels:
    """Return the photo's pixels, uint8 [H,W,3]."""
    return np.array(Image.open(io.BytesIO(photo_file())).convert("RGB"))


@cache
def alpha(recipe: Recipe) -> Pixels:
    """Return the alpha of the photo by this recipe, uint8 [H,W]."""
    return np.array(Image.open(io.BytesIO(_read("refined.png" if recipe.refines else "mask.png"))))


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("samples", name).read_bytes()
