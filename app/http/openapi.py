"""What OpenAPI says of errors: which of them a call answers with, one schema for all, and an example of each."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.sse import EventSourceResponse
from fastapi.utils import deep_dict_update
from pydantic import ConfigDict, Field

from cutout.app.http.auth_first_route import dependencies_of
from cutout.app.http.dependencies import (
    get_admin,
    get_caller,
    get_hands,
    get_rate_limits,
    get_reader,
    get_storage,
    require_queue,
)
from cutout.app.http.problem_details import MEDIA_TYPE, Problem
from cutout.app.http.schemas import Schema

# In the order in which they are read.
TAGS = [
    {"name": "background remover", "description": "Prices, one photo, its job, and the credits it costs."},
    {"name": "batches", "description": "Many photos at once: handed in, watched, fetched as a ZIP."},
    {"name": "subscription", "description": "A plan and its daily quota, and buying plans and credits."},
    {"name": "statistics", "description": "What was done, and what it brought."},
    {"name": "account", "description": "Logging in, and API keys."},
    {"name": "admin", "description": "Granting credits, and saying that payments have come."},
    {"name": "health", "description": "Whether pictures can be made here, and with what."},
    {"name": "metrics", "description": "Figures for Prometheus."},
]

# What each code says to one who met it.
DETAILS = {
    "INVALID_INPUT": "tier: Input should be 'basic', 'standard', 'professional' or 'industry'",
    "INVALID_IMAGE": "The file is empty. Send the picture's bytes.",
    "BATCH_SIZE": "A batch has 2 to 500 photos, not 501.",
    "UNAUTHENTICATED": "Send an API key (X-Api-Key) or a token (Authorization: Bearer).",
    "INSUFFICIENT_CREDITS": "This costs 8 credits and 5 are left. Buy credits, or take a cheaper tier.",
    "FORBIDDEN": "Only an admin may do this.",
    "NOT_FOUND": "You have no job by this id.",
    "METHOD_NOT_ALLOWED": "Method Not Allowed",
    "BODY_TOO_SLOW": "The body did not come within 120 s. Send it again.",
    "CONFLICT": "This paymentId was used for another purchase. A payment buys once; take its own id.",
    "IMAGE_TOO_LARGE": "The upload is larger than 30 MB. Send a smaller file.",
    "BODY_TOO_LARGE": "The body is larger than 100 kB. Send less.",
    "UNSUPPORTED_FORMAT": "This is no picture that can be read. Send a JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF.",
    "RATE_LIMITED": "Too many removals: 30 a minute are allowed. Try again in 7 s.",
    "INTERNAL": "Something went wrong on our side. Try again, and name the requestId if it persists.",
    "MODEL_UNAVAILABLE": "The models are still loading. Try again in a moment.",
    "OVERLOADED": "64 photos are waiting already. Try again in a moment.",
    "QUEUE_UNAVAILABLE": "The queue of batches does not answer. Nothing was kept or charged; try again in a minute.",
    "DATABASE_UNAVAILABLE": "The database does not answer. Nothing was charged; try again in a moment.",
    "STORAGE_UNAVAILABLE": "The file cannot be written (No space left on device). Free some space or set CUTOUT_DATA_DIR.",
    "DEADLINE_EXCEEDED": "The photo was not done in its time. Try again in a moment.",
}
MORE: dict[str, dict[str, int]] = {"INSUFFICIENT_CREDITS": {"required": 8, "available": 5}}
SOME_REQUEST = "5b2f9f0e-3c55-4c12-9d0c-0a4f6f6c1a52"
# Where a status may say how long to wait.
WAITS = {429, 503}

# What depends on these may answer so; what else a route answers with, it says itself.
OF_DEPENDENCIES = {
    get_caller: ("UNAUTHENTICATED", "FORBIDDEN", "DATABASE_UNAVAILABLE", "OVERLOADED"),
    get_reader: ("UNAUTHENTICATED", "FORBIDDEN", "DATABASE_UNAVAILABLE", "OVERLOADED"),
    get_admin: ("FORBIDDEN",),
    get_rate_limits: ("RATE_LIMITED",),
    get_hands: ("MODEL_UNAVAILABLE",),
    require_queue: ("QUEUE_UNAVAILABLE",),
    get_storage: ("STORAGE_UNAVAILABLE",),
}
OF_BODIES = ("INVALID_INPUT", "BODY_TOO_SLOW", "BODY_TOO_LARGE")
OF_PARAMETERS = ("INVALID_INPUT",)


class ProblemDetails(Schema):
    """An error (RFC 9457). `code` is stable, `detail` says what to do. A 402 also has `required` and `available` credits."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str = Field(json_schema_extra={"enum": list(DETAILS)})
    detail: str
    request_id: str


def tells(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Describe the answers with these codes, as a route's `responses`."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = Problem(code, DETAILS[code])
        body = problem.body(SOME_REQUEST) | MORE.get(code, {})
        answer = answers.setdefault(problem.status, _answer(problem.status, str(body["title"])))
        answer["content"][MEDIA_TYPE]["examples"][code] = {"value": body}
    return answers


def describe(service: FastAPI, everywhere: Iterable[str]) -> None:
    """Let the service's OpenAPI say of each call which errors it answers with; `everywhere` are codes of all calls."""
    plain = service.openapi

    def openapi() -> dict[str, Any]:
        described = service.openapi_schema
        if described is None:
            described = plain()
            for route in iter_route_contexts(service.routes):
                if isinstance(route.original_route, APIRoute) and route.original_route.include_in_schema:
                    told = tells(*everywhere, *_told_by(route.original_route))
                    for method in route.methods or ():
                        responses = described["paths"][route.path][method.lower()]["responses"]
                        _add(responses, told)
                        _plain_events(responses)
            schemas = described["components"]["schemas"]
            # FastAPI's own errors, which are told as ours.
            del schemas["HTTPValidationError"], schemas["ValidationError"]
            schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
        return described

    service.openapi = openapi  # type: ignore[method-assign]


def _answer(status: int, title: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    answer = {"description": title, "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}
    if status in WAITS:
        seconds = {"type": "integer", "minimum": 0}
        answer["headers"] = {"Retry-After": {"description": "in seconds", "schema": seconds}}
    return answer


def _add(responses: dict[str, Any], told: dict[int | str, dict[str, Any]]) -> None:
    responses.pop("422", None)
    deep_dict_update(responses, {str(status): answer for status, answer in told.items()})
    for status in sorted(responses):
        responses[status] = responses.pop(status)


def _plain_events(responses: dict[str, Any]) -> None:
    """Describe server-sent events as OpenAPI 3.1 can, which is what this is: FastAPI does so as 3.2 would."""
    for answer in responses.values():
        events = answer.get("content", {}).get(EventSourceResponse.media_type)
        if events is not None:
            del events["itemSchema"]
            events["schema"] = {"type": "string"}


def _told_by(route: APIRoute) -> Iterator[str]:
    if route.body_field is not None:
        yield from OF_BODIES
    for dependant in dependencies_of(route.dependant):
        if dependant.path_params or dependant.query_params:
            yield from OF_PARAMETERS
        for dependency, codes in OF_DEPENDENCIES.items():
            if dependant.call is dependency:
                yield from codes
