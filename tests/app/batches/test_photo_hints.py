"""`hints` of `POST /batch`: hints for single photos by their file names."""

import io
import json
import zipfile
from typing import Any

import httpx2
import numpy as np
import pytest
from sqlalchemy import select

from cutout.app.batches.form import LARGEST_HINTS_BYTES
from cutout.app.db.tables import Job
from cutout.app.jobs.leases import OPTIONS
from cutout.inference.imaging.hints import Hints, parse_box
from tests.app.api_client import ANNA
from tests.app.batch_client import BATCH, BatchClient, studio
from tests.app.http.test_api import problem
from tests.fakes import open_picture, photo_bytes

pytestmark = pytest.mark.slow

__all__ = ["studio"]

# The left and the right half of the disc that the fake network finds in the middle.
LEFT, RIGHT = "0% 0% 50% 100%", "50% 0% 100% 100%"
LEFT_HINTS, RIGHT_HINTS = Hints(box=parse_box(LEFT)), Hints(box=parse_box(RIGHT))
SHOP = [(name, photo_bytes(seed=number)) for number, name in enumerate(("a.png", "b.png", "c.png"))]


@pytest.fixture
def rich(studio: BatchClient) -> BatchClient:
    studio.fund("anna", 10_000)
    return studio


def hints_of(studio: BatchClient, batch_id: str) -> list[Hints]:
    """Return the hints that the photos' rows have, in order."""
    with studio.database.begin() as session:
        rows = session.scalars(select(Job).order_by(Job.position)).all()
        return [OPTIONS.validate_python(row.options).hints for row in rows if str(row.batch_id) == batch_id]


def send_parts(studio: BatchClient, parts: list[tuple[str, Any]]) -> httpx2.Response:
    answer: httpx2.Response = studio.client.post(BATCH, files=parts, headers=ANNA)
    return answer


def columns(picture: bytes) -> tuple[bool, bool]:
    """Tell whether the left and the right half of a result show anything."""
    alpha = np.asarray(open_picture(picture).getchannel("A"))
    half = alpha.shape[1] // 2
    return bool(alpha[:, :half].max() > 128), bool(alpha[:, half:].max() > 128)


def test_each_photo_of_the_zip_is_made_with_its_own_hints(rich: BatchClient) -> None:
    """One has its own, one has those of the fields, one has none at all, and one is beyond its photo."""
    files = [*SHOP, ("d.png", photo_bytes(seed=9))]
    hints = {"a.png": {"box": LEFT}, "c.png": {}, "d.png": {"box": "0px 0px 4000px 30px"}}
    batch_id = rich.accepted(ANNA, files, box=RIGHT, hints=json.dumps(hints))
    assert rich.balance(ANNA) == 10_000 - 12
    rich.work_off()
    shown = rich.batch(ANNA, batch_id)
    assert [photo["status"] for photo in shown["photos"]] == [*["completed"] * 3, "failed"]
    assert shown["photos"][3]["error"]["code"] == "INVALID_INPUT"
    assert (
        "The box ends at 4000 × 30, and the photo has 40 × 30 pixels" in shown["photos"][3]["error"]["detail"]
    )
    assert rich.balance(ANNA) == 10_000 - 9
    archive = zipfile.ZipFile(io.BytesIO(rich.get(f"{BATCH}/{batch_id}/download", ANNA).content))
    sides = {name: columns(archive.read(name)) for name in ("a.png", "b.png", "c.png")}
    assert sides == {"a.png": (True, False), "b.png": (False, True), "c.png": (True, True)}


def test_hints_may_come_before_and_after_the_photos_as_a_file_or_text(rich: BatchClient) -> None:
    text = json.dumps({"b.png": {"box": LEFT}})
    as_file = ("hints.json", text.encode(), "application/json")
    for at, hints in ((0, (None, text)), (1, as_file), (3, as_file), (3, (None, text))):
        parts: list[tuple[str, Any]] = [("images", file) for file in SHOP]
        parts.insert(at, ("hints", hints))
        answer = send_parts(rich, parts)
        assert answer.status_code == 202, answer.text
        assert hints_of(rich, answer.json()["batchId"]) == [Hints(), LEFT_HINTS, Hints()]


