"""The OpenAPI description is complete, valid and correct."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.core.errors import kinds_by_code
from cutout.app.http.problem_details import MEDIA_TYPE
from tests.app.api_client import API

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    service = create_app(app_settings.load(data_dir=tmp_path_factory.mktemp("data")))
    description = service.openapi()
    assert service.openapi() is description
    copy: dict[str, Any] = json.loads(json.dumps(description))
    return copy


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def statuses(described: dict[str, Any], method: str, path: str) -> set[str]:
    return set(described["paths"][path][method]["responses"])


def test_it_is_openapi(described: dict[str, Any]) -> None:
    import schemathesis  # takes a while, and each test process collects this file

    schemathesis.openapi.from_dict(described).validate()
    ids = [operation["operationId"] for _, operation in operations(described)]
    assert len(ids) == len(set(ids))
    assert "HTTPValidationError" not in json.dumps(described)


def test_every_call_is_described_with_its_errors(described: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in described["tags"]]
    for call, operation in operations(described):
        assert operation["summary"], call
        assert operation["description"], call
        assert set(operation["tags"]) <= set(tags), call
        assert "500" in operation["responses"], call
        assert "422" not in operation["responses"], call
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            problem = answer["content"][MEDIA_TYPE]
            assert problem["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}, (call, status)
            assert problem["examples"], (call, status)


def test_every_example_of_an_error_is_one(described: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(described["components"]["schemas"]["ProblemDetails"])
    seen = set()
    for _, operation in operations(described):
        for status, answer in operation["responses"].items():
            for code, example in answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).items():
                validator.validate(example["value"])
                assert (example["value"]["code"], example["value"]["status"]) == (code, int(status))
                seen.add(code)
    # No operation describes a call with a method that does not exist.
    assert seen == set(kinds_by_code()) - {"METHOD_NOT_ALLOWED"}


def test_every_body_has_an_example_that_is_good(described: dict[str, Any]) -> None:
    bodies = 0
    for call, operation in operations(described):
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            schema = body["schema"]
            if "$ref" in schema:
                schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            validator = jsonschema_rs.validator_for(schema | {"components": described["components"]})
            assert schema["examples"], (call, media_type)
            for example in schema["examples"]:
                validator.validate(example)
            bodies += 1
    assert bodies == 14


def test_who_may_call_is_described(described: dict[str, Any]) -> None:
    schemes = described["components"]["securitySchemes"]
    assert (schemes["token"]["type"], schemes["token"]["scheme"]) == ("http", "bearer")
    assert (schemes["key"]["type"], schemes["key"]["in"], schemes["key"]["name"]) == (
        "apiKey",
        "header",
        "X-Api-Key",
    )
    session = schemes["session"]
    assert (session["type"], session["in"], session["name"]) == ("apiKey", "cookie", "cutout_session")
    assert "X-Cutout-Page: 1" in session["description"]
    user: list[dict[str, Any]] = [{"token": []}, {"key": []}, {"session": []}]
    others = {
        f"GET {API}/jobs/{{job_id}}/image": [*user, {}],
        f"GET {API}/jobs/{{job_id}}/thumbnail": [*user, {}],
        f"GET {API}/jobs/{{job_id}}/photo": [*user, {}],
        f"GET {API}/batch/{{batch_id}}/download": [*user, {}],
        "GET /metrics": [{"metrics": []}, {}],
        f"GET {API}/pricing": [],
        f"GET {API}/presets": [],
        "GET /api/health": [],
        "POST /api/auth/login": [],
        "GET /api/auth/session": [*user, {}],
        "POST /api/auth/session": [],
        "DELETE /api/auth/session": [],
    }
    # Wrong passwords are refused like missing credentials, and without a session nobody is signed in.
    odd = {"POST /api/auth/login": True, "POST /api/auth/session": True, "GET /api/auth/session": False}
    for call, operation in operations(described):
        security = operation.get("security", [])
        assert security == others.get(call, user), call
        named = {parameter["name"].lower() for parameter in operation.get("parameters", [])}
        assert not named & {"authorization", "x-api-key"}, call
        assert ("401" in operation["responses"]) == odd.get(call, bool(security)), call


def codes(described: dict[str, Any], path: str) -> set[str]:
    """Return the codes of the errors of a POST."""
    answers = described["paths"][path]["post"]["responses"].values()
    return {code for answer in answers for code in answer["content"].get(MEDIA_TYPE, {}).get("examples", ())}


def test_the_errors_are_those_that_a_call_can_have(described: dict[str, Any]) -> None:
    both = {"500", "503"}
    assert statuses(described, "get", f"{API}/pricing") == {"200"} | both
    assert statuses(described, "get", f"{API}/subscription") == {"200", "401", "403", "429"} | both
    assert (
        statuses(described, "get", f"{API}/jobs/{{job_id}}")
        == {"200", "400", "401", "403", "404", "429"} | both
    )
    assert statuses(described, "get", f"{API}/admin/stats") == {"200", "400", "401", "403", "429"} | both
    assert statuses(described, "get", "/metrics") == {"200", "401", "500"}
    of_a_batch = {"202", "400", "401", "402", "403", "408", "409", "413", "429"}
    assert statuses(described, "post", f"{API}/batch") == of_a_batch | both
    of_a_download = {"200", "206", "400", "401", "403", "404", "429"}
    assert statuses(described, "get", f"{API}/batch/{{batch_id}}/download") == of_a_download | both
    of_a_removal = {"200", "400", "401", "402", "403", "404", "408", "409", "413", "415", "429", "504"}
    assert statuses(described, "post", f"{API}/remove") == of_a_removal | both
    refine, view = (
        codes(described, f"{API}/jobs/{{job_id}}/{path}") - {"INSUFFICIENT_CREDITS"}
        for path in ("refine", "refine/view")
    )
    assert refine == view
    assert refine >= {"IMAGE_TOO_LARGE", "BODY_TOO_LARGE", "INVALID_BACKGROUND", "NO_SUBJECT"}
    health = described["paths"]["/api/health"]["get"]["responses"]["503"]["content"]
    assert set(health) == {"application/json", MEDIA_TYPE}


def test_pages_of_others_are_refused_everywhere_without_accounts(tmp_path: Path) -> None:
    service = create_app(app_settings.load(auth="off", data_dir=tmp_path))
    assert all("403" in operation["responses"] for _, operation in operations(service.openapi()))


def test_every_code_has_the_status_that_is_told() -> None:
    kinds = kinds_by_code()
    assert len(kinds) > 20
    documented = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert {code: int(status) for status, code in documented} == {
        code: kind.status for code, kind in kinds.items()
    }
