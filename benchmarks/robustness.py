"""Run all service checks that need a quiet machine, one after the other, and print a table of the outcomes.

    python -m benchmarks.robustness --results benchmarks/results         # about half an hour on two cores
    python -m benchmarks.robustness overload mixed                       # some steps
    python -m benchmarks.robustness --small                              # check that the commands work

Each step is a separate command with a time limit. The program prints the command, and ends processes that it leaves
behind. The last line of a step's output is a JSON object of its figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.workers import ROOT, commit, described, machine

OFFLINE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

FAULTS = ("c1", "c3", "c4", "c5", "c6", "c10", "c10audio", "c14", "c15", "c24", "c26")


@dataclass(frozen=True)
class Step:
    """A Python command, what it shows, its time limit in seconds, and its flags for `--small`."""

    shows: str
    command: list[str]
    limit: float = 240.0
    small: tuple[str, ...] = ("--small",)
    before: tuple[str, ...] = ()


def steps(checkpoint: Path) -> dict[str, Step]:
    """All steps, in order. `checkpoint` has the base shape."""
    service = ["-m", "benchmarks.service", str(checkpoint), "--only", "throughput", "--modes"]
    few = ("--rounds", "1", "--windows", "48")
    return {
        "overload": Step("goal 8, C11: ten times the engines' capacity", ["-m", "tests.chaos", "c11"]),
        "throughput": Step("throughput over HTTP, without Ray, against the engine", [*service, "alone"], small=few),
        "throughput-ray": Step("throughput over HTTP, with Ray, against the engine", [*service, "ray"], small=few),
        "deadline": Step("C13: a deadline while every engine is busy", ["-m", "tests.chaos", "c13"]),
        "grace": Step("goal 7: requests that outlast the grace period, with Ray and without",
                      ["-m", "tests.chaos", "c6ray", "c6alone"]),
        "mixed": Step("goal 12, C17: 2,000 mixed requests", ["-m", "tests.chaos", "c17"]),
        "faults": Step("C1, C3 to C6, C10, C14, C15, C24, C26: kills, hangs, and disconnecting clients",
                       ["-m", "tests.chaos", *FAULTS], limit=900.0),
        "offline": Step("C22: no network", ["-m", "tests.chaos", "c22"], before=tuple(OFFLINE)),
        "mutants": Step("goal 5, C19: 10,000 mutants over HTTP", ["-m", "tests.chaos", "c19"], limit=1200.0),
        "media": Step("goal 3: references to files and the network", ["-m", "benchmarks.limits", "--only", "media"],
                      small=()),
        "bombs": Step("goal 2, C9: bombs, alone and fifty at once", ["-m", "benchmarks.limits", "--only", "bombs"],
                      small=()),
        "declared": Step("goal 10: a declared gigabyte", ["-m", "benchmarks.limits", "--only", "declared"], small=()),
    }  # fmt: skip


def run(step: Step, small: bool) -> dict[str, Any]:
    """Run a step; return its figures and outcome."""
    command = [*step.before, sys.executable, *step.command, *(step.small if small else ())]
    print(f"\n{' '.join(command)}", flush=True)
    begun = time.monotonic()
    late = False
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, cwd=ROOT, start_new_session=True)
        try:
            process.wait(step.limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            end(process)
        output.seek(0)
        lines = output.read().splitlines()
    print("\n".join(lines), flush=True)
    figures = _figures(lines)
    found = {"shows": step.shows, "seconds": round(time.monotonic() - begun), "figures": figures}
    return {**found, "late": late, "passed": not late and process.returncode == 0 and _goals_met(figures)}


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a step and its child processes."""
    below = []
    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for each in below:
        with suppress(psutil.Error):
            each.kill()


def _figures(lines: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(lines[-1])
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def _goals_met(figures: dict[str, Any]) -> bool:
    """`benchmarks.limits` lists its goals; the other commands use their exit code."""
    return bool(figures) and all(goal["met"] for goal in figures.get("goals", []))


def report(found: dict[str, dict[str, Any]], where: Path | None) -> None:
    """Print a table; write it to `where` with the figures, the machine and the commit."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    rows = [
        f"| {name} | {one['shows']} | {'passed' if one['passed'] else 'NOT PASSED'}{', late' if one['late'] else ''} "
        f"| {one['seconds']} s | {_shown(one['figures'])} |"
        for name, one in found.items()
    ]
    table = ["| step | shows | verdict | took | figures |", "|---|---|---|---|---|", *rows]
    print("\n" + "\n".join(table))
    load = os.getloadavg()[0]
    document = {"date": now, "commit": commit(), "machine": machine(), "load_average": load, "steps": found}
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        (where / f"robustness-{now[:10]}.json").write_text(json.dumps(document, indent=1) + "\n")
        about = (
            f"{described(document['machine'])} Commit {document['commit'][:12]}, load average {load:.1f} at the end."
        )
        page = "\n".join([f"# Robustness, {now}", "", about, "", *table, ""])
        (where / f"robustness-{now[:10]}.md").write_text(page)
    print(json.dumps(document))


def _shown(figures: dict[str, Any]) -> str:
    """The main figures, for one table cell."""
    if "goals" in figures:
        return "; ".join(f"{goal['goal']}: {goal['value']}" for goal in figures["goals"])
    named = figures.get("chaos") or {name: one for name, one in figures.items() if isinstance(one, dict)}
    return "; ".join(f"{key} {value}" for one in named.values() for key, value in one.items() if key != "passed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="STEP", help=f"of {', '.join(steps(Path()))}; default: all")
    parser.add_argument("--small", action="store_true", help="small counts, to check that the commands work")
    parser.add_argument("--results", type=Path, help="folder for JSON and table, such as benchmarks/results")
    parser.add_argument("--checkpoint", type=Path, help="for throughput; default: random weights of the base shape")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # prepared models are deleted with the folder
        known = steps(arguments.checkpoint.absolute() if arguments.checkpoint else Path(folder, "base"))
        if unknown := set(arguments.names) - set(known):
            parser.error(f"no such step: {', '.join(sorted(unknown))}")
        chosen = {name: step for name, step in known.items() if not arguments.names or name in arguments.names}
        if not arguments.checkpoint and any(name.startswith("throughput") for name in chosen):
            from tests.support.checkpoint_factory import make_checkpoint

            make_checkpoint(Path(folder, "base"), "base")
        found = {name: run(step, arguments.small) for name, step in chosen.items()}
    report(found, arguments.results)
    return 0 if all(one["passed"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