def test_names_with_folders_and_names_that_come_twice(rich: BatchClient) -> None:
    one, other = photo_bytes(seed=1), photo_bytes(seed=2)
    files = [("cups/a.png", one), ("a.png", other), ("a.png", one), ("pots/b.png", one)]
    hints = {"a.png": {"box": LEFT}, "b.png": {"box": RIGHT}}
    batch_id = rich.accepted(ANNA, files, hints=json.dumps(hints))
    assert hints_of(rich, batch_id) == [Hints(), LEFT_HINTS, LEFT_HINTS, RIGHT_HINTS]


def test_a_preset_and_fields_hold_for_the_others_only(rich: BatchClient) -> None:
    batch_id = rich.accepted(
        ANNA, SHOP, largestOnly="true", hints=json.dumps({"a.png": {"box": LEFT}, "b.png": {}})
    )
    assert hints_of(rich, batch_id) == [LEFT_HINTS, Hints(), Hints(largest_only=True)]
    no_hints = rich.accepted(ANNA, SHOP, largestOnly="true", hints="")
    assert hints_of(rich, no_hints) == [Hints(largest_only=True)] * 3


WRONG = [
    ("{", "hints: It is not JSON: "),
    ("[" * 100_000, "hints: It has too many brackets"),
    ('{"a.png": {}, "a.png": {}}', "hints: 'a.png' stands there twice."),
    ('{"a.png": {"box": NaN}}', "hints: 'a.png': box: 'NaN' is not a box."),
    ('{"a.png": {"tier": "industry"}}', "hints: 'a.png': 'tier' is not a hint."),
    ('{"\\ud800": {}}', "hints: '\\ud800' fits no photo."),
    ('{"A.png": {}}', "hints: 'A.png' fits no photo. Did you mean 'a.png'"),
    ('{"a.png": {"keep": "1 2", "drop": "1 2"}}', "hints: 'a.png': The point 1px 2px is both"),
    (
        json.dumps({f"{number}.png": {} for number in range(501)}),
        "hints: It names 501 photos. Name at most 500.",
    ),
    (" " * (LARGEST_HINTS_BYTES + 1), "hints: send at most 500 kB of JSON"),
]


def test_wrong_hints_are_named_and_leave_nothing(rich: BatchClient) -> None:
    images: list[tuple[str, Any]] = [("images", file) for file in SHOP[:2]]
    for hints, said in WRONG:
        for parts in (
            [("hints", (None, hints)), *images],
            [*images, ("hints", ("hints.json", hints))],
        ):
            assert problem(send_parts(rich, parts), 400, "INVALID_INPUT")["detail"].startswith(said)
    assert rich.kept() == []
    assert rich.balance(ANNA) == 10_000
    assert rich.get(BATCH, ANNA).json() == {"batches": []}


def test_an_empty_file_is_no_hints_only_if_no_file_was_chosen(rich: BatchClient) -> None:
    images: list[tuple[str, Any]] = [("images", file) for file in SHOP]
    assert send_parts(rich, [*images, ("hints", ("", b""))]).status_code == 202
    refused = problem(send_parts(rich, [*images, ("hints", ("hints.json", b""))]), 400, "INVALID_INPUT")
    assert refused["detail"].startswith("hints: It is not JSON")
    twice = send_parts(rich, [*images, *[("hints", (None, "{}"))] * 2])
    assert problem(twice, 400, "INVALID_INPUT")["detail"] == "hints: send this field only once"


def test_the_same_key_with_other_hints_is_refused(rich: BatchClient) -> None:
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    left, right = (json.dumps({"a.png": {"box": box}}) for box in (LEFT, RIGHT))
    first = rich.hand_in(keyed, SHOP, hints=left)
    assert first.status_code == 202
    assert rich.hand_in(keyed, SHOP, hints=f" {left} ").json() == first.json()
    for others in ({"hints": right}, {"hints": '{"a.png": {}}'}, {"box": LEFT}, {}):
        problem(rich.hand_in(keyed, SHOP, **others), 409, "CONFLICT")
    assert rich.balance(ANNA) == 10_000 - 9
