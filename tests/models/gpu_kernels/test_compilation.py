"""Triton's compiler accepts every kernel, and each fits the smallest GPU that CUDA 13 supports, a T4, and keeps overflows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutout.models import gpu_kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not gpu_kernels.INSTALLED, reason="Triton is published for Linux only"),
]
SHARED = 64 * 1024  # bytes for one program


@pytest.fixture
def kept(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Return the folder in which Triton keeps what it compiled, for as long as a kernel and Triton stay as they are."""
    cache = getattr(pytestconfig, "cache", None)  # missing with `-p no:cacheprovider`
    return tmp_path if cache is None else Path(cache.mkdir("triton"))


def test_every_kernel_compiles_and_fits(kept: Path) -> None:
    command = [sys.executable, "-m", "tests.models.gpu_kernels.compile_all", "75"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(kept), "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert len(kernels) >= 8
    assert max(int(needed) for _, needed, _ in kernels) <= SHARED
    # The interpreter keeps what is not a number in any maximum, so that no other test would notice.
    assert {"_halve", "_deform_branch"}.isdisjoint(name for name, _, nan in kernels if nan == "drops")
