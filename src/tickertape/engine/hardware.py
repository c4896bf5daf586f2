"""The machine's cores, memory, instruction sets and devices, with the source of each value."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tickertape.errors import OptionError

CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni",
               "asimd", "bf16")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Detected:
    """A value and why it is that one."""

    value: int
    reason: str


def choose_device(wanted: str) -> tuple[str, str]:
    """Choose cpu or cuda, with the reason. Raises `OptionError` for a device that is unknown or not present."""
    import ctranslate2

    if wanted not in {"auto", "cpu", "cuda"}:
        raise OptionError("The device must be cpu, cuda or auto.", "device", "invalid_device")
    present = ctranslate2.get_cuda_device_count() > 0
    if wanted == "cuda" and not present:
        raise OptionError("No CUDA device is present; leave the device to auto.", "device", "invalid_device")
    if wanted != "auto":
        return wanted, "as asked"
    return ("cuda", "a CUDA device is present") if present else ("cpu", "no CUDA device is present")


@cache
def keep_freed_memory() -> bool:
    """Let the C library reuse freed memory of the whole process rather than return it to the system.

    The decoder allocates the same large blocks at every step; clearing them took a tenth of the time (docs/log.md).
    Returns False without glibc.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def instruction_sets() -> tuple[str, ...]:
    """The CPU's instruction sets that matter for speed, in a fixed order; empty if the system does not list them."""
    flags = _cpuinfo("flags", "Features").split()
    return tuple(name for name in CPU_FLAGS if name in flags)


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cores() -> Detected:
    """The cores this process may use: its CPU affinity, or the container's quota if that is less."""
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
    """The first of these fields in /proc/cpuinfo; empty outside Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(fields):
                return line.partition(":")[2].strip()
    return ""


def _granted_cores() -> float | None:
    """The container's quota in cores, from either version of control groups."""
    quota, period = (_number(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = map(float, Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split())
    return quota / period if quota and period and quota > 0 else None


def _number(path: str) -> float | None:
    """The number in a file, if there is one."""
    try:
        return float(Path(path).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
