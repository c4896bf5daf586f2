"""Time and memory of a service start, process by process.

    python -m benchmarks.start CHECKPOINT [--rounds 3] [--no-ray] [--settle 5] [-- serve's own flags]

Watches `tickertape serve` from outside until `/readyz` succeeds. For each process it records when it started, took its
role and last used CPU, and its CPU seconds. On a busy machine, compare the CPU seconds. Afterwards it measures idle
memory: the proportional set size of each process, which counts shared pages once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.service import Service, command_line, descendants, pss, started

TICK = os.sysconf("SC_CLK_TCK")
EVERY = 0.05  # seconds between samples
ROLES = {  # pattern in the command line: role; the first match counts
    r"tickertape\.decoder": "audio decoder",
    r"ray::ServeReplica:(\S+)": "replica {}",
    r"ray::(ServeController|ProxyActor|IDLE)\S*": "{}",
    r"ray::(\S+)": "{}",
    r"gcs_server": "gcs_server",
    r"raylet/raylet": "raylet",
    r"dashboard/agent\.py|DashboardAgent": "dashboard agent",
    r"runtime_env/agent|RuntimeEnvAgent": "runtime env agent",
    r"dashboard/dashboard\.py|ray-dashboard": "dashboard",
    r"log_monitor\.py": "log monitor",
    r"autoscaler/\S*monitor\.py": "autoscaler monitor",
    r"default_worker\.py": "worker, starting",
    r"tickertape serve": "serve",
}


@dataclass
class Life:
    """One observed process. Times are seconds since the service was started."""

    born: float
    role: str = ""
    settled: float = 0.0  # when its role last changed
    worked: float = 0.0  # when its CPU time last grew by more than a tick
    cpu: float = 0.0
    roles: list[str] = field(default_factory=list)


@dataclass
class Start:
    """One start: the time until ready, its processes, log lines and memory."""

    ready: float
    lives: dict[int, Life]
    events: list[tuple[float, str]]
    memory: dict[int, float]  # MiB by process


def observe(service: Service, begun: float, settle: float) -> Start:
    """Watch one start until it is ready; measure memory `settle` seconds later."""
    lives: dict[int, Life] = {}
    events: list[tuple[float, str]] = []
    while not _ready(service):
        _look(service, begun, lives)
        _read(service, begun, events)
        if service.process.poll() is not None:
            raise SystemExit("\n".join(service.lines[-40:]))
        time.sleep(EVERY)
    ready = time.monotonic() - begun
    _look(service, begun, lives)
    _read(service, begun, events)
    time.sleep(settle)
    memory = {pid: pss(pid) for pid in (service.process.pid, *descendants(service.process.pid))}
    return Start(ready, lives, events, memory)


def _ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=20).status_code == 200
    except httpx.HTTPError:
        return False


def _look(service: Service, begun: float, lives: dict[int, Life]) -> None:
    """Record the role and CPU time of every process."""
    now = time.monotonic() - begun
    for pid in (service.process.pid, *descendants(service.process.pid)):
        life = lives.setdefault(pid, Life(now))
        role, cpu = role_of(command_line(pid)), cpu_seconds(pid)
        if role and role != life.role:
            life.role, life.settled = role, now
            life.roles.append(role)
        if cpu is not None and cpu > life.cpu:
            if cpu > life.cpu + 1.5 / TICK:
                life.worked = now
            life.cpu = cpu


def _read(service: Service, begun: float, events: list[tuple[float, str]]) -> None:
    """Record when each log line of the service arrived."""
    now = time.monotonic() - begun
    for line in service.lines[len(events) :]:
        said = re.search(r'"message":"([^"]*)"', line)
        events.append((now, said[1] if said else line[:80]))


def role_of(command: str) -> str:
    """The role of a process, from its command line."""
    for pattern, name in ROLES.items():
        if found := re.search(pattern, command):
            return name.format(*found.groups())
    return Path(command.partition(" ")[0]).name


def cpu_seconds(pid: int) -> float | None:
    """CPU seconds of a process so far, user and system; None after its exit."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICK


def table(start: Start) -> Iterator[str]:
    """The start as rows, one per process, in order of their start."""
    yield f"{'process':34}{'start s':>8}{'role s':>8}{'busy to s':>10}{'cpu s':>8}{'MiB':>8}"
    for pid, life in sorted(start.lives.items(), key=lambda item: item[1].born):
        memory = start.memory.get(pid, 0.0)
        yield f"{life.role[:33]:34}{life.born:8.1f}{life.settled:8.1f}{life.worked:10.1f}{life.cpu:8.2f}{memory:8.0f}"
    for pid, mebibytes in start.memory.items():
        if pid not in start.lives and mebibytes:
            yield f"{role_of(command_line(pid)) or '(later)':34}{'':34}{mebibytes:8.0f}"
    for when, message in start.events:
        yield f"{when:8.1f} s  {message}"
    cpu, memory = total_cpu(start), sum(start.memory.values())
    idle = f"idle {memory:.0f} MiB in {len(start.memory)} processes"
    yield f"ready after {start.ready:.1f} s; {cpu:.1f} s of CPU time; {idle}"


def total_cpu(start: Start) -> float:
    """CPU seconds of all processes until ready."""
    return sum(life.cpu for life in start.lives.values())


def measure(checkpoint: Path, rounds: int, flags: Sequence[str], settle: float) -> list[Start]:
    """Measure several starts and print each."""
    starts = []
    for _ in range(rounds):
        begun = time.monotonic()
        with started("--model", f"demo={checkpoint}", *flags, ready=False) as service:
            start = observe(service, begun, settle)
            print("\n".join(table(start)), flush=True)
        starts.append(start)
    return starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--settle", type=float, default=5.0)
    parser.add_argument("flags", nargs="*", help="further flags of `tickertape serve`, after --")
    arguments = parser.parse_args()
    flags = [*(["--no-ray"] if arguments.no_ray else []), *arguments.flags]
    starts = measure(arguments.checkpoint.absolute(), arguments.rounds, flags, arguments.settle)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(json.dumps({
        "benchmark": "start", "flags": flags, "ready_s": [round(start.ready, 1) for start in starts],
        "ready_s_median": round(statistics.median(start.ready for start in starts), 1),
        "cpu_s": [round(total_cpu(start), 1) for start in starts],
        "idle_mib": [round(sum(start.memory.values())) for start in starts],
        "processes": [len(start.memory) for start in starts],
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "commit": commit,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
