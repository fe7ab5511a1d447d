"""Finds how many CPUs this process may use, by its affinity and the quota of its cgroups."""

from __future__ import annotations

import os
from collections.abc import Callable

_CGROUPS = "/sys/fs/cgroup"


def usable_cpus() -> float:
    """How many CPUs there are to use; a fraction if a quota says so. It may change at any time.

    Sources: sched_setaffinity(2); ``cpu.max`` in the kernel's Documentation/admin-guide/cgroup-v2,
    ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` in Documentation/scheduler/sched-bwc.
    """
    return min(len(os.sched_getaffinity(0)), _quota())


def _quota() -> float:
    """CPUs by the strictest quota of all cgroups of this process, inf without one."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return float("inf")
    quotas = [float("inf")]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            quotas += _quotas_above(_CGROUPS, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            quotas += _quotas_above(f"{_CGROUPS}/{controllers}", path, _quota_v1)
            quotas += _quotas_above(f"{_CGROUPS}/cpu", path, _quota_v1)
    return min(quotas)


def _quotas_above(root: str, path: str, read: Callable[[str], float]) -> list[float]:
    """What *read* finds in the cgroup *path* and in those above it."""
    found = []
    directory = os.path.normpath(f"{root}/{path.strip('/')}")
    while directory.startswith(root):
        try:
            found.append(read(directory))
        except (OSError, ValueError, ZeroDivisionError):
            pass  # not mounted here, or in a cgroup namespace above ours
        if directory == root:
            break
        directory = os.path.dirname(directory)
    return found


def _quota_v2(directory: str) -> float:
    with open(f"{directory}/cpu.max") as file:
        quota, period = file.read().split()
    return float("inf") if quota == "max" else int(quota) / int(period)


def _quota_v1(directory: str) -> float:
    with open(f"{directory}/cpu.cfs_quota_us") as file:
        quota = int(file.read())
    if quota < 0:
        return float("inf")
    with open(f"{directory}/cpu.cfs_period_us") as file:
        return quota / int(file.read())
