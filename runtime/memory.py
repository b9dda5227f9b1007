"""Free memory, to refuse what cannot fit before any work."""

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # version 2, as seen from inside a container or a job


def free_memory(device=None) -> float:
    """Return the bytes that can still be allocated on a torch device, or on the host if None.

    On the host it is what the system has available, or what the limit of the container or job
    leaves if that is less.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return min(available_on_host(), left_in_cgroup())


def available_on_host() -> int:
    try:
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def left_in_cgroup() -> float:
    """Return what the memory limit leaves, files in the cache counted as free; inf without one."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        rows = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(rows["inactive_file"]) + int(rows["active_file"]))
    except (OSError, KeyError, ValueError):  # no limit ("max"), or no such files
        return float("inf")
