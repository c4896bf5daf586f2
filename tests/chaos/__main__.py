"""`python -m tests.chaos [names]`: what may happen to a service, with figures.

    python -m tests.chaos                 everything, about ten minutes on two cores
    python -m tests.chaos c1 c26          some
    unshare --net sh -c 'ip link set lo up; python -m tests.chaos c22'

The last line is one JSON object. Exit code 1 if something did not pass.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import scenarios
from tests.chaos.scenarios import Figures
from tests.service import Service

SHARED: dict[str, Callable[[Service, Path], Figures]] = {
    name.partition("_")[0]: getattr(scenarios, name)
    for name in (
        "c1_engine_killed", "c3_api_killed", "c4_proxy_killed", "c5_controller_killed", "c10_poison",
        "c14_half_uploads", "c15_client_leaves", "c17_mixed", "c24_hung", "c26_same_text", "c6_drain",
    )
}  # fmt: skip
ALONE: dict[str, Callable[[], Figures]] = {
    "c11": scenarios.c11_overload,
    "c13": scenarios.c13_deadline,
    "c22": scenarios.c22_offline,
}
FLAGS = ["--engine-replicas", "2", "--api-replicas", "2", "--batch", "4", "--engine-timeout", "3",
         "--audio-seconds-in-flight", "100000", "--max-audio-seconds", "7200"]  # fmt: skip


def main(wanted: list[str]) -> int:
    """Run what is wanted and print a table; the exit code."""
    names = wanted or [*SHARED, *(name for name in ALONE if name != "c22")]
    results: dict[str, Figures] = {}
    shared = [name for name in SHARED if name in names]
    if shared:
        with scenarios.slow_service(0.2, *FLAGS) as (service, folder):
            for name in shared:
                results[name] = _run(name, SHARED[name], service, folder)
    for name in names:
        if name in ALONE:
            results[name] = _run(name, ALONE[name])
    circumstances = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps({"chaos": results, **circumstances}) + "\n")
    return 0 if all(result["passed"] for result in results.values()) else 1


def _run(name: str, scenario: Callable[..., Figures], *arguments: object) -> Figures:
    try:
        figures = scenario(*arguments)
    except Exception as error:  # noqa: BLE001 - the other scenarios are still wanted
        figures = {"error": f"{type(error).__name__}: {error}"[:200], "passed": False}
    verdict = "passed" if figures["passed"] else "FAILED"
    shown = ", ".join(f"{key} {value}" for key, value in figures.items() if key != "passed")
    sys.stdout.write(f"{name:4} {verdict}  {scenario.__doc__ or ''}\n              {shown}\n")
    sys.stdout.flush()
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
