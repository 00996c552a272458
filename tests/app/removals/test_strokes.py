"""Pictures of strokes over HTTP, to the finished picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from cutout.app.db.session import Database
from tests.app.api_client import ANNA, API, ApiClient, opened_shop
from tests.fakes import open_picture, photo_bytes, stroke_mask

PICTURE = ANNA | {"Accept": "image/*"}
PHOTO = photo_bytes(80, 60)
# The network of the tests finds a disc in the middle.
MIDDLE, ALL_OF_IT = stroke_mask(45, 45, 55, 55), stroke_mask(10, 10, 90, 90)
CORNER, BLANK = stroke_mask(2, 2, 8, 8), stroke_mask(0, 0, 0, 0)


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    with opened_shop(database, tmp_path, max_upload_mb=1) as shop:
        shop.fund("anna", 1000)
        yield shop


def send(shop: ApiClient, key: str | None = None, fields: Any = None, **masks: Any) -> httpx2.Response:
    files = {"image": PHOTO, **masks}
    headers = PICTURE | ({} if key is None else {"Idempotency-Key": key})
    answer: httpx2.Response = shop.client.post(
        f"{API}/remove", files=files, data=fields or {}, headers=headers
    )
    return answer


def alpha(answer: httpx2.Response) -> Any:
    return np.asarray(open_picture(answer.raise_for_status().content))[..., 3]


def test_strokes_choose_what_stays_and_are_part_of_what_a_key_stands_for(shop: ApiClient) -> None:
    plain = alpha(send(shop))
    assert plain[30, 40] == 255
    assert plain[:4, :4].max() == 0
    np.testing.assert_array_equal(alpha(send(shop, keepMask=MIDDLE)), plain)
    assert alpha(send(shop, dropMask=ALL_OF_IT)).max() == 0
    first = send(shop, "one", dropMask=CORNER)
    assert send(shop, "one", dropMask=CORNER).content == first.content
    assert send(shop, "one", dropMask=MIDDLE).status_code == 409
    assert send(shop, "one", keepMask=CORNER).status_code == 409
    assert alpha(send(shop, fields={"minCoverage": "90", "holes": "fill"})).max() == 0


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ({"keepMask": b"<html>"}, "keepMask: This file is not a picture"),
        ({"dropMask": bytes(1_000_001)}, "dropMask: The picture is larger than 1 MB"),
        ({"dropMask": BLANK}, "to drop has no white strokes"),
        ({"keepMask": MIDDLE, "dropMask": stroke_mask(45, 45, 55, 56)}, "both to keep and to drop"),
    ],
)
def test_strokes_that_cannot_be_used_cost_nothing(shop: ApiClient, masks: dict[str, Any], says: str) -> None:
    answer = send(shop, **masks)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert shop.get(f"{API}/credits", ANNA).json()["balance"] == 1000
