"""How many cores this process may use, in a container often fewer than the host has, and how threads share them."""

import os
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


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


def photo_threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads, each of which runs torch's operators alone.

    A photo's edges are thousands of small operators, and after each one torch's own threads wait for each other without
    giving their cores away. That gains little on an idle host; on a busy one, edges took ten times as long.
    """
    import torch  # here, because what only counts cores does not need it

    return ThreadPoolExecutor(count, "photo", initializer=torch.set_num_threads, initargs=(1,))


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
