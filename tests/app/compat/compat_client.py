"""A service as clients of other APIs call it: with an API key, in each kind of body."""

import base64
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from cutout.app.db.session import Database
from cutout.app.db.tables import Job
from tests.app.api_client import ANNA, ApiClient, bearer, opened_shop
from tests.fakes import photo_bytes

KINDS = ("multipart", "form", "json")
PHOTO = photo_bytes()
FUNDS = 100_000


@dataclass
class CompatClient:
    """A service, and the key of Anna, who has credits."""

    shop: ApiClient
    key: str
    url: str = "/v1.0/removebg"

    def send(
        self,
        fields: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        kind: str = "multipart",
        headers: Mapping[str, str] | None = None,
        photo: bytes | None = PHOTO,
    ) -> httpx2.Response:
        """Call with fields and files in a body of this kind; a photo is added unless it is None."""
        sent: dict[str, Any] = dict(fields or {})
        parts = {name: (f"{name}.png", data, "image/png") for name, data in (files or {}).items()}
        if photo is not None and kind == "multipart":
            parts["image_file"] = ("photo.png", photo, "image/png")
        elif photo is not None:
            sent["image_file_b64"] = base64.b64encode(photo).decode()
        named = {"X-Api-Key": self.key, **(headers or {})}
        post = self.shop.client.post
        if kind == "json":
            body = json.dumps(sent).encode()
            answer = post(self.url, content=body, headers=named | {"Content-Type": "application/json"})
        elif kind == "form":
            answer = post(self.url, data=sent, headers=named)
        else:
            # A form without any file is a multipart form too.
            empty = {"": ("", b"", "")}
            answer = post(self.url, data=sent, files=parts or empty, headers=named)
        assert isinstance(answer, httpx2.Response)
        return answer

    def balance(self) -> int:
        return self.shop.balance(ANNA)

    def job(self, answer: httpx2.Response) -> Job:
        """Return the job of a removal."""
        with self.shop.database.read() as session:
            return session.get_one(Job, uuid.UUID(answer.headers["X-Cutout-Job"]))


@contextmanager
def opened_compat(database: Database, folder: Path, **changes: object) -> Iterator[CompatClient]:
    """Open a service with accounts; `changes` override its settings."""
    with opened_shop(database, folder, **changes) as shop:
        shop.fund("anna", FUNDS)
        yield CompatClient(shop, key_of(shop, "anna"))


def key_of(shop: ApiClient, subject: str) -> str:
    """Make an API key for a user."""
    made = shop.client.post("/api/auth/keys", json={"name": "theirs"}, headers=bearer(subject))
    key: str = made.raise_for_status().json()["key"]
    return key


@contextmanager
def nothing_charged(client: CompatClient) -> Iterator[None]:
    """Check that Anna's balance does not change."""
    before = client.balance()
    yield
    assert client.balance() == before


def their_error(answer: httpx2.Response, status: int, code: str | None = None) -> str:
    """Check that a response is an error of remove.bg, exactly; return its title."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (status == 429)
    body = answer.json()
    assert list(body) == ["errors"]
    (error,) = body["errors"]
    assert list(error) == ["title", "code", "detail"]
    assert all(isinstance(value, str) and value for value in error.values())
    assert error["detail"] == f"Request {answer.headers['x-request-id']}"
    if code is not None:
        assert error["code"] == code, error
    title: str = error["title"]
    return title
