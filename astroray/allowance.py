"""What a process may use of its machine: cores and memory, less where a container has limits.

Linux keeps the limits in control groups. A group's own files and those of every group above count,
and version 1 and 2 name them differently; see `man 7 cgroups`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_bytes", "num_cores"]

_ROOT = Path("/")
"""Where `proc` and `sys` are."""


def num_cores(root: Path = _ROOT) -> int:
    """Cores that this process may keep busy, at least 1; part of a core counts as none."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(int(quota) for quota in _cpu_quotas(root))]))


def memory_bytes(root: Path = _ROOT) -> int:
    """Bytes of memory that this process and its children may use together; 0 where unknown."""
    try:
        of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    limits = [
        *_numbers(root, "", "memory.max"),
        *_numbers(root, "memory", "memory.limit_in_bytes"),
    ]
    return int(min([of_machine, *(limit for limit, *_ in limits if limit > 0)]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores a group may use in each of its periods, for each group that has such a limit."""
    for quota, period in _numbers(root, "", "cpu.max", count=2):
        yield quota / period
    quotas = _numbers(root, "cpu", "cpu.cfs_quota_us")
    periods = _numbers(root, "cpu", "cpu.cfs_period_us")
    for (quota,), (period,) in zip(quotas, periods, strict=False):
        if quota > 0 and period > 0:  # -1 is no limit
            yield quota / period


def _numbers(root: Path, controller: str, name: str, *, count: int = 1) -> Iterator[list[float]]:
    """The numbers in a file of this process's group and of those above it that set a limit.

    `controller` is empty for version 2. A group that cannot be read sets none.
    """
    for folder in _groups(root, controller):
        try:
            values = [float(word) for word in (folder / name).read_text().split()[:count]]
        except (OSError, ValueError):  # not there, or `max`
            continue
        if len(values) == count:
            yield values


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups this process is in, its own first.

    Inside a container the path may be the host's, of which only the last folder is mounted: then
    the mount itself is the group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        names = (controller, controllers) if controller else ("unified", "")
        mounts = [root / "sys/fs/cgroup" / name for name in names]
        mount = next((folder for folder in mounts if folder.is_dir()), None)
        if mount is None:
            continue
        group = mount / path.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))
