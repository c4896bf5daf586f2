"""The lean start of Ray, with small fakes of Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.logs import LOG
from tickertape.cluster import local_ray, stub_agent
from tickertape.errors import EngineError
from tickertape.server.settings import Settings

RAYLET = ["raylet", "--node_id=f00", "--session_dir=/some/where", f"{local_ray.AGENT_FLAG}python agent.py", "--head"]


class FakeRay:
    """A `ray` module of some version; `init` fails so many times and records how each attempt was made."""

    def __init__(self, version: str, failures: int = 0) -> None:
        self.__version__ = version
        self.attempts: list[str] = []
        self.lean = False
        self._failures = failures

    def init(self, **_: Any) -> None:
        self.attempts.append("lean" if self.lean else "ordinary")
        if len(self.attempts) <= self._failures:
            raise RuntimeError("no node")

    def shutdown(self) -> None:
        """Nothing was started."""

    @contextmanager
    def lean_start(self) -> Iterator[None]:
        self.lean = True
        try:
            yield
        finally:
            self.lean = False


def start(monkeypatch: pytest.MonkeyPatch, version: str, failures: int = 0) -> list[str]:
    """The attempts that `local_ray.start` makes with that version of Ray."""
    ray = FakeRay(version, failures)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    monkeypatch.setattr(local_ray, "lean_start", ray.lean_start)
    try:
        local_ray.start(Settings().resolve(), 1, "folder")
    except EngineError:
        ray.attempts.append("EngineError")
    return ray.attempts


def test_the_patched_version_of_ray_starts_lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any patch release of the minor version that was patched gets the lean start."""
    assert ["lean"] == start(monkeypatch, f"{local_ray.PATCHED_VERSION}.7")


@pytest.mark.parametrize("version", ["2.59.1", "2.61.0", "2.600.0", "3.0.0.dev0"])
def test_other_versions_of_ray_start_the_ordinary_way(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of another version is replaced, and one log line names both versions."""
    assert ["ordinary"] == start(monkeypatch, version)
    (line,) = LOG.lines
    facts = json.loads(line)
    assert ("INFO", version) == (facts["severity"], facts["ray"])
    assert facts["lean_with"] == local_ray.PATCHED_VERSION


def test_a_start_that_fails_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last attempt is the ordinary start; when that fails too, the service reports it."""
    assert ["lean", "lean"] == start(monkeypatch, f"{local_ray.PATCHED_VERSION}.0", failures=1)
    expected = ["lean", "lean", "ordinary", "EngineError"]
    assert expected == start(monkeypatch, f"{local_ray.PATCHED_VERSION}.0", failures=3)


def test_the_installed_ray_has_what_the_lean_start_replaces() -> None:
    """With the version that was patched, every replaced function exists, and is restored afterwards."""
    ray = pytest.importorskip("ray")
    if not ray.__version__.startswith(f"{local_ray.PATCHED_VERSION}."):
        pytest.skip("another version of Ray starts the ordinary way")
    from ray._private import node, services

    before = (services.start_ray_process, services.get_node, node.Node.start_api_server, node.Node.start_monitor)
    with local_ray.lean_start():
        during = (services.start_ray_process, services.get_node, node.Node.start_api_server, node.Node.start_monitor)
        assert not set(before) & set(during)
    after = (services.start_ray_process, services.get_node, node.Node.start_api_server, node.Node.start_monitor)
    assert before == after


def started(command: list[str], raylets: list[Any]) -> list[str]:
    """The command that really starts when Ray starts `command`."""
    commands: list[list[str]] = []

    def start_process(words: list[str], kind: str) -> Any:
        commands.append(words)
        return SimpleNamespace(process=kind)

    local_ray._with_stub_agent(start_process, raylets)(command, "raylet")
    return commands[0]


def test_a_raylet_starts_the_stub_agent() -> None:
    """Of a raylet's command only the agent is replaced; the stub gets the session's folder and the node."""
    raylets: list[Any] = []
    changed = started(RAYLET, raylets)
    assert [*RAYLET[:3], RAYLET[4]] == [*changed[:3], changed[4]]
    assert changed[3].startswith(local_ray.AGENT_FLAG)
    assert changed[3].endswith(f"-I -S {stub_agent.__file__} /some/where f00")
    assert ["raylet"] == raylets


def test_other_processes_start_unchanged() -> None:
    """The commands of other processes stay as they are, and only raylets are recorded."""
    raylets: list[Any] = []
    assert ["gcs_server", "--node_id=f00"] == started(["gcs_server", "--node_id=f00"], raylets)
    assert [] == raylets


def test_ray_waits_until_its_node_has_registered() -> None:
    """A node that has not registered yet is polled; a node whose raylet exited is given up."""
    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node": 1}])

    def get_node() -> Any:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    assert {"node": 1} == local_ray._with_retries(get_node, [])()
    answers = iter([RuntimeError("never")])
    exited = SimpleNamespace(poll=lambda: 1)
    with pytest.raises(RuntimeError, match="never"):
        local_ray._with_retries(get_node, [exited])()


def test_the_stub_agent_reports_no_ports_and_exits_with_its_raylet(tmp_path: Path) -> None:
    """It writes the files that a raylet polls for, and exits when its parent has exited."""
    run = "import subprocess, sys, time; a = subprocess.Popen(sys.argv[1:]); print(a.pid, flush=True); time.sleep(600)"
    words = [sys.executable, "-c", run, sys.executable, "-I", "-S", stub_agent.__file__, str(tmp_path), "f00"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().decode().strip()
        files = [tmp_path / f"{name}_f00" for name in stub_agent.PORTS]
        deadline = time.monotonic() + 120
        while not all(file.exists() for file in files) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ["-1"] * 3 == [file.read_text() for file in files]
        assert child.exists()
        parent.kill()
    while child.exists() and "Z" not in (child / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.monotonic() < deadline
