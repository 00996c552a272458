"""Cutout's side: `cutout.py PHOTO OUT COUNT`."""

from app import settings
from app.startup import engine_from
from benchmarks.sides.measure import measure
from inference.engine import Cutout
from inference.tiers import Tier

engine = engine_from(settings.load(device="cpu"), [Tier.BASIC])
last: Cutout


def remove(photo: bytes) -> bytes:
    global last
    last = engine.remove(photo)
    return last.data


measure(remove, lambda: last.seconds)
engine.close()
