"""What is done to Ray's start, with small stand-ins for Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tickertape import agent, node

RAYLET = ["raylet", "--node_id=f00", "--session_dir=/some/where", f"{node.AGENT}python dashboard/agent.py", "--head"]


def begun(command: list[str], *, lean: bool, raylets: list[Any] | None = None) -> list[str]:
    """The command with which a process is really started."""
    seen: list[list[str]] = []

    def begin(words: list[str], kind: str) -> Any:
        seen.append(words)
        return SimpleNamespace(process=kind)

    node._beginning(begin, [] if raylets is None else raylets, lean)(command, "raylet")
    return seen[0]


def test_a_raylet_is_given_our_agent() -> None:
    """Of a raylet's command only the agent is replaced; it is told the session's folder and the node."""
    changed = begun(RAYLET, lean=True)
    assert [*RAYLET[:3], RAYLET[4]] == [*changed[:3], changed[4]]
    assert changed[3].startswith(node.AGENT)
    assert changed[3].endswith(f"-I -S {agent.__file__} /some/where f00")


def test_everything_else_starts_as_it_did() -> None:
    """Other processes, and a raylet in Ray's own way, are started with their own words; raylets are noted."""
    raylets: list[Any] = []
    assert ["gcs_server", "--node_id=f00"] == begun(["gcs_server", "--node_id=f00"], lean=True, raylets=raylets)
    assert [] == raylets
    assert begun(RAYLET, lean=False, raylets=raylets) == RAYLET
    assert ["raylet"] == raylets


def test_the_node_is_asked_for_again() -> None:
    """A node that has not registered yet is asked for until it has; one whose raylet died is given up."""
    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node": 1}])

    def ask() -> Any:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    assert {"node": 1} == node._asking(ask, [])()
    answers = iter([RuntimeError("never")])
    dead = SimpleNamespace(poll=lambda: 1)
    with pytest.raises(RuntimeError, match="never"):
        node._asking(ask, [dead])()


def test_what_a_later_ray_lacks_is_left_alone() -> None:
    """Only what is there is replaced, and it is back afterwards, whatever happened."""
    owner = SimpleNamespace(known=1)
    during: dict[str, Any] = {}

    def fail() -> None:
        with node._replaced(owner, {"known": print, "unknown": print}):
            during.update(vars(owner))
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert ({"known": print}, {"known": 1}) == (during, vars(owner))


def test_our_agent_has_no_ports_and_leaves_with_its_raylet(tmp_path: Path) -> None:
    """It writes what a raylet waits for, and ends when its parent has ended."""
    run = "import subprocess, sys, time; a = subprocess.Popen(sys.argv[1:]); print(a.pid, flush=True); time.sleep(600)"
    words = [sys.executable, "-c", run, sys.executable, "-I", "-S", agent.__file__, str(tmp_path), "f00"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().decode().strip()
        files = [tmp_path / f"{name}_f00" for name in agent.PORTS]
        until = time.monotonic() + 120
        while not all(file.exists() for file in files) and time.monotonic() < until:
            time.sleep(0.01)
        assert ["-1"] * 3 == [file.read_text() for file in files]
        assert child.exists()
        parent.kill()
    while child.exists() and "Z" not in (child / "status").read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert time.monotonic() < until
