"""`cutout compat-check` against a service that does as documented, and against one that does not."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from cutout.app.app import create_app
from cutout.app.cli import main
from cutout.app.compat_check import own_call
from cutout.app.compat_check.calls import Body
from cutout.app.compat_check.check import Finding, check_api
from cutout.app.compat_check.own_call import NoCall, from_curl
from cutout.app.compat_check.probes import Probe, probes_of
from cutout.app.compat_check.table import ROWS, Api, Verdict, row_of, rows_of
from cutout.app.config.settings import VERIFY_KEY
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.verify.client import Client
from tests.app.api_client import service_settings
from tests.app.cli.test_verify import key_of
from tests.app.serving import served
from tests.fakes import fake_engine
from tests.web import answer, open_web

pytestmark = pytest.mark.slow

GRANTED = 100_000


@dataclass(frozen=True)
class Told:
    """The output of the command: the lines of rows, and the last line."""

    code: int
    lines: list[dict[str, Any]]
    summary: dict[str, Any]

    def outcomes(self) -> dict[str, str]:
        return {line["name"]: line["outcome"] for line in self.lines}


CompatCheck = Callable[..., Told]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database, str]]:
    folder = tmp_path_factory.mktemp("shop")
    url = f"sqlite:///{folder / 'cutout.db'}"
    database = Database(url)
    migrate.migrate(database)
    settings = service_settings(url, folder, fetch_allow_networks="127.0.0.1/32")
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        yield address, database, key_of(database, "anna", GRANTED)
    database.close()


@pytest.fixture
def compat_check(
    shop: tuple[str, Database, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CompatCheck:
    """Run the command with the key of a user with credits, and parse its JSON output."""
    monkeypatch.setenv(VERIFY_KEY, shop[2])

    def run(*arguments: str, url: str = shop[0]) -> Told:
        code, out, _ = cutout(monkeypatch, capsys, url, *arguments, "--json")
        *lines, summary = map(json.loads, out.splitlines())
        return Told(code, lines, summary)

    return run


def cutout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["cutout", "compat-check", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_every_row_of_the_table_is_tried_and_holds(compat_check: CompatCheck, tmp_path: Path) -> None:
    Image.new("RGB", (800, 600), "green").save(tmp_path / "photo.jpg")
    with open_web(addresses=["127.0.0.1"]) as web:
        web.pages["/photo.jpg"] = answer((tmp_path / "photo.jpg").read_bytes())
        told = compat_check("--image-url", f"http://127.0.0.1:{web.port}/photo.jpg")
        assert [path for _, path in web.asked] == ["/photo.jpg"] * 2
    assert [line for line in told.lines if not line["ok"]] == []
    assert [(line["api"], line["name"], line["outcome"]) for line in told.lines] == [
        (row.api, row.name, row.expected) for row in ROWS
    ]
    assert (told.code, told.summary["ok"]) == (0, True)


def test_without_cost_only_what_costs_nothing_is_tried(
    compat_check: CompatCheck, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = compat_check("--free", "--api", "remove.bg")
    assert (told.code, told.summary["detail"]) == (0, "0 credits charged")
    assert set(told.outcomes()) >= {"errors", "a key", "GET /v1.0/account"}
    assert "image_file" not in told.outcomes()


# What a service that does not keep to the table does; the row that shows it, and words of the reason.
Change = Callable[[httpx2.Response], httpx2.Response]


class Lying(httpx2.AsyncBaseTransport):
    """The real service, of which all responses of one kind are changed on the way."""

    def __init__(self, change: Change) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self._change = change

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._inner.handle_async_request(request)
        await answer.aread()
        return self._change(answer)

    async def aclose(self) -> None:
        await self._inner.aclose()


def changed(answer: httpx2.Response, body: bytes | None = None, **headers: str | None) -> httpx2.Response:
    """Return a response with another body, or other headers; None takes one away."""
    kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() != "content-length"}
    for name, value in headers.items():
        if value is None:
            kept.pop(name.replace("_", "-"), None)
        else:
            kept[name.replace("_", "-")] = value
    return httpx2.Response(answer.status_code, headers=kept, content=answer.content if body is None else body)


def of_pictures(change: Change) -> Change:
    return lambda it: change(it) if it.headers.get("Content-Type", "").startswith("image/") else it


def in_text(old: bytes, new: bytes) -> Change:
    return lambda it: changed(it, it.content.replace(old, new))


LIES: dict[str, tuple[Change, str, str]] = {
    "a header is missing": (
        of_pictures(lambda it: changed(it, x_credits_charged=None)),
        "headers of a result",
        "X-Credits-Charged is missing",
    ),
    "credits with a point": (
        of_pictures(lambda it: changed(it, x_credits_charged="3.0")),
        "headers of a result",
        "'3.0', not a whole number",
    ),
    "another size": (
        of_pictures(lambda it: changed(it, x_width="9")),
        "headers of a result",
        "X-Width and X-Height are (9,",
    ),
    "a key more": (in_text(b'"payg"', b'"gift": 0, "payg"'), "GET /v1.0/account", "another shape"),
    "another code": (in_text(b'"invalid_scale"', b'"bad_scale"'), "errors", "400 bad_scale"),
    "no title": (in_text(b'"title"', b'"message"'), "errors", "the answer is"),
    "no id": (in_text(b'"id"', b'"key"'), "POST /v1.0/improve", "no id"),
    "an error page": (
        lambda it: httpx2.Response(502, text="Bad Gateway") if b"result_b64" in it.content else it,
        "image_file_b64",
        "502: Bad Gateway",
    ),
    "the wrong picture in a ZIP": (
        in_text(b"alpha.png", b"alpha.gif"),
        "format",
        "no color.jpg and alpha.png",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_what_is_not_as_documented_is_found(shop: tuple[str, Database, str], name: str) -> None:
    change, row, words = LIES[name]
    probes = [probe for probe in probes_of(Api.REMOVEBG, shop[2]) if row in probe.checks]
    found = {it.row.name: it for it in asyncio.run(findings(shop, Lying(change), probes))}
    assert found[row].failed
    assert words in found[row].detail


def test_a_limit_on_calls_is_waited_for(shop: tuple[str, Database, str]) -> None:
    limited = [httpx2.Response(429, headers={"Retry-After": "0"}, json={"errors": [{"title": "Slow down."}]})]
    lying = Lying(lambda it: limited.pop() if limited else it)
    probes = [probe for probe in probes_of(Api.REMOVEBG) if "GET /v1.0/account" in probe.checks]
    told: list[str] = []
    found = asyncio.run(findings(shop, lying, probes, told.append))
    assert [(it.row.name, it.verdict) for it in found] == [("GET /v1.0/account", Verdict.IDENTICAL)]
    assert "the limit on calls is reached; waiting 0 s" in told


async def findings(
    shop: tuple[str, Database, str],
    transport: httpx2.AsyncBaseTransport,
    probes: list[Probe],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    async with Client(shop[0], shop[2], transport) as client:
        return [finding async for finding in check_api(client, Api.REMOVEBG, probes, tell)]


def test_too_few_credits_are_said_before_any_is_taken(
    shop: tuple[str, Database, str], compat_check: CompatCheck
) -> None:
    poor = key_of(shop[1], "ben", 20)
    told = compat_check("--key", poor, "--api", "remove.bg")
    assert told.code == 1
    assert "Up to 7 removals for 21 to 175 credits of 20" in told.summary["error"]
    assert "credits grant USER 1)" in told.summary["error"]


def test_a_wrong_key_ends_the_check(compat_check: CompatCheck) -> None:
    told = compat_check("--key", "cutout_wrong")
    assert (told.code, told.lines) == (1, [])
    assert "The service rejected this key." in told.summary["error"]


# The user's own calls.


def test_the_fields_of_a_call_are_tried_together(compat_check: CompatCheck) -> None:
    told = compat_check(
        "--field", "size=preview", "--field", "crop=true", "--field", "type=car", "--field", "new=1"
    )
    assert told.outcomes() == {
        "image_file": "identical",
        "size": "identical",
        "crop": "identical",
        "type": "ignored",
        "new": "ignored",
    }
    assert told.code == 0
    assert "200 image/png" in told.summary["detail"]
    assert "3 credits" in told.summary["detail"]


def test_a_field_that_is_refused_is_named_and_the_others_are_tried(compat_check: CompatCheck) -> None:
    told = compat_check("--field", "size=huge", "--field", "scale=5%", "--field", "format=webp")
    assert told.outcomes() == {
        "image_file": "identical",
        "size": "refused",
        "scale": "refused",
        "format": "identical",
    }
    assert told.code == 1
    assert "400 invalid_size" in told.lines[1]["detail"]
    assert "200 image/webp" in told.summary["detail"]


def test_a_field_of_rembg_that_is_refused_is_named(compat_check: CompatCheck) -> None:
    told = compat_check("--api", "rembg", "--field", "om=perhaps", "--field", "bgc=1,2,3,255")
    assert told.outcomes() == {"file": "identical", "om": "refused", "bgc": "identical"}
    assert "422 invalid_om" in told.lines[1]["detail"]
    assert "200 image/png" in told.summary["detail"]


def test_a_saved_curl_command_is_tried(compat_check: CompatCheck, tmp_path: Path) -> None:
    saved = tmp_path / "call.sh"
    saved.write_text(
        "curl -H 'X-API-Key: theirs' \\\n -F 'image_file=@/no/such/file.jpg' -F size=preview"
        " -F format=jpg -F bg_color=fff -f https://api.remove.bg/v1.0/removebg -o no-bg.png\n"
    )
    told = compat_check("--curl", str(saved))
    assert set(told.outcomes()) == {"image_file", "size", "format", "bg_color"}
    assert told.code == 0
    assert "200 image/jpeg" in told.summary["detail"]


@pytest.mark.parametrize(
    ("command", "api", "body", "fields"),
    [
        (
            """curl -X POST https://api.remove.bg/v1.0/removebg -H 'Content-Type: application/json'
            -d '{"image_url": "https://example.com/a.jpg", "crop": true}'""",
            Api.REMOVEBG,
            Body.JSON,
            {"image_url": "https://example.com/a.jpg", "crop": "true"},
        ),
        (
            """curl --data-urlencode image_url=https://example.com/a.jpg -d 'size=auto&bg_color=%23fff'
            --url https://api.remove.bg/v1.0/removebg""",
            Api.REMOVEBG,
            Body.FORM,
            {"image_url": "https://example.com/a.jpg", "size": "auto", "bg_color": "#fff"},
        ),
        (
            "curl --form image_file=@a.jpg --form=size=hd https://sdk.photoroom.com/v1/segment",
            Api.PHOTOROOM,
            Body.MULTIPART,
            {"size": "hd"},
        ),
        (
            'curl -s "http://localhost:7000/api/remove?url=http://input.png" -o output.png',
            Api.REMBG,
            Body.QUERY,
            {},
        ),
    ],
)
def test_curl_commands_are_read(command: str, api: Api, body: Body, fields: dict[str, str]) -> None:
    call = from_curl(command.replace("\n", " "), b"photo")
    assert (call.api, call.body, dict(call.fields)) == (api, body, fields)
    assert set(call.names) >= {own_call.FILE_OF[api]} or set(call.names) & own_call.SOURCES


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("wget https://api.remove.bg/v1.0/removebg", "does not begin with curl"),
        ("curl 'https://api.remove.bg", "cannot be read"),
        ("curl https://example.com/other", "/other is none of"),
        ("curl https://api.remove.bg/v1.0/removebg -F", "has no value"),
        ("curl https://api.remove.bg/v1.0/removebg --json '{'", "JSON of the curl command cannot be read"),
        ("", "does not begin with curl"),
    ],
)
def test_what_is_no_curl_command_for_these_apis(command: str, words: str) -> None:
    with pytest.raises(NoCall) as raised:
        from_curl(command, b"photo")
    assert words in str(raised.value)


def test_the_output_for_a_person(
    shop: tuple[str, Database, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [shop[0], "--key", shop[2], "--field", "size=huge", "--field", "format=webp"]
    code, _, err = cutout(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "One removal for 3 to 25 credits of " in err
    assert "✗ size                     refused    400 invalid_size" in err
    assert "✓ format                   identical  auto, png, jpg, webp, zip" in err
    assert "Not as it is: 2 identical, 1 refused; 200 image/webp" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--field", "size"], "write it as NAME=VALUE"),
        (["--field", "size=full", "--curl", "call.sh"], "either fields for one API, or a curl command"),
        (["--curl", "/no/such/file"], "/no/such/file cannot be read"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = cutout(monkeypatch, capsys, "http://127.0.0.1:9", *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert words in err


def test_the_table_names_each_field_once() -> None:
    for api in Api:
        fields = [field for row in rows_of(api) for field in row.fields]
        assert len(fields) == len(set(fields))
        assert len({row.name for row in rows_of(api)}) == len(rows_of(api))
        assert all(row_of(api, field) in rows_of(api) for field in fields)
