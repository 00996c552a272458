"""Cutout: background removal on your own GPU or CPU.

    from cutout import remove

    picture = remove("photo.jpg")                          # a PIL image with an alpha channel
    data = remove(photo_bytes, format="webp")              # bytes, ready to be stored or sent
    data = remove(array, tier="professional", background="white", format="jpeg")
    data = remove("photo.jpg", preset="amazon", format="jpeg")

For many photos, an engine processes them in batches, on all cores and the GPU:

    from cutout import Tier, make_options, open_engine

    with open_engine([Tier.BASIC]) as engine:
        for name, outcome in engine.remove_many(photos, make_options(trim=True, margin="5%")):
            ...
"""

import importlib
from typing import TYPE_CHECKING, Any

from cutout.version import __version__

if TYPE_CHECKING:
    from cutout.inference.cutout import Cutout
    from cutout.inference.engine import Engine
    from cutout.inference.errors import CutoutError
    from cutout.inference.imaging.encode import Format
    from cutout.inference.options import Options
    from cutout.inference.tiers import Tier
    from cutout.library import make_options, open_engine, remove

__all__ = [
    "Cutout",
    "CutoutError",
    "Engine",
    "Format",
    "Options",
    "Tier",
    "__version__",
    "make_options",
    "open_engine",
    "remove",
]

# Imported at their first use: the command line and the service start without torch.
_MODULES = {
    "Cutout": "cutout.inference.cutout",
    "CutoutError": "cutout.inference.errors",
    "Engine": "cutout.inference.engine",
    "Format": "cutout.inference.imaging.encode",
    "Options": "cutout.inference.options",
    "Tier": "cutout.inference.tiers",
    "make_options": "cutout.library",
    "open_engine": "cutout.library",
    "remove": "cutout.library",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
