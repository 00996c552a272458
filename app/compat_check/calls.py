"""Calls of an integration, and how the service answers them."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import httpx2

from cutout.app.compat_check.table import Api
from cutout.app.verify.client import Client, Failed

# Redirects are none of a service's own answers.
ANSWERS = tuple(status for status in range(200, 600) if status // 100 != 3)
# A user may send 30 photos a minute, and a check sends more.
TRIES, LONGEST_WAIT_SECONDS = 4, 70.0
PATHS = {Api.REMOVEBG: "/v1.0/removebg", Api.PHOTOROOM: "/v1/segment", Api.REMBG: "/api/remove"}


class Body(StrEnum):
    """How the fields are sent."""

    MULTIPART = "multipart"
    FORM = "form-urlencoded"
    JSON = "JSON"
    QUERY = "query"


@dataclass(frozen=True)
class Call:
    """One call: its fields as texts, its files as bytes, and fields in the address."""

    api: Api
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    body: Body = Body.MULTIPART
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    as_user: bool = True

    @property
    def names(self) -> list[str]:
        """The names of all fields and files."""
        return [*self.files, *self.fields, *self.query]

    def without(self, names: set[str]) -> "Call":
        """Return the same call without these fields."""

        def kept(given: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in given.items() if name not in names}

        return replace(self, fields=kept(self.fields), files=kept(self.files), query=kept(self.query))


@dataclass(frozen=True)
class Refusal:
    """An error of the service: its code where that API has codes, and its text."""

    status: int
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.text}" if self.code else f"{self.status}: {self.text}"


def coded(photo: bytes) -> str:
    """Return a photo as base64."""
    return base64.b64encode(photo).decode()


async def send(client: Client, call: Call, tell: Callable[[str], None] = lambda _: None) -> httpx2.Response:
    """Send a call. Where the service has a limit on calls, wait until it allows another; `tell` is told so.

    Raises:
        Failed: there is no response, or the limit is not lifted within a minute.

    """
    path = call.path or PATHS[call.api]
    method = "GET" if call.body is Body.QUERY else "POST"
    for turn in range(TRIES):
        answer = await client.call(
            method, path, wanted=ANSWERS, as_user=call.as_user, headers=dict(call.headers), **_content(call)
        )
        wait = answer.headers.get("Retry-After", "")
        if answer.status_code != 429 or not wait.isdigit() or turn == TRIES - 1:
            break
        if int(wait) > LONGEST_WAIT_SECONDS:
            raise Failed(f"The service allows no more calls for {wait} s. Try again then.")
        tell(f"the limit on calls is reached; waiting {wait} s")
        await asyncio.sleep(int(wait))
    return answer


def refusal_of(answer: httpx2.Response) -> Refusal | None:
    """Return the error in a response, in the shape of any of the APIs; None if it is none."""
    if answer.is_success:
        return None
    try:
        told = answer.json()
    except ValueError:
        return Refusal(answer.status_code, "", answer.text[:200] or "an empty response")
    match told:
        case {"errors": [{"title": str(title), **rest}, *_]}:
            return Refusal(answer.status_code, str(rest.get("code", "")), title)
        case {"detail": [{"loc": [*_, str(name)], "msg": str(why)}, *_]}:
            return Refusal(answer.status_code, f"invalid_{name}", why)
        case {"detail": str(detail), **rest}:
            return Refusal(answer.status_code, str(rest.get("code", rest.get("type", ""))), detail)
    return Refusal(answer.status_code, "", json.dumps(told)[:200])


def _content(call: Call) -> dict[str, Any]:
    options: dict[str, Any] = {"params": dict(call.query)} if call.query else {}
    if call.body is Body.MULTIPART:
        texts = [(name, (None, value)) for name, value in call.fields.items()]
        files = [(name, (f"{name}.jpg", data, "image/jpeg")) for name, data in call.files.items()]
        return options | {"files": [*files, *texts]}
    if call.body is Body.FORM:
        return options | {"data": dict(call.fields)}
    return options | ({"json": dict(call.fields)} if call.body is Body.JSON else {})
