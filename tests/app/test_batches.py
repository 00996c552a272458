"""Batches, of which this version has no queue: it says so, and reads nothing."""

import uuid

import pytest

from tests.app.databases import on_sqlite
from tests.app.shop import ANNA, API, Shop
from tests.app.test_api import problem


@on_sqlite
@pytest.mark.parametrize(
    "call", ["GET {}", "GET {}/1", "GET {}/1/events", "GET {}/1/download", "DELETE {}/1"]
)
def test_without_a_queue_there_are_no_batches(shop: Shop, call: str) -> None:
    method, path = call.format(f"{API}/batch").replace("/1", f"/{uuid.uuid4()}").split()
    answer = shop.client.request(method, path, headers=ANNA)
    assert "one by one" in problem(answer, 503, "QUEUE_UNAVAILABLE")["detail"]
    assert int(answer.headers["retry-after"]) > 0


@on_sqlite
def test_a_batch_is_refused_unread(shop: Shop) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "2000000000"}
    answer = shop.client.post(f"{API}/batch", content=b"x", headers=ANNA | headers)
    problem(answer, 503, "QUEUE_UNAVAILABLE")
    assert answer.headers["connection"] == "close"
    problem(shop.client.post(f"{API}/batch", content=b"x", headers=headers), 401, "UNAUTHENTICATED")
    problem(shop.client.post(f"{API}/remove", content=b"x", headers=ANNA | headers), 413, "IMAGE_TOO_LARGE")
