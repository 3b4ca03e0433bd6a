"""The CPU cores that this process and its children may use, and how long quotas have stopped them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from litmeter.system.memory import CGROUP

OWN_CGROUPS = Path("/proc/self/cgroup")


def allowed_cpus() -> set[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def available_cores(root: Path = CGROUP, own: Path = OWN_CGROUPS) -> float:
    """Number of cores that this process may use: its CPUs, or the smallest quota of its cgroups."""
    quotas = (quota for group in _cgroups(root, own) for quota in _quota(group))
    return min([float(len(allowed_cpus())), *quotas])


def whole_cores() -> int:
    """Number of processes that can have a core each, at least one."""
    return max(1, int(available_cores()))


def throttled_s(root: Path = CGROUP, own: Path = OWN_CGROUPS) -> float:
    """Seconds for which CPU quotas have stopped the processes of this process's cgroups; 0 without quotas."""
    total_s = 0.0
    for group in _cgroups(root, own):
        with suppress(OSError):
            words = (group / "cpu.stat").read_text().split()
            stat = dict(zip(words[::2], words[1::2], strict=False))
            total_s += int(stat.get("throttled_usec", 0)) / 1e6 + int(stat.get("throttled_time", 0)) / 1e9
    return total_s


def _cgroups(root: Path, own: Path) -> Iterator[Path]:
    """Folders of the cgroups, version 1 or 2, whose CPU quotas hold for this process.

    In a container these may have the host's names, and only the topmost folder exists.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = root / "cpu" if controllers else root
            group = top / path.strip("/")
            yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _quota(group: Path) -> Iterator[float]:
    """A cgroup's quota in cores, if any."""
    with suppress(OSError, ValueError):  # another version, or "max"
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:  # -1: none
            yield quota_us / int((group / "cpu.cfs_period_us").read_text())
