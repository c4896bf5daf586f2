"""What the machine has, with where each figure comes from."""

from __future__ import annotations

import os
import platform

from tickertape.machine import INTERESTING, cores, instruction_sets, keep_freed_memory, memory, processor


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


def test_the_processor_has_a_name_and_known_instruction_sets() -> None:
    """The processor is named; instruction sets are listed in a fixed order."""
    found = instruction_sets()
    assert processor()
    assert [name for name in INTERESTING if name in found] == list(found)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    """Under glibc both settings are taken; elsewhere the answer is no."""
    assert (platform.libc_ver()[0] == "glibc") == keep_freed_memory()
