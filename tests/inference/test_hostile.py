"""Files made to hurt: each is refused with a sentence, or decoded; nothing crashes, hangs or fills the memory."""

import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from inference.errors import CutoutError, InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from inference.photo import Photo, decode
from tests.inference import files

SAMPLES = sorted(files.samples())
FUZZ_SEED, FUZZ_FILES = 2024, 2000
FUZZ_PIXELS = 2_000_000


# --- Mutated files ----------------------------------------------------------------------------------


def flip_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite_header(data: bytearray, rng: random.Random) -> None:
    """Set a field of 1, 2 or 4 bytes near the start, where sizes, counts and offsets stand."""
    size = rng.choice((1, 2, 4))
    place = rng.randrange(min(len(data), rng.choice((32, 128, 1024))))
    data[place : place + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x01")) * size


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.choice((1, 2, 16, 300)))


def delete(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 2, 16, 300))]


def repeat_block(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    block = data[start : start + rng.choice((4, 32, 500))]
    data[start:start] = block * rng.choice((1, 3, 50))


def splice(data: bytearray, rng: random.Random) -> None:
    """Go on with the second part of another file."""
    other = files.samples()[rng.choice(SAMPLES)]
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bytes,
    overwrite_header,
    overwrite_header,
    truncate,
    insert,
    delete,
    repeat_block,
    splice,
]


def mutated(seed: int, number: int) -> tuple[str, bytes]:
    """Make one damaged file, always the same for the same two numbers."""
    rng = random.Random(f"{seed}-{number}")
    name = SAMPLES[number % len(SAMPLES)]
    data = bytearray(files.samples()[name])
    for mutate in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2, 3))):
        if data:
            mutate(data, rng)
    return name, bytes(data)


def ends_well(data: bytes) -> str:
    """Decode; give "" when it ends in a photo or a refusal within ten seconds, else what happened."""
    start = time.perf_counter()
    try:
        photo = decode(data, FUZZ_PIXELS)
    except CutoutError as error:
        if not str(error):
            return "a refusal without a message"
    except BaseException as error:  # noqa: BLE001 - whatever else comes is the finding
        return repr(error)
    else:
        if photo.rgb.dtype != np.uint8 or photo.rgb.shape != (photo.height, photo.width, 3):
            return f"pixels {photo.rgb.dtype} {photo.rgb.shape}"
        if photo.alpha is not None and photo.alpha.shape != photo.rgb.shape[:2]:
            return f"alpha {photo.alpha.shape} with pixels {photo.rgb.shape}"
    seconds = time.perf_counter() - start
    return f"{seconds:.0f} seconds" if seconds > 10 else ""


@pytest.mark.filterwarnings("ignore")  # in production a codec's warning is logged at most
def test_mutated_files_end_in_a_photo_or_a_refusal() -> None:
    bad = []
    for number in range(FUZZ_FILES):
        name, data = mutated(FUZZ_SEED, number)
        what = ends_well(data)
        if what:
            bad.append(f"mutated({FUZZ_SEED}, {number}) of {name}: {what}")
    assert not bad, "\n".join(bad)
