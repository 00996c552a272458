"""What an idempotency key stands for is the same in every version, so that requests can be repeated after an update."""

import uuid
from dataclasses import fields

import pytest

from cutout.app.batches.service import BatchRequest, StoredPhoto, _fingerprint
from cutout.app.removals.idempotency import ADDED
from cutout.app.removals.request import request_of
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Layout
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

OPTIONS = Options(
    Tier.STANDARD,
    background=Picture.of(b"p"),
    layout=Layout(trim=True),
    hints=Hints(keep=parse_points("50% 50%")),
)
STORE = "https://example.com/put"
NEWER = [
    Options(keep_shadow=True),
    Options(hints=Hints(keep_mask=Picture.of(b"a"))),
    Options(hints=Hints(drop_mask=Picture.of(b"a"))),
    Options(hints=Hints(drop_mask=Picture.of(b"b"))),
    Options(hints=Hints(fill_holes=True)),
    Options(hints=Hints(min_coverage=0.5)),
    Options(hints=Hints(within=parse_box("0 0 9 9"))),
]


def of_one(options: Options) -> str:
    return request_of(uuid.UUID(int=1), b"photo", options, "key", STORE).fingerprint


def of_batch(options: Options, hints: tuple[Hints | None, ...] = ()) -> str:
    return _fingerprint([StoredPhoto(uuid.UUID(int=2), "a.png", "ab")], BatchRequest(options, hints=hints))


@pytest.mark.parametrize(
    ("options", "one", "batch"),
    [
        (
            Options(),
            "aa61bed95c2c3d3c35dd24eb88aaa919ff170f1567d838855200f7ff86582a07",
            "b3c4da5c55b4a024ae614590872d4d28d1954af691a45f8b98f467d5937b070d",
        ),
        (
            OPTIONS,
            "5d9ebab4562dde821806728e1ea305cb0bd166ef1784f10662c67a1848850476",
            "1cecb791a72fa2ae740f825e6297596822b46a079400204c47746d14add806b6",
        ),
    ],
)
def test_fingerprints_are_those_of_older_versions(options: Options, one: str, batch: str) -> None:
    """If a new option changes them, it belongs into `ADDED`."""
    assert (of_one(options), of_batch(options)) == (one, batch)


def test_options_that_came_later_count_once_they_are_given() -> None:
    assert len({of_one(options) for options in (Options(), *NEWER)}) == len(NEWER) + 1
    assert len({of_batch(options) for options in (Options(), *NEWER)}) == len(NEWER) + 1
    own = [of_batch(Options(), (None,)), *(of_batch(Options(), (options.hints,)) for options in NEWER)]
    assert len(set(own)) == len(NEWER) + 1
    assert {one.name for kind in (Options, Hints) for one in fields(kind)} >= ADDED
