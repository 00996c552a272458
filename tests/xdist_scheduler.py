"""An xdist scheduler that keeps tests which share an expensive resource in one process.

xdist's own groups, set by a mark, do not work with the current pytest, which no longer lets xdist write them into a
test's id.
"""

from collections import OrderedDict
from typing import Any

from xdist.scheduler import LoadScopeScheduling

# Prefixes of test ids, and the name of the group that they belong to; files without a name are groups of their own. The
# groups that take longest come first, since a long one at the end would leave the other processes idle.
DEAR = {
    "tests/inference/test_real_weights.py": "weights",
    "tests/app/system/test_readiness.py": "weights",
    "tests/app/compat/test_clients_on_make_serve.py": "weights",
    "tests/models/": "networks",
    "tests/benchmarks/test_roofline.py": "networks",
    "tests/inference/weights/test_loader.py": "networks",
    "tests/inference/backends/test_mnn.py": "networks",
    "tests/inference/backends/test_onnx_export.py": "networks",
    "tests/inference/backends/test_onnx_gpu.py": "networks",
    "tests/app/cli/test_verify.py": "verify",
    "tests/worker/test_killing.py": "",
    "tests/worker/test_process.py": "",
    "tests/inference/selftest/": "self-test",
    "tests/inference/test_on_pretended_gpu.py": "",
    "tests/app/compat/test_third_party_clients.py": "",
    "tests/app/db/test_outages.py": "",
    "tests/app/http/test_openapi_holds.py": "",
    "tests/app/system/": "",
}


class Together(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Assigns a file or a group of files as a whole, those in `DEAR` first.

    Many files have a service, a browser or a network for all of their tests, which would be set up in each process that
    has one of them.
    """

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        self.workqueue = DearestFirst()

    def _split_scope(self, nodeid: str) -> str:
        return next(
            (name for beginning, name in DEAR.items() if name and nodeid.startswith(beginning)),
            nodeid.partition("::")[0],
        )


class DearestFirst(OrderedDict[str, dict[str, bool]]):
    """A queue of groups that gives those in `DEAR` first, in their order, and of the others the one with most tests."""

    def popitem(self, last: bool = True) -> tuple[str, dict[str, bool]]:
        """Remove and return the next group, whatever `last` is."""
        scope = min(self, key=self._rank)
        return scope, self.pop(scope)

    def _rank(self, scope: str) -> tuple[int, int]:
        known = (
            place
            for place, (beginning, name) in enumerate(DEAR.items())
            if scope == name or (not name and scope.startswith(beginning))
        )
        return next(known, len(DEAR)), -len(self[scope])
