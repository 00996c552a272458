"""Schemathesis, set up to call every operation of the service.

It is imported by the test that uses it: the import takes a while, and each test process collects all files.
"""

import os
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.openapi.checks import UndefinedContentType, UndefinedStatusCode
from schemathesis.schemas import APIOperation

from tests.app.api_client import ADMIN, ANNA
from tests.fakes import PATIENCE

# Nobody comes first, with the credentials that were made up, which the others replace.
CALLERS = {"nobody": {}, "admin": ADMIN, "anna": ANNA}
CHECKED = [
    "not_a_server_error",
    "response_schema_conformance",
    "response_headers_conformance",
    "status_code_conformance",
    "content_type_conformance",
]
UNDOCUMENTED = (UndefinedContentType, UndefinedStatusCode)
# Number of examples for each operation, caller and kind, in addition to those at the limits of the schema.
EXAMPLES = int(os.environ.get("API_EXAMPLES", "1"))
# Each of these calls takes 50 ms for the password hash, so they are not made at random.
SLOW = {"POST /api/auth/login", "POST /api/auth/session"}


class Prober:
    """Calls a service by its OpenAPI description; collects responses that break it or are missing from it."""

    def __init__(self, address: str) -> None:
        load_all_checks()
        self.address = address
        self.schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        self.checks = CHECKS.get_by_names(CHECKED)
        self.session = requests.Session()
        self.session.trust_env = False  # It would look for a proxy before each of thousands of calls.
        self.statuses: Counter[int] = Counter()
        self.broken: dict[str, str] = {}
        self.undocumented: dict[str, str] = {}

    def probe(self) -> None:
        """Call every operation: at the limits of its schema as a permitted caller, and at random as every caller."""
        for found in self.schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            for case in self.schema.iter_coverage_cases(
                operation,
                generation_modes=list(GenerationMode),
                generation_config=self.schema.config.generation,
            ):
                self.call(case, "admin" if "/admin/" in operation.path else "anna")
            for mode in GenerationMode:
                if operation.label not in SLOW and (mode.is_positive or can_be_wrong(operation)):
                    self.at_random(operation, mode)

    def at_random(self, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
        """Send the same random calls as every caller: most of the time goes into making them up."""

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: Case[Any]) -> None:
            for who in CALLERS:
                self.call(case, who)

        call()

    def call(self, case: Case[Any], who: str) -> None:
        if CALLERS[who]:  # Replace the generated credentials.
            for name in [name for name in case.headers if name.lower() in ("authorization", "x-api-key")]:
                del case.headers[name]
        answer = case.call(
            base_url=self.address, session=self.session, timeout=PATIENCE, headers=CALLERS[who]
        )
        self.statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=self.checks)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                found = self.undocumented if isinstance(failure, UNDOCUMENTED) else self.broken
                what = f"{case.operation.label}, {failure.title}: {answer.status_code}"
                found.setdefault(what, f"as {who}: {failure}\n{case.as_curl_command()[:2000]}")


def can_be_wrong(operation: APIOperation[Any, Any, Any, Any]) -> bool:
    """Return whether a call has any input besides its caller."""
    return bool(operation.body or operation.query or operation.path_parameters)
