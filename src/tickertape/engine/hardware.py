"""What this machine has: cores, memory, instruction sets, each with where the value comes from."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni",
               "asimd", "bf16")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Detected:
    """A value and why it is that one."""

    value: int
    reason: str


@cache
def keep_freed_memory() -> bool:
    """Let the C library reuse large blocks rather than give them back to the system after each operation.

    The decoder frees and asks for the same blocks at every step; without this the system clears them anew each time,
    which took a tenth of the whole (docs/log.md). For all of the process, once. False where there is no glibc.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that matter for speed here, in a fixed order; empty where the system does not tell."""
    flags = _cpuinfo("flags", "Features").split()
    return tuple(name for name in CPU_FLAGS if name in flags)


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cores() -> Detected:
    """The processor cores this process may use: what it is bound to, or what its container is granted."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = _granted_cores()
    if granted is not None and granted < bound:
        return Detected(max(1, int(granted)), f"the container is granted {granted:g} of {bound} cores")
    return Detected(bound, f"{bound} cores are visible")


def memory() -> Detected:
    """The bytes of memory this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number("/sys/fs/cgroup/memory.max") or _number("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if limit is not None and limit < total:
        return Detected(int(limit), "the container's limit")
    return Detected(total, "the machine's memory")


@cache
def _cpuinfo(*fields: str) -> str:
    """What Linux says of the first processor in the first of these fields; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(fields):
                return line.partition(":")[2].strip()
    return ""


def _granted_cores() -> float | None:
    """The container's quota in cores, from either version of control groups."""
    try:
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").strip().partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us = _number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period_us = _number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: str) -> float | None:
    """The number in a file, if there is one."""
    try:
        return float(Path(path).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
