"""The side of Cutout: `cutout.py PHOTO OUT COUNT [TIER]`."""

import sys

from benchmarks.sides.measure import measure
from cutout.app.bootstrap import engine_from
from cutout.app.config import settings
from cutout.inference.cutout import Cutout
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

tier = Tier(sys.argv[4]) if len(sys.argv) > 4 else Tier.BASIC
engine = engine_from(settings.load(device="cpu"), [tier])
last: Cutout


def remove(photo: bytes) -> bytes:
    global last
    last = engine.remove(photo, Options(tier=tier))
    return last.data


measure(remove, lambda: last.seconds)
engine.close()
