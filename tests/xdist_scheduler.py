"""Which tests run in one process, one after the other, while others run beside them: those that share what is dear.

xdist's own groups, by a mark, do nothing under today's pytest, which no longer lets it write them into a test's id.
"""

from xdist.scheduler import LoadScopeScheduling

# By the beginnings of tests' ids. Real networks and real services; whole deployments.
DEAR = {
    "tests/models/": "networks",
    "tests/inference/backends/test_onnx_export.py": "networks",
    "tests/inference/test_real_weights.py": "weights",
    "tests/app/system/test_readiness.py": "weights",
    "tests/worker/test_process.py": "weights",
    "tests/app/cli/test_verify.py": "verify",
    "tests/app/db/test_outages.py": "outages",
    "tests/app/system/test_page.py": "page",
    "tests/app/http/test_openapi_holds.py": "schemathesis",
    "tests/worker/test_killing.py": "killing",
}


class Together(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Hands out those tests in one go, the largest first, and all others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        for beginning, name in DEAR.items():
            if nodeid.startswith(beginning):
                return name
        return nodeid
