"""How many cores this process may use, in a container often fewer than the host has, and how threads share them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return how many cores this process may use, at least 1: by its affinity, and by the quotas of its cgroups.

    `cgroups` is where cgroups are mounted, `own` the file that names those of this process. Part of a core counts as
    a whole one.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([affinity or 1, *map(ceil, _quotas(cgroups, own))]))


def network_threads() -> int:
    """Return how many threads a network should run on: `OMP_NUM_THREADS` if it is set, else one on each usable core."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(limit) if limit.isdecimal() and int(limit) > 0 else usable_cores()


def multiplies_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor has units for matrices of bfloat16 (AMX), which torch uses.

    There networks run twice as fast in bfloat16 as in float32, and masks differ by a few levels of 255.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return False
    return any(line.startswith("flags") and "amx_bf16" in line.split() for line in lines)


def photo_threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads, each of which runs torch's operators alone.

    A photo's edges are thousands of small operators, and after each one torch's own threads wait for each other without
    giving their cores away. That gains little on an idle host; on a busy one, edges took ten times as long.
    """
    return _threads(count, "photo")


def in_parts(work: Callable[[Part], Result], parts: Iterable[Part], device: "torch.device") -> list[Result]:
    """Return the result of `work` for each part, in order, computed by the calling thread and by those of idle cores.

    Parts are independent pieces of one photo's work, of a millisecond or more each. The threads that help are the same
    for all photos, one for each core but one: if others keep them busy, the calling thread does everything. On a GPU it
    always does, because its work belongs on its own stream.
    """
    parts = list(parts)
    cores = network_threads() if device.type == "cpu" and len(parts) > 1 else 1
    if cores == 1:
        return [work(part) for part in parts]
    left, taking = iter(range(len(parts))), Lock()

    def work_through() -> list[tuple[int, Result]]:
        done: list[tuple[int, Result]] = []
        while True:
            with taking:
                index = next(left, None)
            if index is None:
                return done
            done.append((index, work(parts[index])))

    helpers = _helpers(cores - 1)
    asked = [helpers.submit(work_through) for _ in range(min(cores, len(parts)) - 1)]
    try:
        results = work_through()
    finally:
        with taking:
            left = iter(())  # after an error, no other part is begun
        wait(helping := [one for one in asked if not one.cancel()])
    for one in helping:
        results += one.result()
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return _threads(count, "helper")


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    import torch  # here, because what only counts cores does not need it

    def use_one() -> None:
        # A thread's first operator would set its number anew, to the one that any thread has set last.
        torch.get_num_threads()
        torch.set_num_threads(1)

    return ThreadPoolExecutor(count, name, initializer=use_one)


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """Return the quotas, in cores, of this process's cgroups and of all above them, of version 1 and 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return []
    quotas = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            mounts = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [cgroups / "cpu", cgroups / controllers]
        else:
            continue
        # Within a container the path may be that on the host, which does not exist there; its own is then the mount.
        parts = [part for part in path.split("/") if part]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                quotas += _quota_of(mount.joinpath(*parts[:depth]))
    return quotas


def _quota_of(cgroup: Path) -> list[float]:
    """Return the quota of one cgroup as a list of one, or nothing if it has none."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return []
    limited = quota.isdecimal() and int(quota) > 0  # "max" and -1 are no quota
    return [int(quota) / int(period)] if limited else []
