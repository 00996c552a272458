"""Errors in the OpenAPI document: the errors of each operation, their common schema, and an example of each."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.sse import EventSourceResponse
from fastapi.utils import deep_dict_update
from pydantic import ConfigDict

from cutout.app.core.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidInputError,
    ServiceError,
    kinds_by_code,
)
from cutout.app.core.schema import Schema
from cutout.app.http.problem_details import MEDIA_TYPE, document

Dependency = TypeVar("Dependency", bound=Callable[..., Any])
# The errors that each marked dependency may raise, see `raises`.
RAISED_BY: dict[Callable[..., Any], tuple[type[ServiceError], ...]] = {}

# In the order in which the documentation shows them.
TAGS = [
    {
        "name": "background remover",
        "description": "Prices, removing the background of one photo, jobs, and credits.",
    },
    {
        "name": "batches",
        "description": "Submitting many photos at once, watching the progress, and downloading a ZIP.",
    },
    {"name": "subscription", "description": "Your plan and its daily quota, and buying plans and credits."},
    {
        "name": "statistics",
        "description": "Your usage; for admins, also the usage, revenue and cost of all users.",
    },
    {"name": "account", "description": "Login and API keys."},
    {"name": "admin", "description": "Users and their accounts, granting credits, and confirming payments."},
    {
        "name": "health",
        "description": "Whether the service can process photos, and with which models and device.",
    },
    {"name": "metrics", "description": "Metrics for Prometheus."},
]

SOME_REQUEST = "5b2f9f0e-3c55-4c12-9d0c-0a4f6f6c1a52"
# Status codes whose responses may have a `Retry-After` header.
WAITS = {429, 503}

OF_BODIES = (InvalidInputError, BodyTooSlowError, BodyTooLargeError)
OF_PARAMETERS = (InvalidInputError,)


class ProblemDetails(Schema):
    """Problem details of an error (RFC 9457).

    `code` is a stable identifier of the error, and `detail` tells a person what to do. A 402 response also has the
    `required` and the `available` credits.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


def raises(*kinds: type[ServiceError]) -> Callable[[Dependency], Dependency]:
    """Mark a dependency with the errors that it may raise; OpenAPI then lists them for each endpoint that uses it."""

    def mark(dependency: Dependency) -> Dependency:
        RAISED_BY[dependency] = kinds
        return dependency

    return mark


def error_responses(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these errors, for an endpoint's `responses`."""
    answers: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        introduced = kinds_by_code()[kind.code]
        body = document(kind.status, kind.code, introduced.example, SOME_REQUEST) | dict(
            introduced.example_extra
        )
        answer = answers.setdefault(kind.status, _answer(kind.status, str(body["title"])))
        answer["content"][MEDIA_TYPE]["examples"][kind.code] = {"value": body}
    return answers


def describe(service: FastAPI, everywhere: Iterable[type[ServiceError]]) -> None:
    """Add the error responses of each operation to the service's OpenAPI document.

    The errors in `everywhere` are added to all operations.
    """
    plain = service.openapi

    def openapi() -> dict[str, Any]:
        described = service.openapi_schema
        if described is None:
            described = plain()
            for route in iter_route_contexts(service.routes):
                if isinstance(route.original_route, APIRoute) and route.original_route.include_in_schema:
                    told = error_responses(*everywhere, *_told_by(route.original_route))
                    for method in route.methods or ():
                        responses = described["paths"][route.path][method.lower()]["responses"]
                        _add(responses, told)
                        _plain_events(responses)
            schemas = described["components"]["schemas"]
            # FastAPI's own validation errors are returned as `ProblemDetails` instead.
            del schemas["HTTPValidationError"], schemas["ValidationError"]
            problem = schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
            problem["properties"]["code"]["enum"] = list(kinds_by_code())
        return described

    service.openapi = openapi  # type: ignore[method-assign]


def _answer(status: int, title: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    answer = {"description": title, "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}
    if status in WAITS:
        seconds = {"type": "integer", "minimum": 0}
        answer["headers"] = {
            "Retry-After": {"description": "Seconds to wait before trying again.", "schema": seconds}
        }
    return answer


def _add(responses: dict[str, Any], told: dict[int | str, dict[str, Any]]) -> None:
    responses.pop("422", None)
    deep_dict_update(responses, {str(status): answer for status, answer in told.items()})
    for status in sorted(responses):
        responses[status] = responses.pop(status)


def _plain_events(responses: dict[str, Any]) -> None:
    """Describe server-sent events as plain strings: FastAPI uses OpenAPI 3.2 syntax, but the document is 3.1."""
    for answer in responses.values():
        events = answer.get("content", {}).get(EventSourceResponse.media_type)
        if events is not None:
            del events["itemSchema"]
            events["schema"] = {"type": "string"}


def dependencies_of(dependant: Dependant) -> Iterator[Dependant]:
    """Yield a dependant and, recursively, all of its dependencies."""
    yield dependant
    for one in dependant.dependencies:
        yield from dependencies_of(one)


def _told_by(route: APIRoute) -> Iterator[type[ServiceError]]:
    if route.body_field is not None:
        yield from OF_BODIES
    for dependant in dependencies_of(route.dependant):
        if dependant.path_params or dependant.query_params:
            yield from OF_PARAMETERS
        if dependant.call is not None:
            yield from RAISED_BY.get(dependant.call, ())
