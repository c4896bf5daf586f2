"""`python -m tests.chaos [names]`: what may happen to a service, with figures.

    python -m tests.chaos                 everything but c22, about fifteen minutes on two cores
    python -m tests.chaos c1 c26          some
    python -m tests.chaos --small c17     a fiftieth of it, to see that it works
    unshare --net sh -c 'ip link set lo up; python -m tests.chaos c22'

The last line is one JSON object. Exit code 1 if something did not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos import scenarios
from tests.chaos.scenarios import Figures
from tests.support.service import Service

SHARED: dict[str, Callable[[Service, Path], Figures]] = {
    name.partition("_")[0]: getattr(scenarios, name)
    for name in (
        "c1_engine_killed", "c3_api_killed", "c4_proxy_killed", "c5_controller_killed", "c10_poison", "c10audio_poison",
        "c14_half_uploads", "c15_client_leaves", "c17_mixed", "c24_hung", "c26_same_text", "c6_drain",
    )
}  # fmt: skip
ALONE: dict[str, Callable[[], Figures]] = {
    "c6ray": scenarios.c6_grace,
    "c6alone": scenarios.c6_grace_alone,
    "c11": scenarios.c11_overload,
    "c13": scenarios.c13_deadline,
    "c19": scenarios.c19_mutants,
    "c22": scenarios.c22_offline,
}
SMALL: dict[str, dict[str, float]] = {"c11": {"seconds": 3.0}, "c17": {"count": 40}, "c19": {"count": 200}}
FLAGS = ["--engine-replicas", "2", "--api-replicas", "2", "--batch", "4", "--engine-timeout", "3",
         "--audio-seconds-in-flight", "100000", "--max-audio-seconds", "7200"]  # fmt: skip


def main() -> int:
    """Run what is wanted and print a table; the exit code."""
    given = _given()
    sizes = SMALL if given.small else {}
    names = given.names or [*SHARED, *(name for name in ALONE if name != "c22")]
    results: dict[str, Figures] = {}
    shared = [name for name in SHARED if name in names]
    if shared:
        with scenarios.slow_service(0.2, *FLAGS) as (service, folder):
            for name in shared:
                results[name] = _run(name, partial(SHARED[name], **sizes.get(name, {})), service, folder)
    for name in names:
        if name in ALONE:
            results[name] = _run(name, partial(ALONE[name], **sizes.get(name, {})))
    circumstances = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d")}
    sys.stdout.write(json.dumps({"chaos": results, **circumstances}) + "\n")
    return 0 if all(result["passed"] for result in results.values()) else 1


def _given() -> argparse.Namespace:
    known = [*SHARED, *ALONE]
    as_it_stands = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__, formatter_class=as_it_stands)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(known)}; all but c22 unless given")
    parser.add_argument("--small", action="store_true", help="small counts, to see that the commands work")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return given


def _run(name: str, scenario: Callable[..., Figures], *arguments: object) -> Figures:
    try:
        figures = scenario(*arguments)
    except Exception as error:  # noqa: BLE001 - the other scenarios are still wanted
        figures = {"error": f"{type(error).__name__}: {error}"[:200], "passed": False}
    verdict = "passed" if figures["passed"] else "FAILED"
    about = getattr(scenario, "func", scenario).__doc__ or ""
    shown = ", ".join(f"{key} {value}" for key, value in figures.items() if key != "passed")
    sys.stdout.write(f"{name:7} {verdict}  {about}\n                 {shown}\n")
    sys.stdout.flush()
    return figures


if __name__ == "__main__":
    sys.exit(main())
