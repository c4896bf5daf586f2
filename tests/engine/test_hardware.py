"""What the machine has, with where each figure comes from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from tickertape.engine import hardware
from tickertape.engine.hardware import CPU_FLAGS, cores, instruction_sets, keep_freed_memory, memory, processor


def test_cores_are_those_this_process_may_use() -> None:
    """At least one core, at most those it is bound to, with a reason."""
    found = cores()
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= found.value <= bound
    assert "cores" in found.reason


def test_memory_is_a_limit_or_the_machines() -> None:
    """Memory is positive and says whose it is."""
    found = memory()
    assert found.value > 0
    assert found.reason in {"the container's limit", "the machine's memory"}


TWO = {"memory.max": "1073741824", "cpu.max": "150000 100000"}
ONE = {
    "memory/memory.limit_in_bytes": "1073741824",
    "cpu/cpu.cfs_quota_us": "150000",
    "cpu/cpu.cfs_period_us": "100000",
}
NONE = {"memory.max": "max", "cpu.max": "max 100000"}


@pytest.mark.parametrize(("files", "limited"), [(TWO, True), (ONE, True), (NONE, False)], ids=["two", "one", "none"])
def test_a_containers_limits_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limited: bool
) -> None:
    """Control groups of either version tell what a container may use; a part of a core is left unused."""
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / path.removeprefix("/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    expected = (1, "the container is granted 1.5 of 4 cores") if limited else (4, "4 cores are visible")
    assert expected == (cores().value, cores().reason)
    assert limited == (memory().value == 2**30) == (memory().reason == "the container's limit")


def test_the_processor_has_a_name_and_known_instruction_sets() -> None:
    """The processor is named; instruction sets are listed in a fixed order."""
    found = instruction_sets()
    assert processor()
    assert [name for name in CPU_FLAGS if name in found] == list(found)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    """Under glibc both settings are taken; elsewhere the answer is no."""
    assert (platform.libc_ver()[0] == "glibc") == keep_freed_memory()
