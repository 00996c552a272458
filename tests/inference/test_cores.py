"""The cores that a process may use: affinity, and quotas of cgroups of both versions."""

import os
from pathlib import Path

import pytest

from cutout.inference.cores import network_threads, usable_cores


@pytest.fixture(autouse=True)
def _on_a_large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def cores(folder: Path, own: str, files: dict[str, str]) -> int:
    """Return the usable cores on a host with these files below its cgroups."""
    (folder / "self").write_text(own)
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    return usable_cores(folder / "cgroup", folder / "self")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 16),
        # the quota of a group above
        ("0::/pod/web\n", {"pod/web/cpu.max": "max 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
        # a container that sees its path on the host, but only its own files
        ("0::/docker/4f2a\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:memory:/\n1:cpu,cpuacct:/pod\n",
            {
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        # both versions at once
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpuset:/\n0::/\n", {"unified/cpu.max": "100000 100000\n"}, 1),
    ],
)
def test_the_smallest_quota_counts(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    assert cores(tmp_path, own, files) == expected


def test_without_cgroups_affinity_counts_and_else_all_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cores(tmp_path, tmp_path / "none") == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path, tmp_path / "none") == 64


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("3", 3), ("2,4", 2), ("99", 99), ("0", None), ("", None), ("many", None), (None, None)],
)
def test_omp_num_threads_counts_before_the_cores(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert network_threads() == (expected or usable_cores())
