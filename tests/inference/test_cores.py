"""The cores that a process may use: affinity, and quotas of cgroups of both versions."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cutout.inference import removal as removal_module
from cutout.inference.backends.runners import TorchRunner
from cutout.inference.cores import in_parts, multiplies_bfloat16, network_threads, usable_cores
from cutout.inference.matting.pipeline import Matte, cut_out
from tests.fakes import fake_engine, photo_bytes


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
    ("cpuinfo", "expected"),
    [
        ("processor: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("processor: 0\nflags\t\t: fpu avx512f avx512_bf16\nmodel name: amx_bf16\n", False),
        (None, False),
    ],
)
def test_units_for_bfloat16_are_a_flag_of_the_processor(
    tmp_path: Path, cpuinfo: str | None, expected: bool
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is expected


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


@pytest.fixture
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let new threads run torch on three threads, as if this host had so many cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_photos_run_torchs_operators_on_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counting(*arguments: Any, **options: Any) -> Matte:
        counts.append(torch.get_num_threads())
        return cut_out(*arguments, **options)

    monkeypatch.setattr(removal_module, "cut_out", counting)
    with fake_engine() as engine:
        engine.remove(photo_bytes())
    assert counts == [1]


@pytest.mark.usefixtures("_three_threads")
def test_networks_in_torch_run_on_all_that_the_process_may_use() -> None:
    """Even in a thread that used one before."""
    counts = []

    class Counting(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            counts.append(torch.get_num_threads())
            return pixels

    runner = TorchRunner(Counting(), torch.device("cpu"))
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        thread.submit(runner.run, torch.zeros(1, 3, 4, 4)).result()
    assert counts == [3]


CPU = torch.device("cpu")


@pytest.mark.usefixtures("_three_threads")
def test_parts_are_shared_with_helpers_that_run_torch_on_one_thread() -> None:
    meeting = threading.Barrier(3)

    def work(part: int) -> tuple[int, str, int]:
        if part < 3:
            meeting.wait(60)  # three threads must be at work at once
        return part, threading.current_thread().name, torch.get_num_threads()

    results = in_parts(work, range(20), CPU)
    assert [part for part, *_ in results] == list(range(20))
    threads = {name: count for _, name, count in results}
    assert len(threads) == 3
    assert {count for name, count in threads.items() if name.startswith("helper")} == {1}


@pytest.mark.usefixtures("_three_threads")
def test_on_a_gpu_the_calling_thread_does_everything() -> None:
    here = threading.current_thread().name

    def work(_: int) -> str:
        time.sleep(0.01)  # for long enough that helpers would take some of the parts
        return threading.current_thread().name

    assert in_parts(work, range(9), torch.device("cuda")) == [here] * 9


@pytest.mark.usefixtures("_three_threads")
def test_while_helpers_are_busy_the_calling_thread_does_everything() -> None:
    go_on, busy = threading.Event(), threading.Barrier(4)

    def hold(_: int) -> None:
        busy.wait(60)
        go_on.wait(60)

    with ThreadPoolExecutor(1) as other:
        occupied = other.submit(in_parts, hold, range(3), CPU)
        busy.wait(60)
        assert in_parts(lambda part: part * 2, range(5), CPU) == [0, 2, 4, 6, 8]
        assert not occupied.done()
        go_on.set()
        occupied.result()


@pytest.mark.usefixtures("_three_threads")
@pytest.mark.parametrize("failing", ["calling", "helper"])
def test_after_an_error_no_part_is_begun_and_none_goes_on(failing: str) -> None:
    meeting, begun, ended = threading.Barrier(3), [], []

    def work(part: int) -> None:
        begun.append(part)
        if part < 3:
            meeting.wait(60)
            if threading.current_thread().name.startswith("helper") == (failing == "helper"):
                raise MemoryError(failing)
        ended.append(part)

    with pytest.raises(MemoryError, match=failing):
        in_parts(work, range(3) if failing == "helper" else range(4), CPU)
    assert len(ended) == len(begun) - (2 if failing == "helper" else 1)
