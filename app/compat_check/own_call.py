"""A user's own call, from a list of fields or from a saved curl command."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from cutout.app.compat_check.calls import PATHS, Body, Call, coded
from cutout.app.compat_check.table import Api
from cutout.app.core.errors import OperatorError

FILE_OF = {Api.REMOVEBG: "image_file", Api.PHOTOROOM: "image_file", Api.REMBG: "file"}
# Fields that are the photo; a call with one of them gets no other.
SOURCES = {"image_file", "image_file_b64", "image_url", "file", "url"}
# In rembg's API these are in the address, also where the photo is in a form.
IN_ADDRESS = {"bgc", "extras"}
FORM, DATA = (
    {"-F", "--form", "--form-string"},
    {"-d", "--data", "--data-raw", "--data-ascii", "--data-urlencode"},
)
WITH_VALUE = FORM | DATA | {"-X", "--request", "-H", "--header", "-o", "--output", "--url", "--json", "-A", "-u"} | {
    "--user-agent", "--max-time", "-m", "--connect-timeout", "--retry", "-w", "--write-out", "-x", "--proxy", "-D"
}  # fmt: skip


class NoCall(OperatorError):
    """The fields or the curl command cannot be tried."""


def from_fields(api: Api, pairs: Sequence[str], photo: bytes) -> Call:
    """Return the call with these fields, each as NAME=VALUE; without a source it gets the photo.

    Raises:
        NoCall: one of them is not NAME=VALUE.

    """
    wrong = [pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        raise NoCall(f"--field {wrong[0]}: write it as NAME=VALUE, such as --field size=preview.")
    named = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    query = {name: value for name, value in named.items() if api is Api.REMBG and name in IN_ADDRESS}
    fields = {name: value for name, value in named.items() if name not in query}
    return _with_photo(Call(api, fields, query=query), photo)


def from_curl(command: str, photo: bytes) -> Call:
    """Return the call of a curl command: its fields and their encoding, with this photo in place of its files.

    The host, the key and the output file of the command are left out.

    Raises:
        NoCall: it is no curl command for an API that this service speaks.

    """
    try:
        words = shlex.split(command.replace("\\\n", " "), comments=False)
    except ValueError as error:
        raise NoCall(f"The curl command cannot be read ({error}).") from None
    if not words or Path(words[0]).name != "curl":
        raise NoCall("The file does not begin with curl. Save the whole command, as it runs in a shell.")
    url, given = _options(words[1:])
    api = _api_of(url)
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    body = Body.MULTIPART
    for option, value in given:
        if option == "--json":
            body = Body.JSON
            fields |= _json_fields(value)
        elif option in FORM | DATA:
            body = Body.MULTIPART if option in FORM else Body.FORM
            for pair in [value] if option in FORM else value.split("&"):
                _add(pair, option, fields, files, photo)
    headers = [value.lower().replace(" ", "") for option, value in given if option in ("-H", "--header")]
    if "content-type:application/json" in headers and body is Body.FORM:
        body, fields = Body.JSON, _json_fields(next(value for option, value in given if option in DATA))
    accept = {"Accept": "application/json"} if "accept:application/json" in headers else {}
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    if not fields and not files and api is Api.REMBG:
        body = Body.QUERY
    if "image_file_b64" in fields:
        fields["image_file_b64"] = coded(photo)
    return _with_photo(Call(api, fields, files, body, query, accept), photo)


def _options(words: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    url, given, rest = "", [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in WITH_VALUE:
            if not rest:
                raise NoCall(f"{word} at the end of the curl command has no value.")
            given.append((word, rest.pop(0)))
        elif name in WITH_VALUE and equals and name.startswith("--"):
            given.append((name, value))
        elif word[:2] in WITH_VALUE and len(word) > 2 and not word.startswith("--"):
            given.append((word[:2], word[2:]))
        elif not word.startswith("-"):
            url = word
    url = next((value for option, value in given if option == "--url"), url)
    return url, given


def _api_of(url: str) -> Api:
    path = urlsplit(url if "//" in url else f"//{url}").path
    for api, known in PATHS.items():
        if path.rstrip("/") == known:
            return api
    raise NoCall(f"{path or 'The address'} is none of {', '.join(PATHS.values())}.")


def _add(pair: str, option: str, fields: dict[str, str], files: dict[str, bytes], photo: bytes) -> None:
    name, _, value = pair.partition("=")
    if option in ("-F", "--form") and value.startswith(("@", "<")):
        files[name] = photo
    elif name:
        plain = value if option in FORM or option == "--data-urlencode" else _decoded(value)
        fields[name.removesuffix("@")] = plain.split(";type=")[0]


def _decoded(value: str) -> str:
    return dict(parse_qsl(f"it={value}", keep_blank_values=True)).get("it", "")


def _json_fields(text: str) -> dict[str, str]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise NoCall(f"The JSON of the curl command cannot be read ({error}).") from None
    if not isinstance(told, dict):
        raise NoCall("The JSON of the curl command is not an object.")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def _with_photo(call: Call, photo: bytes) -> Call:
    """Give the call a photo in the way that fits its body, if it has none."""
    if SOURCES & set(call.names):
        return call
    if call.body is Body.MULTIPART:
        return Call(
            call.api,
            call.fields,
            {**call.files, FILE_OF[call.api]: photo},
            call.body,
            call.query,
            call.headers,
        )
    fields = {**call.fields, "image_file_b64": coded(photo)}
    return Call(call.api, fields, call.files, call.body, call.query, call.headers)
