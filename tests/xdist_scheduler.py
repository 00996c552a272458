"""An xdist scheduler that keeps tests which share an expensive resource in one process.

xdist's own groups, set by a mark, do not work with the current pytest, which no longer lets xdist write them into a
test's id.
"""

from xdist.scheduler import LoadScopeScheduling

# Prefixes of test ids: real networks, real services, and whole deployments.
DEAR = {
    "tests/models/": "networks",
    "tests/inference/weights/test_loader.py": "networks",
    "tests/inference/backends/test_mnn.py": "networks",
    "tests/inference/backends/test_onnx_export.py": "networks",
    "tests/inference/backends/test_onnx_gpu.py": "exported for a GPU",
    "tests/inference/selftest/": "self-test",
    "tests/inference/test_on_pretended_gpu.py": "pretended GPU",
    "tests/inference/test_real_weights.py": "weights",
    "tests/app/system/test_readiness.py": "weights",
    "tests/app/compat/test_clients_on_make_serve.py": "weights",
    "tests/app/compat/test_third_party_clients.py": "clients",
    "tests/worker/test_process.py": "weights",
    "tests/app/cli/test_verify.py": "verify",
    "tests/app/db/test_outages.py": "outages",
    "tests/app/system/test_page.py": "page",
    "tests/app/system/test_single_photo.py": "page",
    "tests/app/http/test_openapi_holds.py": "schemathesis",
    "tests/worker/test_killing.py": "killing",
}


class Together(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Assigns each of those groups as a whole, the largest first, and all other tests one by one."""

    def _split_scope(self, nodeid: str) -> str:
        for beginning, name in DEAR.items():
            if nodeid.startswith(beginning):
                return name
        return nodeid
