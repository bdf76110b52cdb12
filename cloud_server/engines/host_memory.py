"""How much memory this process may still take."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that can be used without swapping, within the container's limit if there is one.

    Where the system does not say what is available, half of what is installed.
    """
    host_bytes = _available_on_host(meminfo)
    if host_bytes is None:
        host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group_bytes = _available_in_group(cgroup)
    return host_bytes if group_bytes is None else min(host_bytes, group_bytes)


def _available_on_host(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _available_in_group(cgroup: Path) -> int | None:
    """What cgroup v2 leaves; file pages count as free, since the kernel drops them first."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        current = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():
        return None
    numbers = dict(line.split() for line in statistics)
    return max(0, int(limit) - current + int(numbers.get("inactive_file", 0)))
